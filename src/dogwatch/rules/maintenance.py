"""Maintenance windows: once or recurring, in a time zone."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Seconds
from dogwatch.engine.book.setting import Freeze
from dogwatch.engine.schedules.plan import Faulty, Zones, build_plan, shared_zones
from dogwatch.engine.schedules.spec import Blackout, ScheduleSpec
from dogwatch.engine.schedules.timing import Stretch, Window, Windows

# Further ahead nobody looks for the next time that a window is on.
_AHEAD_S = 2 * 366 * 86_400.0


class MaintenanceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which work is expected: `cron` with `duration`, or `from` and `to`.

    name: by which it is known. targets: names with * and ? of probes and hosts; none for all, unless it is over
    schedules alone. match: labels that they carry; none for all. rules: names with * and ?, of the rules whose alerts
    it keeps quiet; none for all. schedules: names with * and ?, of schedules that are frozen: no fire starts.
    deployments: names with * and ?, of jobs whose runs wait, where they are deployments; `match` then chooses these by
    their labels, and no targets. cron: when it begins. duration: how long it lasts then. to: its end, written alike.
    time_zone: of all these. reason: why.
    """

    name: str
    targets: tuple[str, ...] = ()
    match: Mapping[str, str] = {}
    rules: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()
    cron: str = ""
    duration: Seconds | None = None
    from_: Annotated[
        str, Meta(description="A time of day (`22:00`), or a date and time for a window that comes once.")
    ] = msgspec.field(default="", name="from")
    to: str = ""
    time_zone: str = "UTC"
    reason: str = ""

    @property
    def freezes_only(self) -> bool:
        """Whether it is over no targets at all."""
        alone = not self.targets and not self.rules
        return alone and bool(self.deployments or (self.schedules and not self.match))


class Maintenance(msgspec.Struct, frozen=True, kw_only=True):
    """A window ready to be asked. window_id: of one that a person made. until_s: where it was ended early."""

    spec: MaintenanceSpec
    windows: Windows
    window_id: str = ""
    since_s: float = -math.inf
    until_s: float = math.inf

    def end(self, now_s: float) -> float | None:
        """Return when it ends, where it is on."""
        if not self.since_s <= now_s < self.until_s:
            return None
        end_s = self.windows.end(now_s)
        return min(end_s, self.until_s) if end_s is not None else None

    def stretches(self, since_s: float, until_s: float) -> Iterator[Stretch]:
        """Return when it is on in a time, cut to it; they may overlap."""
        for begin, end in self.windows.stretches(max(since_s, self.since_s), min(until_s, self.until_s)):
            if begin < end:
                yield begin, end

    def following(self, now_s: float) -> Stretch | None:
        """Return when it is on now or next."""
        found = next(iter(self.stretches(now_s, min(self.until_s, now_s + _AHEAD_S))), None)
        if found is None:
            return None
        end_s = self.end(found[0])
        return found[0], end_s if end_s is not None else found[1]

    def over(self, target: str, labels: Mapping[str, str]) -> bool:
        """Return whether time in it does not count for a target: a window over single rules leaves the time alone."""
        return not self.spec.rules and self.takes((target,), labels)

    def takes(self, targets: Sequence[str], labels: Mapping[str, str], rule: str = "") -> bool:
        """Return whether it is over all of these targets. rule: that found something about them."""
        spec = self.spec
        if spec.freezes_only:
            return False
        if any(labels.get(key) != value for key, value in spec.match.items()):
            return False
        if spec.rules and not _any_of(rule, spec.rules):
            return False
        return not spec.targets or all(_any_of(target, spec.targets) for target in targets)

    def freezes(self, schedule: str) -> bool:
        return _any_of(schedule, self.spec.schedules)

    def holds(self, job: str, labels: Mapping[str, str]) -> bool:
        """Return whether it is over deployments by a job. labels: of the run."""
        chosen = all(labels.get(key) == value for key, value in self.spec.match.items())
        return chosen and _any_of(job, self.spec.deployments)


