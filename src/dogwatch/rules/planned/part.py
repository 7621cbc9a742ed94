"""All windows of maintenance that there are: those of the configuration, and those that people make and end."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.config.part import Configuration, Exchange, Prepared
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait, woken
from dogwatch.engine.book.setting import Freeze
from dogwatch.engine.schedules.plan import Faulty, Zones, shared_zones
from dogwatch.engine.schedules.timing import Window
from dogwatch.errors import Conflict, DogwatchError, NotFound, UsageError
from dogwatch.rules.maintenance import MAINTENANCE, Calendar, Maintenance, MaintenanceSpec, build_maintenance
from dogwatch.rules.planned import book
from dogwatch.rules.planned.book import Kept
from dogwatch.store.database import Database
from dogwatch.store.protocol import Availability, Store

log = logging.getLogger(__name__)
Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[Any]"]
# Another process on this database made or ended one, and its notice was missed.
LOOK_S = 10.0
HOUSEKEEPING_S = 3600.0
# Windows that are over are kept as long as availability is asked for.
KEEP_S = 400 * 86_400.0


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A window as it is shown. state: on, next (it comes), or over. by: who made it, "" for the configuration."""

    window_id: str
    spec: MaintenanceSpec
    state: str
    begin_s: float | None
    end_s: float | None
    by: str = ""
    ended_by: str = ""


