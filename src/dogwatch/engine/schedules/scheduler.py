"""Starts what is due: one heap, one timer. Any number of processes may run one over the same database.

Who moves a schedule's cursor past a fire has claimed it, and starts its run in the same transaction; whoever comes
second finds the cursor moved and starts nothing. A crash leaves both or neither.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.config.part import Configuration
from dogwatch.config.section import Section
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait, woken
from dogwatch.core.metrics import Family
from dogwatch.engine.port import Runs, Starter
from dogwatch.engine.schedules import records
from dogwatch.engine.schedules.clock import DatabaseClock
from dogwatch.engine.schedules.counts import Counts
from dogwatch.engine.schedules.decide import Due, Fire, due, upcoming
from dogwatch.engine.schedules.plan import Faulty, Plan, build_plan, shared_zones
from dogwatch.engine.schedules.records import Claim, Claimed, Missed, Record, fire_text, run_key
from dogwatch.engine.schedules.section import SCHEDULES
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.schedules.timing import Window, Windows
from dogwatch.engine.values import StartRun, Trigger
from dogwatch.errors import ConfigError, Conflict, DogwatchError, Problem, TransientError
from dogwatch.store.database import Database

log = logging.getLogger(__name__)
# Between two looks at the database's clock: so late is a step of it found.
LOOK_S = 10.0
# Between two looks for what is too old to keep.
FORGET_S = 3600.0
# Fires that are claimed at the same time; the database commits them in groups.
_TOGETHER = 256
# Plans that are made before others have their turn in the loop.
_SLICE = 200
_LONGEST_RETRY_S = 5.0
# A step of the clock below is an adjustment; it is not told.
_STEP_S = 2.0


# Starts a named task; a supervisor's, so that an unexpected end of it is seen.
Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


def _spawn(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """keep_s: how long it is kept what became of fires, and removed schedules. keep_fires: how many of each."""

    keep_s: float = 30 * 86_400.0
    keep_fires: int = 1000


class Entry:
    """A schedule of the configuration in force. record: None until it was found on disk. turn: of its place in the
    heap; an older one is void. next: the fire it waits for.
    """

    __slots__ = ("attempt", "next", "plan", "record", "turn")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.record: Record | None = None
        self.next: Fire | None = None
        self.turn = 0
        self.attempt = 0

    @property
    def active(self) -> bool:
        """Whether it is this process's to fire: not paused, nor superseded by another configuration."""
        record = self.record
        return (
            record is not None
            and not record.paused
            and record.removed_s is None
            and record.timing == self.plan.digest
            and not self.plan.spec.paused
        )


class _Change:
    """Plans for a new configuration; those that did not change are taken over."""

    def __init__(self, scheduler: Scheduler, specs: Sequence[ScheduleSpec]) -> None:
        self._scheduler = scheduler
        self.plans: dict[str, Plan] = {}
        zones, problems = shared_zones(), []
        for at, spec in enumerate(specs):
            old = scheduler.entries.get(spec.name)
            if old is not None and old.plan.spec == spec:
                self.plans[spec.name] = old.plan
                continue
            try:
                self.plans[spec.name] = build_plan(spec, zones)
            except Faulty as error:
                problems += [Problem(one.message, path=f"schedules[{at}]", hint=one.hint) for one in error.faults]
        if problems:
            raise ConfigError(problems)

    async def start(self) -> None:
        """Nothing: the database may be away; the schedules are adopted once it can be used."""

    def swap(self) -> None:
        self._scheduler.use(self.plans)

    async def finish(self) -> None:
        """Nothing: what the swap replaced had no resources."""

    async def discard(self) -> None:
        """Nothing was started."""


