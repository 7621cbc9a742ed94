"""Maintenance windows: once or recurring, in a time zone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Seconds
from dogwatch.engine.schedules.plan import Faulty, Zones, build_plan, shared_zones
from dogwatch.engine.schedules.spec import Blackout, ScheduleSpec
from dogwatch.engine.schedules.timing import Windows


class MaintenanceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which work is expected: `cron` with `duration`, or `from` and `to`.

    name: by which it is known. targets: names with * and ?; none for all. match: labels that they carry; none for all.
    cron: when it begins. duration: how long it lasts then. to: its end, written alike. time_zone: of all these. reason:
    why.
    """

    name: str
    targets: tuple[str, ...] = ()
    match: Mapping[str, str] = {}
    cron: str = ""
    duration: Seconds | None = None
    from_: Annotated[
        str, Meta(description="A time of day (`22:00`), or a date and time for a window that comes once.")
    ] = msgspec.field(default="", name="from")
    to: str = ""
    time_zone: str = "UTC"
    reason: str = ""


class Maintenance(msgspec.Struct, frozen=True, kw_only=True):
    """A window ready to be asked."""

    spec: MaintenanceSpec
    windows: Windows

    def end(self, now_s: float) -> float | None:
        """Return when it ends, where it is on."""
        return self.windows.end(now_s)

    def takes(self, targets: Sequence[str], labels: Mapping[str, str]) -> bool:
        """Return whether it is over all of these targets."""
        spec = self.spec
        if any(labels.get(key) != value for key, value in spec.match.items()):
            return False
        return not spec.targets or all(
            any(fnmatch.fnmatchcase(target, pattern) for pattern in spec.targets) for target in targets
        )


class Calendar:
    """All windows there are. Pure."""

    def __init__(self, windows: Iterable[Maintenance] = ()) -> None:
        self.windows = tuple(windows)

    def on(self, now_s: float) -> tuple[Maintenance, ...]:
        """Return the windows that are on now."""
        return tuple(one for one in self.windows if one.end(now_s) is not None)


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
