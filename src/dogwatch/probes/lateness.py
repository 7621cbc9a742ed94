"""How late attempts start: a histogram, counted into by every attempt."""

from __future__ import annotations

from typing import Final

from dogwatch.core.metrics import Family

_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LatenessHistogram:
    """How late attempts start, in buckets."""

    __slots__ = ("_counts", "count", "sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self.count = 0
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        place = 0
        for bound_s in _BOUNDS_S:  # nearly always the first or the second
            if seconds <= bound_s:
                break
            place += 1
        self._counts[place] += 1
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