class MaintenancePart:
    """Implements config.part.Part. store: of what availability is made; None where nobody asks for it."""

    name = "maintenance"

    def __init__(self, database: Database, store: Store | None, *, clock: Clock, spawn: Spawn) -> None:
        self._database, self._store, self._clock, self._spawn = database, store, clock, spawn
        self._zones: Zones = shared_zones()
        self._configured: tuple[Maintenance, ...] = ()
        self._made: dict[str, tuple[Kept, Maintenance]] = {}
        self._heard: list[Callable[[Calendar], None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._deaf: Callable[[], None] | None = None
        self.calendar = Calendar()

    # -- Part -----------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        configured = tuple(build_maintenance(spec, self._zones) for spec in configuration.get(MAINTENANCE))
        return Exchange(partial(self.put_in_force, configured))

    def put_in_force(self, configured: tuple[Maintenance, ...]) -> None:
        self._configured = configured
        self._tell()
        if self._task is None:
            self._deaf = self._database.listen(book.TOPIC, self._wake.set)
            self._task = self._spawn("maintenance", self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if self._deaf is not None:
            self._deaf()
            self._deaf = None
        if task is not None:
            await cancel_and_wait([task])

    def on_change(self, call: Callable[[Calendar], None]) -> None:
        """Call with the calendar whenever it changed, and once now."""
        self._heard.append(call)
        call(self.calendar)

    async def _run(self) -> None:
        purged_s = -math.inf
        while True:
            try:
                await self.refresh()
                if self._clock.monotonic_s() - purged_s >= HOUSEKEEPING_S:
                    purged_s, before_s = self._clock.monotonic_s(), self._clock.now_s() - KEEP_S
                    await self._database.write(lambda tx: book.purge(tx, before_s))  # noqa: B023 - awaited here
            except DogwatchError as error:
                log.warning("maintenance windows cannot be read: %s", error)
            if await woken(self._wake, LOOK_S):
                self._wake.clear()

    async def refresh(self) -> None:
        """Read what is on disk."""
        found = {one.window_id: one for one in await self._database.read(book.load)}
        if found == {name: kept for name, (kept, _built) in self._made.items()}:
            return
        self._made = {name: (kept, self._build(kept)) for name, kept in found.items()}
        self._tell()

    def _build(self, kept: Kept) -> Maintenance:
        built = build_maintenance(kept.spec, self._zones)
        until_s = math.inf if kept.ended_s is None else kept.ended_s
        # One that comes once counts from when it was meant, also where it is written down later.
        since_s = -math.inf if "-" in kept.spec.from_ else kept.begun_s
        return msgspec.structs.replace(built, window_id=kept.window_id, since_s=since_s, until_s=until_s)

    def _tell(self) -> None:
        self.calendar = Calendar((*self._configured, *(built for _kept, built in self._made.values())))
        for call in self._heard:
            call(self.calendar)

    # -- What is asked of it --------------------------------------------------------------------------------------

    async def add(self, spec: MaintenanceSpec, actor: Actor) -> Planned:
        """Make a window. Raises: UsageError where it says nothing sensible, Conflict."""
        self.check(spec)
        window_id = f"mw_{secrets.token_hex(6)}"
        kept = await self._database.write(lambda tx: book.add(tx, window_id, spec, actor))
        await self.refresh()
        return self._shown(self._build(kept), kept)

    def check(self, spec: MaintenanceSpec) -> Maintenance:
        """Return a window as it would be, and make none. Raises: UsageError where it says nothing sensible."""
        if not spec.name.strip():
            raise UsageError("a maintenance window needs a name")
        try:
            built = build_maintenance(spec, self._zones)
        except Faulty as error:
            fault = error.faults[0]
            where = ".".join(map(str, fault.path))
            raise UsageError(f"{where}: {fault.message}" if where else fault.message, hint=fault.hint) from None
        if built.following(self._clock.now_s()) is None:
            raise UsageError("the window is over already, or never comes")
        return built

    async def end(self, window_id: str, actor: Actor, *, reason: str = "") -> Planned:
        """End a window now. Raises: NotFound, Conflict."""
        if any(one.spec.name == window_id for one in self._configured) and window_id not in self._made:
            raise Conflict(f"'{window_id}' is a window of the configuration", hint="change it there, and reload")
        kept = await self._database.write(lambda tx: book.end(tx, window_id, actor, reason))
        await self.refresh()
        return self._shown(self._build(kept), kept)

    def show(self, window_id: str) -> Planned:
        """Raises: NotFound."""
        found = next((one for one in self.windows() if one.window_id == window_id), None)
        if found is None:
            raise NotFound(f"no maintenance window '{window_id}'", hint="see dogwatch maintenance list")
        return found

    def windows(self) -> Sequence[Planned]:
        """Return all windows: those of the configuration first, then those that were made, the newest first."""
        made = [self._shown(built, kept) for kept, built in reversed(self._made.values())]
        return [*(self._shown(one, None) for one in self._configured), *made]

    def _shown(self, one: Maintenance, kept: Kept | None) -> Planned:
        now_s = self._clock.now_s()
        found = one.following(now_s)
        state = "over" if found is None else "on" if found[0] <= now_s else "next"
        begin_s, end_s = found if found is not None else (None, kept.ended_s if kept is not None else None)
        if found is not None and state == "on":
            begin_s = None
        return Planned(
            window_id=one.window_id or one.spec.name,
            spec=one.spec,
            state=state,
            begin_s=begin_s,
            end_s=None if end_s == math.inf else end_s,
            by=kept.made_by if kept is not None else "",
            ended_by=kept.ended_by if kept is not None else "",
        )

    def frozen(self, schedule: str) -> list[Window]:
        """Return the windows in which a schedule does not fire."""
        return self.calendar.frozen(schedule)

    def holds(self, job: str, labels: Mapping[str, str], now_s: float) -> Freeze | None:
        """Return the freeze that holds a deployment now. labels: of its run."""
        return self.calendar.frozen_deployment(job, labels, now_s)

    async def availability(
        self, targets: Mapping[str, Mapping[str, str]], *, since_s: float, until_s: float
    ) -> Sequence[Availability]:
        """Return the time in each status; planned work counts as maintenance, for nobody. targets: name → labels."""
        if self._store is None:
            raise NotFound("this program keeps no history")
        planned = self.calendar.planned(targets, since_s=since_s, until_s=until_s)
        return await self._store.availability(list(targets), since_s=since_s, until_s=until_s, planned=planned)


def once(name: str, begin_s: float, end_s: float, **fields: Any) -> MaintenanceSpec:
    """Return a window that comes once, from one time to another."""
    return MaintenanceSpec(name=name, from_=_text(begin_s), to=_text(end_s), **fields)


def _text(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")  # noqa: UP017
