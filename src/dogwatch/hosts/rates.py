"""Rates from counters that may reset, wrap, appear and vanish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")


class Rates(Generic[K]):
    """Per-second rates of counters by key, between the last two samples.

    A key that is new has no rate yet. A counter that went down was reset: its rate starts over. Two samples at the
    same instant change nothing.
    """

    def __init__(self) -> None:
        self.by_key: dict[K, tuple[float, ...]] = {}
        self._last: dict[K, tuple[float, ...]] = {}
        self._last_s = 0.0

    def update(self, monotonic_s: float, counters: dict[K, tuple[float, ...]]) -> None:
        """Take the newest counters. Keys that are absent are forgotten."""
        elapsed_s = monotonic_s - self._last_s
        if self._last and elapsed_s <= 0:
            return
        last = self._last
        self.by_key = {}
        for key, values in counters.items():
            before = last.get(key)
            if before is None or len(before) != len(values):
                continue
            grown = tuple([(new - old) / elapsed_s for new, old in zip(values, before, strict=True)])
            if min(grown) >= 0:
                self.by_key[key] = grown
        self._last = counters
        self._last_s = monotonic_s

    def total(self, index: int, keys: Iterable[K]) -> float | None:
        """Return the sum of one rate over keys; None where none of them has a rate."""
        found = [self.by_key[key][index] for key in keys if key in self.by_key]
        return sum(found) if found else None