class Scheduler:
    """A Part. runs: starts the jobs. section: as `schedules_section` made it. spawn: a supervisor's."""

    name = "schedules"

    def __init__(
        self,
        database: Database,
        runs: Runs,
        *,
        clock: Clock,
        section: Section[list[ScheduleSpec]] = SCHEDULES,
        limits: Limits | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        self._spawn = spawn or _spawn
        self._database, self._runs, self._section = database, runs, section
        self._limits = limits or Limits()
        self._mono = clock.monotonic_s
        self.clock = DatabaseClock(database, clock)
        self.entries: dict[str, Entry] = {}
        self.counts = Counts()
        self.trouble = ""
        self._windows: Callable[[str], Sequence[Window]] = lambda _name: ()
        self._heap: list[tuple[float, int, Entry]] = []
        self._turns = 0
        self._wake = asyncio.Event()
        self._adopt = self._stale = self._resting = False
        self._forgot_s: float | None = None
        self._behind: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._deaf: Callable[[], None] | None = None

    # -- the life of a part

    def prepare(self, configuration: Configuration) -> _Change:
        """Raises: ConfigError."""
        specs = configuration.get(self._section)
        return _Change(self, specs)

    def use(self, plans: Mapping[str, Plan]) -> None:
        """Put these schedules in force, and begin to run."""
        entries = {}
        for name, plan in plans.items():
            old = self.entries.get(name)
            entries[name] = old if old is not None and old.plan is plan else Entry(self._frozen(plan))
        for name, entry in self.entries.items():
            if entries.get(name) is not entry:
                self._unplan(entry)
        self.entries = entries
        self._adopt = True
        self._wake.set()
        if self._task is None:
            self._deaf = self._database.listen(records.TOPIC, self._noticed)
            self._task = self._spawn("schedules", self._run())

    def freeze(self, windows: Callable[[str], Sequence[Window]]) -> None:
        """Heed windows of maintenance, by name of the schedule, from now on; called anew whenever they change."""
        self._windows = windows
        for entry in self.entries.values():
            plan = self._frozen(entry.plan)
            if (plan.freeze is None) is (entry.plan.freeze is None) and plan.freeze is None:
                continue
            entry.plan = plan
            if entry.record is not None:
                self._plan(entry)
        self._wake.set()

    def _frozen(self, plan: Plan) -> Plan:
        windows = self._windows(plan.spec.name)
        return msgspec.structs.replace(plan, freeze=Windows(windows) if windows else None)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if self._deaf is not None:
            self._deaf()
            self._deaf = None
        if task is not None:
            await cancel_and_wait([task])

    def _noticed(self) -> None:
        self._stale = True
        self._wake.set()

    # -- the loop

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._catch_up()
                await self._fire_due()
            except DogwatchError as error:
                attempt += 1
                self._say(str(error))
                wait_s = _retry_s(attempt)
            else:
                attempt = 0
                self._say("")
                wait_s = self._rest_s()
            if wait_s > 0:
                await self._sleep(wait_s)

    def _say(self, trouble: str) -> None:
        if trouble and not self.trouble:
            log.warning("schedules wait for the database: %s", trouble)
        self.trouble = trouble

    def _rest_s(self) -> float:
        """Return how long there is nothing to do."""
        if self._adopt or self._stale:
            return 0.0
        rest_s = LOOK_S - self.clock.age_s()
        if self._heap:
            rest_s = min(rest_s, self._heap[0][0] - self.clock.now_s())
        return rest_s

    async def _sleep(self, seconds: float) -> None:
        self._resting = True
        # A timer of the loop counts whole milliseconds: it must not end just before the fire.
        await woken(self._wake, seconds + 0.0005)
        self._wake.clear()
        self._resting = False

    async def _catch_up(self) -> None:
        """Learn what changed: the configuration, the records, the clock."""
        if not self.clock.known or self.clock.age_s() >= LOOK_S - 0.001:
            moved_s = await self.clock.read()
            if abs(moved_s) >= _STEP_S:
                log.warning(
                    "the database's clock was set %s by %.0f s", "forward" if moved_s > 0 else "back", abs(moved_s)
                )
                self.counts.steps += 1
                await self._tell_behind()
        if self._adopt:
            self._adopt = False
            try:
                wanted = {name: entry.plan.digest for name, entry in self.entries.items()}
                found = await self._database.write(lambda tx: records.adopt(tx, wanted))
            except BaseException:
                self._adopt = True
                raise
            await self._know(found)
        elif self._stale:
            self._stale = False
            try:
                found = await self._database.read(records.all_records)
            except BaseException:
                self._stale = True
                raise
            await self._know(found)
        now_s = self._mono()
        if self._forgot_s is None or now_s - self._forgot_s >= FORGET_S:
            await self._database.write(lambda tx: records.forget(tx, self._limits.keep_s))
            self._forgot_s = now_s

    async def _know(self, found: Mapping[str, Record]) -> None:
        """Take over what is on disk, and plan anew what changed there."""
        done = 0
        for name, entry in list(self.entries.items()):
            if self.entries.get(name) is not entry:
                continue  # a reload came in between
            record = found.get(name)
            same = entry.turn > 0 and _same(record, entry.record)
            entry.record = record
            if same:
                continue
            self._plan(entry)
            done += 1
            if done % _SLICE == 0:
                await asyncio.sleep(0)
        await self._tell_behind()

    async def _tell_behind(self) -> None:
        names = [name for name, entry in self.entries.items() if entry.active and self.behind_s(entry) > _STEP_S]
        names, self._behind = [name for name in names if name not in self._behind], frozenset(names)
        if names:
            log.warning(
                "the clock was set back behind what %d schedules have fired (%s, …): they fire again once it is past "
                "that, or after `dogwatch schedule resume NAME --from-now`",
                len(names),
                names[0],
            )

    def behind_s(self, entry: Entry) -> float:
        """Return by how much the clock lies behind what was decided; 0 where it does not."""
        return max(0.0, entry.record.cursor_s - self.clock.now_s()) if entry.record is not None else 0.0

    # -- the heap

    def _plan(self, entry: Entry, *, not_before_s: float = 0.0) -> None:
        self._unplan(entry)
        record = entry.record
        if record is None or not entry.active:
            return
        entry.next = next(upcoming(entry.plan, record.cursor_s), None)
        if entry.next is not None:
            heapq.heappush(self._heap, (max(entry.next.due_s, not_before_s), entry.turn, entry))

    def _unplan(self, entry: Entry) -> None:
        self._turns += 1
        entry.turn = self._turns
        entry.next = None

    def _pop_due(self, now_s: float) -> list[Entry]:
        found: list[Entry] = []
        while self._heap and (self._heap[0][0] <= now_s or self._void()) and len(found) < _TOGETHER:
            _, turn, entry = heapq.heappop(self._heap)
            if turn == entry.turn:
                found.append(entry)
        return found

    def _void(self) -> bool:
        _, turn, entry = self._heap[0]
        return turn != entry.turn

    async def _fire_due(self) -> None:
        now_s = self.clock.now_s()
        if len(self._heap) > 2 * len(self.entries) + 1000:
            self._heap = [one for one in self._heap if one[1] == one[2].turn]
            heapq.heapify(self._heap)
        entries = self._pop_due(now_s)
        if entries:
            results = await asyncio.gather(*map(self._fire, entries), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    # -- one schedule

    async def _fire(self, entry: Entry) -> None:
        """Claim everything that is due of one schedule, then plan what follows."""
        turn = entry.turn
        try:
            await self._claim_all(entry)
        except DogwatchError as error:
            entry.attempt += 1
            self._say(str(error))
            if entry.turn == turn:
                # Whether it was committed is not known: the record on disk says it.
                self._stale = True
                self._plan(entry, not_before_s=self.clock.now_s() + _retry_s(entry.attempt))
            return
        entry.attempt = 0
        if entry.turn == turn:
            self._plan(entry)

    async def _claim_all(self, entry: Entry) -> None:
        record = entry.record
        assert record is not None
        found = due(entry.plan, record.cursor_s, self.clock.now_s())
        for wanted in _claims(entry.plan, record, found):
            claim, claimed = await self._claim(entry, wanted)
            self.counts.note(claim, claimed, self.clock.now_s())
            if claimed.outcome in ("lost", "early"):
                if claimed.outcome == "early":
                    await self.clock.read()
                await self._look_again(entry)
                return
            record = msgspec.structs.replace(record, cursor_s=claim.to_s)
            entry.record = record

    async def _look_again(self, entry: Entry) -> None:
        """Another scheduler, or a person, was first."""
        name = entry.plan.spec.name
        entry.record = await self._database.read(lambda tx: records.find_record(tx, name))

    async def _claim(self, entry: Entry, claim: Claim) -> tuple[Claim, Claimed]:
        """Return the claim as it was made fact: where no run could start, it says why."""
        start: Starter | None = None
        try:
            if claim.fire is not None:
                start = self._runs.starter(self._request(entry.plan.spec, claim.fire))
            return claim, await self._write(claim, start)
        except TransientError:
            raise
        except DogwatchError as error:
            # Nothing was written: what the start had done is undone with it.
            state = "refused" if isinstance(error, Conflict) else "failed"
            claim = msgspec.structs.replace(claim, state=state, reason=str(error))
            return claim, await self._write(claim, None)

    async def _write(self, claim: Claim, start: Starter | None) -> Claimed:
        keep = self._limits.keep_fires
        return await self._database.write(lambda tx: records.claim(tx, claim, start, keep_fires=keep))

    def _request(self, spec: ScheduleSpec, fire: Fire) -> StartRun:
        text = fire_text(fire.fire_s)
        return StartRun(
            job=spec.job,
            parameters=spec.parameters,
            actor=Actor(kind="schedule", name=spec.name),
            trigger=Trigger(kind="schedule", name=spec.name, data={"fire": text, "fire_s": fire.fire_s}),
            key=run_key(spec.name, text),
            priority=spec.priority,
            labels=spec.labels,
        )

    def metrics(self) -> Iterable[Family]:
        active = sum(entry.active for entry in self.entries.values())
        behind = sum(entry.active and self.behind_s(entry) > _STEP_S for entry in self.entries.values())
        return self.counts.families(total=len(self.entries), active=active, behind=behind)


def _same(one: Record | None, other: Record | None) -> bool:
    """Return whether two readings of a record mean the same fires."""
    if one is None or other is None:
        return one is other
    return (one.cursor_s, one.paused, one.timing, one.removed_s) == (
        other.cursor_s,
        other.paused,
        other.timing,
        other.removed_s,
    )


def _retry_s(attempt: int) -> float:
    """Full jitter: the others wait for the same database."""
    return random.uniform(0.05, min(_LONGEST_RETRY_S, 0.1 * 2 ** min(attempt, 10)))  # noqa: S311


def _claims(plan: Plan, record: Record, found: Due) -> list[Claim]:
    """Return the decision as claims, in order: one for each run, what was missed with the first."""
    missed = None
    if found.missed and found.last_missed_s is not None and found.first_missed_s is not None:
        count = str(found.missed) if found.exact else f"more than {found.missed}"
        missed = Missed(
            count=found.missed,
            last_s=found.last_missed_s,
            reason=f"{count} from {fire_text(found.first_missed_s)} to {fire_text(found.last_missed_s)}, "
            f"misfire: {plan.spec.misfire}",
        )
    claims: list[Claim] = []
    from_s = record.cursor_s
    for fire in found.start:
        claims.append(
            Claim(
                name=plan.spec.name,
                timing=plan.digest,
                from_s=from_s,
                to_s=fire.cursor_s,
                fire=fire,
                missed=None if claims else missed,
            )
        )
        from_s = fire.cursor_s
    if missed is not None and not claims:
        claims.append(Claim(name=plan.spec.name, timing=plan.digest, from_s=from_s, to_s=found.cursor_s, missed=missed))
    return claims
