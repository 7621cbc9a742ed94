"""The values of the loop: what was observed, what was decided, what would change. All immutable."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

Value = float | int | str | bool | None


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed, when, about which target.

    source: kind of the observer ("probe.http", "host.cpu"). target: name of the target. time_s: wall clock, seconds
    since 1970 UTC. labels: of the target. values: by name, base units.
    """

    source: str
    target: str
    time_s: float
    values: Mapping[str, Value]
    labels: Mapping[str, str] = {}


class Status(enum.IntEnum):
    """What is believed of a target. The number is what the store keeps; a higher number is not a worse state."""

    PENDING = 0
    UP = 1
    DEGRADED = 2
    DOWN = 3
    PAUSED = 4
    MAINTENANCE = 5

    @property
    def word(self) -> str:
        return self.name.lower()


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a target's status. reason: one sentence a person understands."""

    target: str
    time_s: float
    before: Status
    after: Status
    reason: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that live views want to hear of.

    topic: "result", "transition", "sample", "reload", "finding", "target"… data: a struct or builtins; goes out as
    JSON.
    """

    topic: str
    time_s: float
    data: object
