"""From a schedule as it is written to what can be asked for fires; and everything that is wrong with it on the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from dogwatch.config.section import Fault, Path
from dogwatch.engine.schedules.cron import Cron, expression_faults
from dogwatch.engine.schedules.dates import Day, moment, time_of_day
from dogwatch.engine.schedules.spec import Blackout, ScheduleSpec, timing_digest
from dogwatch.engine.schedules.timing import (
    Both,
    Daily,
    Dates,
    Every,
    Moments,
    Once,
    Stretches,
    Timing,
    Window,
    Windows,
)
from dogwatch.engine.schedules.zone import Zone

T = TypeVar("T")
Zones = Callable[[str], Zone]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule ready to be asked. start_s, end_s: no fire before and after. digest: identity of when it fires.

    freeze: windows of maintenance in which it does not fire; they come and go while it runs.
    """

    spec: ScheduleSpec
    timing: Timing
    blackout: Windows | None
    start_s: float
    end_s: float
    digest: str
    freeze: Windows | None = None

    def held(self, seconds: float) -> float | None:
        """Return until when no fire starts, where that is so at a time."""
        ends = [one.end(seconds) for one in (self.blackout, self.freeze) if one is not None]
        return max((end for end in ends if end is not None), default=None)

    def jitter_s(self, fire_s: float) -> float:
        """Return how much later a fire starts: the same for whoever asks."""
        if not self.spec.jitter:
            return 0.0
        seed = hashlib.blake2b(f"{self.spec.name}\0{fire_s!r}".encode(), digest_size=8).digest()
        return int.from_bytes(seed, "big") / 2**64 * self.spec.jitter