def _any_of(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


class Calendar:
    """All windows there are. Pure."""

    def __init__(self, windows: Iterable[Maintenance] = ()) -> None:
        self.windows = tuple(windows)

    def on(self, now_s: float) -> tuple[Maintenance, ...]:
        """Return the windows that are on now."""
        return tuple(one for one in self.windows if one.end(now_s) is not None)

    def changes(self, since_s: float, until_s: float) -> list[float]:
        """Return when windows begin and end, in order."""
        found = {moment for one in self.windows for pair in one.stretches(since_s, until_s) for moment in pair}
        return sorted(found)

    def planned(
        self, targets: Mapping[str, Mapping[str, str]], *, since_s: float, until_s: float
    ) -> dict[str, list[Stretch]]:
        """Return by target the stretches in which work was planned. targets: name → labels."""
        found: dict[str, list[Stretch]] = {}
        for one in self.windows:
            taken = [name for name, labels in targets.items() if one.over(name, labels)]
            if not taken:
                continue
            stretches = list(one.stretches(since_s, until_s))
            for name in taken:
                found.setdefault(name, []).extend(stretches)
        return found

    def frozen(self, schedule: str) -> list[Window]:
        """Return the windows in which a schedule does not fire."""
        return [Cut(one) for one in self.windows if one.freezes(schedule)]

    def frozen_deployment(self, job: str, labels: Mapping[str, str], now_s: float) -> Freeze | None:
        """Return the freeze that holds a deployment the longest. labels: of its run."""
        ends = [(one.end(now_s), one.spec.name) for one in self.windows if one.holds(job, labels)]
        on = [(end_s, name) for end_s, name in ends if end_s is not None]
        return Freeze(name=max(on)[1], end_s=max(on)[0]) if on else None


class Cut:
    """A window as schedules take it. Implements engine.schedules.timing.Window."""

    __slots__ = ("_one",)

    def __init__(self, one: Maintenance) -> None:
        self._one = one

    def end(self, seconds: float) -> float | None:
        return self._one.end(seconds)

    def stretch(self, seconds: float) -> Stretch | None:
        return self._one.following(seconds)


def build_maintenance(spec: MaintenanceSpec, zones: Zones) -> Maintenance:
    """Raises: Faulty, with paths below the window."""
    blackout = Blackout(cron=spec.cron, duration=spec.duration, from_=spec.from_, to=spec.to)
    # A schedule's blackout is just such a window; the schedule around it never fires.
    around = ScheduleSpec(name=spec.name, job="none", every=60.0, time_zone=spec.time_zone, blackout=[blackout])
    try:
        plan = build_plan(around, zones)
    except Faulty as error:
        faults = [
            Fault(fault.path[2:] if fault.path[:1] == ("blackout",) else fault.path, fault.message, fault.hint)
            for fault in error.faults
        ]
        raise Faulty(faults) from None
    return Maintenance(spec=spec, windows=plan.blackout or Windows(()))


def check_maintenance(specs: Sequence[MaintenanceSpec]) -> Iterator[Fault]:
    """Find every mistake of the windows, in their order."""
    zones = shared_zones()
    names: dict[str, int] = {}
    for at, spec in enumerate(specs):
        if not spec.name.strip():
            yield Fault((at, "name"), "a name must not be empty")
        if spec.name in names:
            yield Fault((at, "name"), f"'{spec.name}' is the name of maintenance[{names[spec.name]}], too")
        names.setdefault(spec.name, at)
        try:
            build_maintenance(spec, zones)
        except Faulty as error:
            yield from (Fault((at, *fault.path), fault.message, fault.hint) for fault in error.faults)


MAINTENANCE: Section[list[MaintenanceSpec]] = Section(
    key="maintenance",
    type=list[MaintenanceSpec],
    doc="Windows in which work is expected: no incident opens, nobody is told.",
    default=list,
    check=check_maintenance,
)
