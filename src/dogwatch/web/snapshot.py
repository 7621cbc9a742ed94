"""The targets of a large watch as pages see them: drawn up beside requests, a slice at a time, and summed up once.

A view of each of 100,000 targets takes longer than a request may; half a second later it is as good as new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dogwatch.core.clock import Clock
from dogwatch.probes.view import TargetView, WatchView
from dogwatch.web import listing

# With fewer targets each request looks for itself; with at least so many, requests share what was seen lately.
FROM = 500
FRESH_S = 0.5
# With at least so many it is drawn up beside requests, which get the one before, unless that is older than this.
BESIDE_FROM = 5000
STALE_S = 5.0
_SLICE = 500


class Summary:
    """What the overview says of all targets: groups in the order of the configuration, counts, and what is wrong."""

    def __init__(self) -> None:
        self.views: list[TargetView] = []
        self.groups: dict[str, listing.Group] = {}
        self.counts = dict.fromkeys(listing.STATUS_WORDS, 0)
        self.unknown = 0
        self._wrong: list[TargetView] = []

    def add(self, views: Iterable[TargetView]) -> int:
        """Take some more in, and return how many that were."""
        number = 0
        groups, counts = self.groups, self.counts
        for view in views:
            number += 1
            self.views.append(view)
            status = view.status
            counts[status] += 1
            group = groups.get(view.group)
            if group is None:
                tally = dict.fromkeys(listing.STATUS_WORDS, 0)
                group = groups[view.group] = listing.Group(name=view.group, views=[], tally=tally)
            group.views.append(view)
            group.counts[status] += 1
            if status in ("down", "degraded"):
                self._wrong.append(view)
            elif status == "pending" and view.kind != "heartbeat":
                self.unknown += 1
        return number

    @property
    def wrong(self) -> Sequence[TargetView]:
        return listing.troubled(self._wrong)


class SnapshotWatch:
    """A watch whose `targets()` may be half a second old where there are many. Everything else is the watch's own."""

    def __init__(self, inner: WatchView, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._kept: tuple[float, Summary] | None = None
        self._turn = 0
        self._drawing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def targets(self) -> Sequence[TargetView]:
        return self.summary().views

    def summary(self) -> Summary:
        """Return all targets, summed up."""
        kept, now_s = self._kept, self._clock.monotonic_s()
        usable_s = STALE_S if kept is not None and len(kept[1].views) >= BESIDE_FROM else FRESH_S
        if kept is None or not 0 <= now_s - kept[0] < usable_s:
            found = Summary()
            found.add(self._inner.targets())
            self._keep(found, now_s)
            return found
        if now_s - kept[0] >= FRESH_S and not self._drawing:
            self._drawing = True
            self._turn += 1
            self._slice(self._turn, self._each(), Summary(), now_s)
        return kept[1]

    def exact(self) -> Sequence[TargetView]:
        """Return all targets as they are at this moment, but for very many."""
        large = self._kept is not None and len(self._kept[1].views) >= BESIDE_FROM
        return self.targets() if large else self._inner.targets()

    def forget(self) -> None:
        """See what a write has just changed."""
        self._kept = None
        self._turn += 1
        self._drawing = False

    def _keep(self, found: Summary, time_s: float) -> None:
        self._kept = (time_s, found) if len(found.views) >= FROM else None
        self._turn += 1
        self._drawing = False

    def _each(self) -> Iterator[TargetView]:
        each = getattr(self._inner, "each", None)
        return iter(each()) if each is not None else iter(self._inner.targets())

    def _slice(self, turn: int, views: Iterator[TargetView], found: Summary, time_s: float) -> None:
        """Draw up some, and let the loop go on before the next. Overtaken, it ends."""
        if turn != self._turn:
            return
        some = [view for _at, view in zip(range(_SLICE), views, strict=False)]
        if found.add(some) == _SLICE:
            asyncio.get_running_loop().call_soon(self._slice, turn, views, found, time_s)
        else:
            self._keep(found, time_s)
