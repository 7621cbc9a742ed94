"""Whether a number grows steadily. Pure: points in, judgement out.

A leak is a floor that rises. The time is divided into windows and each window's lowest value is its floor, so that a
saw-tooth (caches, collection of garbage, batches) is judged by what stays when it is low. Growth is steady when every
floor is above the one before it, when all of it together stands clear of the noise around the trend, when no single
step makes up most of it, and when the median of all slopes (Theil–Sen, which a third of wild points cannot move)
says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

Points = Sequence[tuple[float, float]]

WINDOWS = 6
# Fewer points in a window say little about its floor.
MIN_POINTS = 4 * WINDOWS
# Growth must be this many times the typical distance of points from the trend.
CLEAR_OF_NOISE = 4.0
# Of all growth, what one step between two windows may make up: more is a jump, not a leak.
LARGEST_STEP_RATIO = 0.6
# Pairs grow with the square; 60 points give 1,770 slopes in about 0.5 ms.
MAX_POINTS = 60


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A steady growth: floors of the first and the last window, median slope, time between first and last point."""

    first: float
    last: float
    per_hour: float
    span_s: float


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """Growth below either is nobody's concern. absolute: in the series' unit. ratio: of the first floor."""

    absolute: float
    ratio: float = 0.1


def thin(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most `limit` points, each the lowest of its neighbours: floors survive."""
    size = -(-len(points) // limit)
    if size <= 1:
        return list(points)
    return [min(points[i : i + size], key=lambda point: point[1]) for i in range(0, len(points), size)]


def slope_per_s(points: Points) -> float:
    """Return the Theil–Sen slope: the median over all pairs of points; 0 for fewer than two."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
        if later[0] > earlier[0]
    ]
    return _median(slopes) if slopes else 0.0


def floors(points: Points) -> list[float]:
    """Return the lowest value in each of WINDOWS equal stretches of time; fewer where a stretch is empty."""
    start_s, end_s = points[0][0], points[-1][0]
    width_s = (end_s - start_s) / WINDOWS
    found: list[float | None] = [None] * WINDOWS
    for at_s, value in points:
        index = min(WINDOWS - 1, int((at_s - start_s) / width_s))
        lowest = found[index]
        found[index] = value if lowest is None else min(lowest, value)
    return [value for value in found if value is not None]


def judge(points: Points, *, min_span_s: float, threshold: Threshold) -> Growth | None:
    """Return the growth if it is steady, None if it is not or if it is too early to say.

    points: (time, value), oldest first. min_span_s: time they must cover.
    """
    if len(points) < MIN_POINTS or points[-1][0] - points[0][0] < min_span_s or min_span_s <= 0:
        return None
    # No floor lies above the last point or below the lowest: nearly every series is done with here.
    if points[-1][1] - min(value for _, value in points) < threshold.absolute:
        return None
    levels = floors(points)
    rise = levels[-1] - levels[0]
    steps = [after - before for before, after in pairwise(levels)]
    if len(levels) < WINDOWS or rise < max(threshold.absolute, threshold.ratio * abs(levels[0])):
        return None
    if min(steps) <= 0 or max(steps) > LARGEST_STEP_RATIO * rise:
        return None
    thinned = thin(points)
    slope = slope_per_s(thinned)
    span_s = points[-1][0] - points[0][0]
    if slope * span_s < 0.5 * rise or rise < CLEAR_OF_NOISE * _noise(thinned, slope):
        return None
    return Growth(first=levels[0], last=levels[-1], per_hour=slope * 3600, span_s=span_s)


def _noise(points: Points, slope: float) -> float:
    """Return the median distance of points from the trend line, scaled to a standard deviation."""
    rests = [value - slope * at_s for at_s, value in points]
    middle = _median(rests)
    return 1.4826 * _median([abs(rest - middle) for rest in rests])


def _median(values: Sequence[float]) -> float:
    """As statistics.median, whose module brings a megabyte along."""
    ranked, half = sorted(values), len(values) // 2
    return ranked[half] if len(values) % 2 else (ranked[half - 1] + ranked[half]) / 2
