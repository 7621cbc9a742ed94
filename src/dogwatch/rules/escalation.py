"""The `incidents` section: who is told, when again, who is next, and who is on call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Path, Section
from dogwatch.core.component import nearest
from dogwatch.core.units import Seconds
from dogwatch.engine.schedules.dates import moment
from dogwatch.engine.schedules.zone import Zone

ON_CALL = "on-call:"
DAY_S = 86_400.0


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told, unless somebody has acknowledged by then.

    after: how long after the first notice. notify: names of destinations, or `on-call:<rotation>`.
    """

    after: Seconds = 0.0
    notify: tuple[str, ...]


class Escalation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps, one after the other. name: by which rules name it. steps: the first is told at once."""

    name: str
    steps: tuple[Step, ...]


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is on call by turns.

    name: `on-call:<name>` stands for it. members: names of destinations, in their order. every: how long each is on
    call, in whole days. start: when the first one's first turn begins, `2026-01-05T09:00`; each turn begins at that
    time of day. time_zone: of the start.
    """

    name: str
    members: tuple[str, ...]
    every: Seconds = 7 * DAY_S
    start: str
    time_zone: str = "UTC"


class Throttle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many notices one destination gets; beyond, they come together in one.

    burst: single ones in any interval. interval: its length.
    """

    burst: Annotated[int, Meta(ge=1, le=1000)] = 10
    interval: Seconds = 300.0


class Flapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an alert that comes and goes is held as one.

    times: how often it began within the time. within: that time. quiet: how long it must be away to be over.
    """

    times: Annotated[int, Meta(ge=2, le=100)] = 4
    within: Seconds = 3600.0
    quiet: Seconds = 900.0


class IncidentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How alerts become incidents, and who hears of them.

    settle: how long an alert waits for its cause to show before anybody is told. notify: names of destinations of
    rules that name none. remind: how often it is told again while nobody acknowledges; 0 for never. throttle: how
    many notices at most. flapping: what comes and goes. escalations: who is told when nobody acknowledges. rotations:
    who is on call. keep: how long incidents that are over are kept.
    """

    settle: Seconds = 30.0
    notify: tuple[str, ...] = ()
    remind: Seconds = 4 * 3600.0
    throttle: Throttle = Throttle()
    flapping: Flapping = Flapping()
    escalations: tuple[Escalation, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    keep: Seconds = 365 * DAY_S


class OnCall:
    """Who is on call when. Pure."""

    def __init__(self, rotation: Rotation) -> None:
        """Raises: ValueError."""
        self.rotation = rotation
        self._zone = Zone(rotation.time_zone)
        self._start = self._zone.local(int(moment(rotation.start, self._zone)))
        self._days = round(rotation.every / DAY_S)

    def who(self, now_s: float) -> str:
        """Return the member on call. Turns change by the wall, so that summer time moves none."""
        passed = self._zone.local(int(now_s)) - self._start
        return self.rotation.members[passed.days // self._days % len(self.rotation.members)]

    @property
    def start(self) -> datetime:
        return self._start


class Policy:
    """The section ready to be asked. Pure."""

    def __init__(self, options: IncidentOptions | None = None) -> None:
        self.options = options or IncidentOptions()
        self._steps = {one.name: one.steps for one in self.options.escalations}
        self._calls = {one.name: OnCall(one) for one in self.options.rotations}

    def steps(self, escalation: str, notify: Sequence[str]) -> tuple[Step, ...]:
        """Return the steps of an incident. notify: of its rule, told at once."""
        steps = self._steps.get(escalation, ())
        first = tuple(notify) or (() if steps else self.options.notify)
        return (Step(notify=first), *steps) if first else steps

    def left(self, escalation: str, notify: Sequence[str], step: int) -> int:
        """Return how many steps are left after so many."""
        return max(0, len(self.steps(escalation, notify)) - step)

    def names(self, step: Step, now_s: float) -> tuple[str, ...]:
        """Return the destinations of a step, with who is on call now."""
        found: dict[str, None] = {}
        for name in step.notify:
            call = self._calls.get(name.removeprefix(ON_CALL)) if name.startswith(ON_CALL) else None
            found[call.who(now_s) if call else name] = None
        return tuple(found)


def check_incidents(options: IncidentOptions) -> Iterator[Fault]:
    if options.throttle.interval <= 0:
        yield Fault(("throttle", "interval"), "must be more than nothing")
    yield from _names(options.escalations, "escalations")
    yield from _names(options.rotations, "rotations")
    for at, escalation in enumerate(options.escalations):
        if not escalation.steps:
            yield Fault(("escalations", at, "steps"), "has no steps")
        for place, (one, two) in enumerate(zip(escalation.steps, escalation.steps[1:], strict=False), 1):
            if two.after < one.after:
                yield Fault(("escalations", at, "steps", place, "after"), "comes before the step before it")
    for at, rotation in enumerate(options.rotations):
        yield from _rotation_faults(at, rotation)


def _names(items: Sequence[Escalation | Rotation], key: str) -> Iterator[Fault]:
    seen: set[str] = set()
    for at, item in enumerate(items):
        if not item.name.strip() or item.name in seen:
            yield Fault((key, at, "name"), f"the name '{item.name}' is empty, or used twice")
        seen.add(item.name)


def _rotation_faults(at: int, rotation: Rotation) -> Iterator[Fault]:
    path: Path = ("rotations", at)
    if not rotation.members:
        yield Fault((*path, "members"), "nobody is on call")
    if rotation.every < DAY_S or rotation.every % DAY_S:
        yield Fault((*path, "every"), "must be whole days")
    try:
        zone = Zone(rotation.time_zone)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        yield Fault((*path, "time_zone"), message, hint)
        return
    try:
        moment(rotation.start, zone)
    except ValueError as error:
        yield Fault((*path, "start"), str(error))


def incidents_section(notify: Section[Any] | None = None) -> Section[IncidentOptions]:
    """Return the section. notify: of the destinations, for checking against it."""

    def across(options: IncidentOptions, get: Callable[[Section[Any]], Any]) -> Iterator[Fault]:
        destinations = list(get(notify)) if notify is not None else []
        calls = [ON_CALL + one.name for one in options.rotations]
        for path, name in _mentioned(options):
            known = destinations if path[0] == "rotations" else [*destinations, *calls]
            if notify is not None and name not in known:
                yield Fault(path, f"unknown destination '{name}'", nearest(name, known) if known else "")

    return Section(
        key="incidents",
        type=IncidentOptions,
        doc="How alerts become incidents, and who hears of them.",
        default=IncidentOptions,
        check=check_incidents,
        across=across,
    )


def _mentioned(options: IncidentOptions) -> Iterator[tuple[Path, str]]:
    for at, name in enumerate(options.notify):
        yield ("notify", at), name
    for at, escalation in enumerate(options.escalations):
        for place, step in enumerate(escalation.steps):
            for index, name in enumerate(step.notify):
                yield ("escalations", at, "steps", place, "notify", index), name
    for at, rotation in enumerate(options.rotations):
        for index, name in enumerate(rotation.members):
            yield ("rotations", at, "members", index), name
