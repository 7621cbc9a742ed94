"""Deadlines in buckets of 10 ms: adding and dropping one costs a set operation, and only one timer is ever armed."""

from __future__ import annotations

import heapq
from typing import Final, Protocol

BUCKETS_PER_S: Final = 100
NEVER: Final = 1 << 62


class Expiring(Protocol):
    def expire(self) -> None:
        """The time is up. Called at most once for each time it was added."""
        ...


class Deadlines:
    """Which items end when. An item expires at its time or up to 10 ms later, never earlier."""

    __slots__ = ("_buckets", "_order")

    def __init__(self) -> None:
        self._buckets: dict[int, set[Expiring]] = {}
        self._order: list[int] = []

    def add(self, due_s: float, item: Expiring) -> int:
        """Return the bucket, which `discard` wants back."""
        bucket = int(due_s * BUCKETS_PER_S) + 1
        try:
            self._buckets[bucket].add(item)
        except KeyError:
            self._buckets[bucket] = {item}
            heapq.heappush(self._order, bucket)
        return bucket

    def discard(self, bucket: int, item: Expiring) -> None:
        items = self._buckets.get(bucket)
        if items is not None:
            items.discard(item)

    def next_bucket(self) -> int:
        """Return the earliest bucket that holds anything, NEVER for none; forgets empty ones before it."""
        while self._order:
            bucket = self._order[0]
            if self._buckets[bucket]:
                return bucket
            del self._buckets[bucket]
            heapq.heappop(self._order)
        return NEVER

    def expire(self, now_s: float) -> None:
        """Expire what is due, in order of time."""
        now = int(now_s * BUCKETS_PER_S)
        while self._order and self._order[0] <= now:
            bucket = heapq.heappop(self._order)
            items = self._buckets[bucket]
            # One item's end may take another with it, which must not expire: the set stays known while it empties.
            while items:
                items.pop().expire()
            del self._buckets[bucket]

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))
