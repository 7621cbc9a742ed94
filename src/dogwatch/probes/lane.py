"""Lanes: how a kind runs the attempts of one target in their usual shape, again and again, without making anything new.

An attempt that ends well says so by its lane's own fields; all else (failures, redirects, what comes in pieces) ends
as a ProbeResult like every other kind's. What a lane tells, `launch` would have told the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dogwatch.probes.engine.engine import Direct
from dogwatch.probes.probe import Done, ProbeResult


class Lane(Direct):
    """One target's usual attempts. A kind's own lane inherits this.

    duration_s and the phases: of the newest attempt that ended well, as in ProbeResult. fresh: it has ended and nobody
    has taken it yet. small: `result` may be asked for until the next attempt ends well, not only at once. answer: the
    same object as long as nothing but times is new.
    """

    __slots__ = ("answer", "connect_s", "duration_s", "first_byte_s", "fresh", "owner", "small")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.fresh = False
        self.small = False
        self.answer: object = None
        self.duration_s = self.connect_s = self.first_byte_s = 0.0

    def start(self) -> bool:
        """Begin an attempt; False if this one has to go by `launch`, and nothing was done."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Cancel the attempt under way, as `launch`'s function does."""
        raise NotImplementedError

    def values(self) -> dict[str, Any]:
        """Return what the expectations read, at least, of the newest attempt that ended well."""
        raise NotImplementedError

    def result(self) -> ProbeResult:
        """Return the newest attempt that ended well as every kind's results are."""
        raise NotImplementedError


class Landing:
    """Where lanes that have ended wait for the end of the engine's turn, to be taken all at once.

    take: is given them. done_for: returns where the result of a lane's attempt goes that does not end well.
    """

    __slots__ = ("_lanes", "_take", "done_for")

    def __init__(self, take: Callable[[list[Lane]], None], done_for: Callable[[Any], Done]) -> None:
        self._take = take
        self._lanes: list[Lane] = []
        self.done_for = done_for

    def add(self, lane: Lane) -> bool:
        """Add a lane; True for the first one: then `clear` must be called at the turn's end."""
        self._lanes.append(lane)
        return len(self._lanes) == 1

    def clear(self) -> None:
        lanes, self._lanes = self._lanes, []
        self._take(lanes)
