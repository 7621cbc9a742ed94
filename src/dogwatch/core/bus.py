"""Live events inside the process: publishers never wait, a slow subscriber loses its oldest and the loss is counted."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from dogwatch.core.values import Event


class Subscription:
    """A bounded queue of events of some topics. `dropped` counts what was lost to its bound.

    call: only this is called at each event; nothing is kept.
    """

    def __init__(self, topics: frozenset[str], capacity: int, call: Callable[[], None] | None = None) -> None:
        self.topics = topics
        self.dropped = 0
        self._call = call
        self._events: deque[Event] = deque(maxlen=capacity)
        self._ready = asyncio.Event()

    def offer(self, event: Event) -> None:
        if self._call is not None:
            self._call()
            return
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        self._ready.set()

    def take(self) -> list[Event]:
        """Return what waits, oldest first, and wait for nothing."""
        events = list(self._events)
        self._events.clear()
        return events

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            await self._ready.wait()
            while self._events:
                yield self._events.popleft()
            self._ready.clear()


class Bus:
    """Fans events out to subscriptions; owned by the event loop's thread."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._topics: Counter[str] = Counter()
        self.published = 0
        self._dropped_before = 0

    def wanted(self, topic: str) -> bool:
        """Return whether anyone listens, so that a hot path need not build an event for nobody."""
        return self._topics.get(topic, 0) > 0

    def publish(self, event: Event) -> None:
        self.published += 1
        for subscription in self._subscriptions:
            if event.topic in subscription.topics:
                subscription.offer(event)

    @property
    def dropped(self) -> int:
        return self._dropped_before + sum(subscription.dropped for subscription in self._subscriptions)

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def subscribe(
        self, *topics: str, capacity: int = 1000, call: Callable[[], None] | None = None
    ) -> Iterator[Subscription]:
        """call: instead of keeping events, call this at each."""
        subscription = Subscription(frozenset(topics), capacity, call)
        self._subscriptions.append(subscription)
        self._topics.update(subscription.topics)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            self._topics.subtract(subscription.topics)
            self._dropped_before += subscription.dropped