class Faulty(Exception):
    """The schedule has mistakes; `faults` has all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in faults))
        self.faults = faults


def shared_zones() -> Zones:
    """Return a function that makes each zone once."""
    known: dict[str, Zone] = {}

    def find(name: str) -> Zone:
        if name not in known:
            known[name] = Zone(name)
        return known[name]

    return find


class _Builder:
    """Builds one plan and keeps every mistake."""

    def __init__(self, spec: ScheduleSpec, zones: Zones) -> None:
        self.spec, self._zones = spec, zones
        self.faults: list[Fault] = []

    def _try(self, path: Path, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self.faults.append(Fault(path, message, hint))
            return None

    def zone(self, name: str, path: Path) -> Zone:
        return self._try(path, lambda: self._zones(name)) or self._zones("UTC")

    def build(self) -> Plan:
        spec = self.spec
        zone = self.zone(spec.time_zone, ("time_zone",))
        start_s = self._moment(spec.start, ("start",), zone, -math.inf)
        end_s = self._moment(spec.end, ("end",), zone, math.inf)
        if start_s > end_s:
            self.faults.append(Fault(("end",), "lies before the start: it never fires"))
        timing = self._timing(zone, start_s)
        windows = [
            window
            for at, one in enumerate(spec.blackout)
            if (window := self._window(one, ("blackout", at), zone)) is not None
        ]
        blackout = Windows(windows) if windows else None
        plan = Plan(
            spec=spec, timing=timing, blackout=blackout, start_s=start_s, end_s=end_s, digest=timing_digest(spec)
        )
        if self.faults:
            raise Faulty(self.faults)
        return plan

    def _moment(self, text: str, path: Path, zone: Zone, default: float) -> float:
        found = self._try(path, lambda: moment(text, zone)) if text else default
        return default if found is None else found

    def _timing(self, zone: Zone, start_s: float) -> Timing:
        spec = self.spec
        ways = [
            name
            for name, given in (
                ("cron", spec.cron),
                ("every", spec.every is not None),
                ("calendar" if spec.calendar else "at", spec.at or spec.calendar),
            )
            if given
        ]
        if len(ways) != 1:
            told = f"{' and '.join(ways)} together" if ways else "nothing says when it fires"
            where: Path = (ways[1],) if ways else ()
            self.faults.append(Fault(where, told, "write exactly one of cron, every, or at with calendar"))
        if spec.anchor and spec.every is None:
            self.faults.append(Fault(("anchor",), "only intervals have an anchor", "write every, too"))
        found = [timing for timing in (self._cron(zone), self._every(zone, start_s), self._dates(zone)) if timing]
        return found[0] if found else Moments(())

    def _cron(self, zone: Zone) -> Timing | None:
        return self._expression(self.spec.cron, ("cron",), zone) if self.spec.cron else None

    def _expression(self, text: str, path: Path, zone: Zone) -> Cron | None:
        from cronsim import CronSimError

        try:
            return Cron(text, zone, self.spec.name)
        except (CronSimError, ValueError) as error:
            # Why, field by field, is looked for only where it is wrong: ten thousand schedules are read in a second.
            faults = list(expression_faults(text, self.spec.name)) or [str(error)]
            self.faults += (Fault(path, message) for message in faults)
            return None

    def _every(self, zone: Zone, start_s: float) -> Timing | None:
        every_s = self.spec.every
        if every_s is None:
            return None
        if every_s < 1:
            self.faults.append(Fault(("every",), "must be at least 1s"))
            return None
        default = start_s if math.isfinite(start_s) else 0.0
        return Every(every_s, self._moment(self.spec.anchor, ("anchor",), zone, default))

    def _dates(self, zone: Zone) -> Timing | None:
        spec = self.spec
        times: list[int] = []
        moments: list[float] = []
        for at, text in enumerate(spec.at):
            path: Path = ("at", at)
            before = len(self.faults)
            time = self._try(path, lambda text=text: time_of_day(text))  # type: ignore[misc]
            if time is not None:
                times.append(time)
            elif len(self.faults) == before:
                if spec.calendar:
                    self.faults.append(Fault(path, f"'{text}' is no time of day", "beside calendar, write 18:00"))
                elif (found := self._try(path, lambda text=text: moment(text, zone))) is not None:  # type: ignore[misc]
                    moments.append(found)
        days = [
            day
            for at, text in enumerate(spec.calendar)
            if (day := self._try(("calendar", at), lambda text=text: Day(text))) is not None  # type: ignore[misc]
        ]
        parts: list[Timing] = []
        if times or days:
            parts.append(Dates(days, times or [0], zone))
        if moments:
            parts.append(Moments(moments))
        return (parts[0] if len(parts) == 1 else Both(*parts)) if parts else None

    def _window(self, window: Blackout, path: Path, zone: Zone) -> Window | None:
        if window.time_zone:
            zone = self.zone(window.time_zone, (*path, "time_zone"))
        by_cron = bool(window.cron) or window.duration is not None
        by_times = bool(window.from_) or bool(window.to)
        if by_cron == by_times:
            self.faults.append(Fault(path, "says not when it is", "write cron with duration, or from with to"))
            return None
        return self._by_cron(window, path, zone) if by_cron else self._by_times(window, path, zone)

    def _by_cron(self, window: Blackout, path: Path, zone: Zone) -> Window | None:
        if not window.cron or not window.duration:
            self.faults.append(Fault(path, "needs both cron and duration, and the duration more than 0"))
            return None
        begins = self._expression(window.cron, (*path, "cron"), zone)
        return Stretches(begins, window.duration) if begins is not None else None

    def _by_times(self, window: Blackout, path: Path, zone: Zone) -> Window | None:
        before = len(self.faults)
        begin = self._try((*path, "from"), lambda: time_of_day(window.from_))
        end = self._try((*path, "to"), lambda: time_of_day(window.to))
        if len(self.faults) > before:
            return None
        if begin is not None and end is not None:
            if begin % 86_400 == end % 86_400:
                self.faults.append(Fault(path, "begins when it ends", "pause the schedule instead"))
                return None
            return Daily(begin, end, zone)
        if (begin is None) != (end is None):
            self.faults.append(Fault(path, "from and to must both be times of day, or both dates with times"))
            return None
        begin_s = self._try((*path, "from"), lambda: moment(window.from_, zone))
        end_s = self._try((*path, "to"), lambda: moment(window.to, zone))
        if begin_s is None or end_s is None:
            return None
        if end_s <= begin_s:
            self.faults.append(Fault((*path, "to"), "lies before from"))
            return None
        return Once(begin_s, end_s)


def build_plan(spec: ScheduleSpec, zones: Zones) -> Plan:
    """Raises: Faulty."""
    return _Builder(spec, zones).build()


def plan_faults(spec: ScheduleSpec, zones: Zones) -> Iterator[Fault]:
    """Yield everything that is wrong with when a schedule fires."""
    try:
        build_plan(spec, zones)
    except Faulty as error:
        yield from error.faults
