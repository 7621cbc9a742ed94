"""Acknowledgement: how far every lane has accepted each stream, in order, whatever the order of the answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from dogwatch.logs.block import Position


class Ticket:
    """One delivery to one lane. Accepted once, when the lane has it for good (or dropped it, and counted)."""

    __slots__ = ("_track", "after", "done")

    def __init__(self, track: Track | None, after: Position) -> None:
        self._track = track
        self.after = after
        self.done = False

    def accept(self) -> None:
        self.done = True
        if self._track is not None:
            self._track.settle()


class Receipt(Ticket):
    """A delivery that somebody waits for: of a source that answers once its lines are safe."""

    __slots__ = ("_told",)

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__(None, Position())
        self._told = told

    def accept(self) -> None:
        super().accept()
        self._told()


class Tickets(Ticket):
    """Deliveries of several streams to one lane, which go together."""

    __slots__ = ("_several",)

    def __init__(self, several: Sequence[Ticket]) -> None:
        super().__init__(None, Position())
        self._several = several

    def accept(self) -> None:
        super().accept()
        for one in self._several:
            one.accept()


class Track:
    """One stream on one lane. position: all before it is accepted."""

    __slots__ = ("_waiting", "position")

    def __init__(self, position: Position | None) -> None:
        self.position = position
        self._waiting: deque[Ticket] = deque()

    def ticket(self, after: Position) -> Ticket:
        ticket = Ticket(self, after)
        self._waiting.append(ticket)
        return ticket

    def settle(self) -> None:
        while self._waiting and self._waiting[0].done:
            self.position = self._waiting.popleft().after

    @property
    def idle(self) -> bool:
        return not self._waiting


class Progress:
    """All tracks. Owned by the event loop's thread. taken: deliveries handed out since the start."""

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str], Track] = {}

    def begin(self, stream: str, lane: str, position: Position) -> None:
        """Say where a stream stands for a lane; one that is known already keeps its place."""
        self._tracks.setdefault((stream, lane), Track(position))

    def ticket(self, stream: str, lane: str, after: Position) -> Ticket:
        track = self._tracks.get((stream, lane))
        if track is None:
            track = self._tracks[stream, lane] = Track(None)
        return track.ticket(after)

    def tickets(self, places: Iterable[tuple[str, Position]], lane: str) -> Tickets:
        """Return one ticket for several streams. places: each with where it goes on after it."""
        return Tickets([self.ticket(stream, lane, after) for stream, after in places])

    def position(self, stream: str, lane: str) -> Position | None:
        track = self._tracks.get((stream, lane))
        return None if track is None else track.position

    def idle(self, stream: str, lanes: tuple[str, ...]) -> bool:
        """Return whether everything that was handed out of a stream is accepted."""
        return all((track := self._tracks.get((stream, lane))) is None or track.idle for lane in lanes)

    def forget(self, stream: str, lanes: tuple[str, ...]) -> None:
        for lane in lanes:
            self._tracks.pop((stream, lane), None)
