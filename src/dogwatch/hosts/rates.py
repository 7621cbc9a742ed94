"""Rates from counters that may reset, wrap, appear and vanish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")


class Rates(Generic[K]):
    """Per-second rates of counters by key, between the last two samples.

    A key that is new has no rate yet. A counter that went down was reset: its rate starts over. Two samples at the
    same instant change nothing. Rates are computed when they are asked for.
    """

    def __init__(self) -> None:
        self._rates: dict[K, tuple[float, ...]] | None = {}
        self._before: dict[K, tuple[float, ...]] = {}
        self._now: dict[K, tuple[float, ...]] = {}
        self._now_s = 0.0
        self._elapsed_s = 0.0

    def update(self, monotonic_s: float, counters: dict[K, tuple[float, ...]]) -> None:
        """Take the newest counters. Keys that are absent are forgotten."""
        elapsed_s = monotonic_s - self._now_s
        if self._now and elapsed_s <= 0:
            return
        self._before, self._now = self._now, counters
        self._elapsed_s, self._now_s = elapsed_s, monotonic_s
        self._rates = None

    @property
    def by_key(self) -> Mapping[K, tuple[float, ...]]:
        if self._rates is None:
            self._rates = self._compute()
        return self._rates

    def _compute(self) -> dict[K, tuple[float, ...]]:
        elapsed_s = self._elapsed_s
        rates: dict[K, tuple[float, ...]] = {}
        for key, values in self._now.items():
            before = self._before.get(key)
            if before is None or len(before) != len(values):
                continue
            grown = tuple([(new - old) / elapsed_s for new, old in zip(values, before, strict=True)])
            if min(grown) >= 0:
                rates[key] = grown
        return rates

    def total(self, index: int, keys: Iterable[K]) -> float | None:
        """Return the sum of one rate over keys; None where none of them has a rate."""
        rates = self.by_key
        found = [rates[key][index] for key in keys if key in rates]
        return sum(found) if found else None
