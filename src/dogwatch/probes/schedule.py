"""When targets are due: fixed rates on the monotonic clock, spread, one timer for all of them."""

from __future__ import annotations

import hashlib
from heapq import heappop, heappush, heapreplace
from typing import Final, Generic, TypeVar

# First attempts are spread over this long, or this far apart where there are many targets.
FIRST_SPREAD_S = 2.0
FIRST_APART_S = 0.005
# Behind by more than this, everything is moved instead of being caught up with in a burst.
STALL_S: Final = 1.0


class Due:
    """What the schedule writes into a target. planned: it is on the schedule, at due_s and at no other time."""

    __slots__ = ("due_s", "planned")

    def __init__(self) -> None:
        self.planned = False
        self.due_s = 0.0


T = TypeVar("T", bound=Due)


def phase(name: str) -> float:
    """Return where in its interval a target is asked, in [0, 1): the same after every restart."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def first_two_s(name: str, every_s: float, among: int) -> tuple[float, float]:
    """Return how long after its start a target is asked first, and for the second time.

    The first comes soon, so that a person who starts the program need not wait for an interval to see anything; the
    second is at the target's own place in its interval, at least half of one later, so that the load stays spread.
    """
    share = phase(name)
    first_s = share * min(every_s, max(FIRST_SPREAD_S, among * FIRST_APART_S))
    second_s = share * every_s
    return first_s, second_s if second_s - first_s >= every_s / 2 else second_s + every_s


class Schedule(Generic[T]):
    """A heap of due times. Times are seconds on the monotonic clock, less what was lost in stalls.

    stalls, stalled_s: how often and for how long in all everything was moved, because the process was stopped, its
    machine slept, or there was more to do than it could.
    """

    def __init__(self) -> None:
        # Times alone, each once: comparing them is most of what a schedule costs, and tuples take five times as long.
        self._heap: list[float] = []
        self._at: dict[float, T] = {}
        # Who else is due at the very same time, in order.
        self._more: dict[float, list[T]] = {}
        # Whether the heap's first time is that of the target given out last: most are put back, and take its place.
        self._open = False
        self.stalls = 0
        self.stalled_s = 0.0

    def __len__(self) -> int:
        return len(self._at) + sum(map(len, self._more.values()))

    def put(self, target: T, due_s: float) -> None:
        """Make a target due at that time and at no other. due_s: in the schedule's own time (see `time_s`)."""
        target.planned = True
        target.due_s = due_s
        at = self._at
        count = len(at)
        first = at.setdefault(due_s, target)
        if len(at) == count:
            if first is not target:
                self._more.setdefault(due_s, []).append(target)
            return
        if self._open:
            self._open = False
            heapreplace(self._heap, due_s)
        else:
            heappush(self._heap, due_s)

    def remove(self, target: T) -> None:
        """Forget a target; its entry is dropped when its time comes."""
        target.planned = False

    def time_s(self, monotonic_s: float) -> float:
        return monotonic_s - self.stalled_s

    def next_s(self) -> float | None:
        """Return when the next entry is due, in the schedule's time; None while there is none."""
        heap = self._heap
        self._close()
        while heap:
            due_s = heap[0]
            target = self._at[due_s]
            if target.planned and target.due_s == due_s:
                return due_s
            self._take(due_s)
            self._close()
        return None

    def catch_up(self, monotonic_s: float) -> float:
        """Return the schedule's time, by which `pop` says what is due; moves everything if that is far behind."""
        following = self.next_s()
        behind_s = 0.0 if following is None else self.time_s(monotonic_s) - following
        if behind_s > STALL_S:
            self.stalls += 1
            self.stalled_s += behind_s
        return self.time_s(monotonic_s)

    def pop(self, now_s: float) -> T | None:
        """Return the earliest target that is due by now, each once; None if there is none."""
        heap = self._heap
        self._close()
        while heap:
            due_s = heap[0]
            if due_s > now_s:
                break
            target = self._take(due_s)
            if target.planned and target.due_s == due_s:
                target.planned = False
                return target
            self._close()
        return None

    def _take(self, due_s: float) -> T:
        """Return the first target of the earliest time, which is over if it was the last."""
        target = self._at.pop(due_s)
        if self._more and due_s in self._more:
            others = self._more[due_s]
            self._at[due_s] = others.pop(0)
            if not others:
                del self._more[due_s]
        else:
            self._open = True
        return target

    def _close(self) -> None:
        if self._open:
            self._open = False
            heappop(self._heap)
