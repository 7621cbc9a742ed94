"""How late attempts start: a histogram, counted into by every attempt."""

from __future__ import annotations

from dogwatch.core.metrics import Family

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LatenessHistogram:
    """How late attempts start, in buckets."""

    __slots__ = ("_counts", "count", "sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self.count = 0
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[_place(seconds)] += 1
        self.count += 1
        self.sum_s += seconds

    def family(self, name: str, text: str) -> Family:
        rows: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*_BOUNDS_S, "+Inf"), self._counts, strict=True):
            total += count
            rows.append((f'{name}_bucket{{le="{bound}"}}', float(total)))
        rows += [(f"{name}_sum", self.sum_s), (f"{name}_count", float(self.count))]
        return Family(name, "histogram", text, rows)


def _place(seconds: float) -> int:
    """Return which of _BOUNDS_S is the first that is not exceeded. Written out, compiled code compares numbers only."""
    if seconds <= 0.01:  # nearly always
        if seconds <= 0.0025:
            return 0 if seconds <= 0.001 else 1
        return 2 if seconds <= 0.005 else 3
    if seconds <= 0.25:
        if seconds <= 0.05:
            return 4 if seconds <= 0.025 else 5
        return 6 if seconds <= 0.1 else 7
    if seconds <= 1.0:
        return 8 if seconds <= 0.5 else 9
    if seconds <= 5.0:
        return 10 if seconds <= 2.5 else 11
    return 12
