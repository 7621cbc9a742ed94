"""A bounded channel between tasks of one loop: when it is full, the sender waits, or something is lost and counted."""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """Nothing more can be put; or nothing more will come."""


class WhenFull(enum.Enum):
    BLOCK = "block"  # the sender waits
    DROP_NEWEST = "drop_newest"  # what is being put is lost
    DROP_OLDEST = "drop_oldest"  # what has waited longest is lost


class _Line:
    """Tasks that wait, served first come, first served.

    `called` counts those who were called and have not come yet: what they were called for is reserved for them, so
    that nobody overtakes and nobody finds it gone.
    """

    def __init__(self) -> None:
        self.called = 0
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def call(self) -> bool:
        """Call the first who still waits; return whether there was one."""
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                self.called += 1
                return True
        return False

    def call_all(self) -> None:
        while self.call():
            pass

    async def wait(self, call_next: Callable[[], None]) -> None:
        """Join the line and return when called.

        call_next: calls whoever can go on; run when this one is cancelled, for he may have been called already, and
        others may have joined only because he was before them. For the same reason whoever comes when called must call
        the next himself afterwards.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled():
                self.called -= 1
            call_next()
            raise
        self.called -= 1


class Channel(Generic[T]):
    """At most `capacity` items wait in it.

    accepted: items that got in. dropped: items lost to the bound, of which nobody was told. peak: most that waited.
    Not for several threads: owned by one event loop.
    """

    def __init__(self, capacity: int, *, when_full: WhenFull = WhenFull.BLOCK) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; at least 1")
        self.capacity = capacity
        self.when_full = when_full
        self.accepted = 0
        self.dropped = 0
        self.peak = 0
        self.closed = False
        self._items: deque[T] = deque()
        self._getters = _Line()
        self._putters = _Line()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def waiting_to_put(self) -> int:
        return len(self._putters)

    async def put(self, item: T) -> None:
        """Add an item; waits for room where the policy is to block, first come, first served.

        A cancelled put has not put. Raises: ChannelClosed.
        """
        if self.when_full is not WhenFull.BLOCK:
            self.offer(item)
            return
        if self.closed:
            raise ChannelClosed
        if not self._has_room():
            await self._putters.wait(self._call_putters)
            if self.closed:
                raise ChannelClosed
        self._add(item)
        self._call_putters()

    def offer(self, item: T) -> bool:
        """Add an item without waiting; return whether it got in.

        A full channel that blocks refuses, and the caller knows; one that drops counts what is lost: this item, or the
        oldest. Raises: ChannelClosed.
        """
        if self.closed:
            raise ChannelClosed
        if not self._has_room():
            if self.when_full is WhenFull.BLOCK:
                return False
            self.dropped += 1
            if self.when_full is WhenFull.DROP_NEWEST:
                return False
            self._items.popleft()
        self._add(item)
        return True

    async def get(self) -> T:
        """Return the oldest item; waits for one. A cancelled get has taken nothing.

        Raises: ChannelClosed once it is closed and empty.
        """
        if not self._has_item():
            if self.closed:
                raise ChannelClosed
            await self._getters.wait(self._call_getters)
            if not self._items:
                raise ChannelClosed
        item = self._items.popleft()
        self._call_putters()
        self._call_getters()
        return item

    def take(self, limit: int) -> list[T]:
        """Return up to `limit` of the oldest items that are there now, without waiting."""
        reserved = 0 if self.closed else self._getters.called
        free = max(0, len(self._items) - reserved)
        taken = [self._items.popleft() for _ in range(min(limit, free))]
        if taken:
            self._call_putters()
        return taken

    def close(self) -> None:
        """Take nothing more; what is in it can still be got. Safe to call twice."""
        self.closed = True
        self._putters.call_all()
        self._getters.call_all()

    def __aiter__(self) -> Channel[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def _has_room(self) -> bool:
        # Those who were called come first, although there may be room for more: the order is kept.
        return len(self._items) < self.capacity and not self._putters.called and not len(self._putters)

    def _has_item(self) -> bool:
        # After the close nobody waits any more, and all is for the taking.
        return bool(self._items) and (self.closed or not (self._getters.called or len(self._getters)))

    def _add(self, item: T) -> None:
        self._items.append(item)
        self.accepted += 1
        self.peak = max(self.peak, len(self._items))
        self._call_getters()

    def _call_getters(self) -> None:
        while len(self._items) > self._getters.called and self._getters.call():
            pass

    def _call_putters(self) -> None:
        while not self.closed and len(self._items) + self._putters.called < self.capacity and self._putters.call():
            pass
