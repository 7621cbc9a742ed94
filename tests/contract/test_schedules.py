"""One suite over SQLite and PostgreSQL: each fire is one run, whatever happens to clocks, schedulers and databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.conftest import Open
from tests.schedules import OPERATOR, TABLES, FakeRuns, TimedDatabase, new_scheduler, put, started, until

from dogwatch.core.clock import ManualClock
from dogwatch.core.metrics import render
from dogwatch.engine.schedules import records
from dogwatch.engine.schedules.records import fire_text
from dogwatch.engine.schedules.scheduler import Scheduler
from dogwatch.engine.schedules.service import Schedules
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.schedules.timing import Once
from dogwatch.errors import NotFound, UsageError

T0 = 1_800_000_000.0  # a full minute


def spec(name: str = "backup", **options: Any) -> ScheduleSpec:
    options = {"job": name, "cron": "* * * * *"} | options
    return ScheduleSpec(name=name, **options)


def key(offset_s: float, name: str = "backup") -> str:
    return f"schedule/{name}/{fire_text(T0 + offset_s)}"


class World:
    """A database with a clock of its own, and schedulers over it."""

    def __init__(self, database: Any, other: Any) -> None:
        self.clock = ManualClock(now_s=T0)
        self.database = TimedDatabase(database, self.clock)
        self.other = TimedDatabase(other, self.clock)
        self.runs = FakeRuns()
        self.schedulers: list[Scheduler] = []

    async def scheduler(self, *specs: ScheduleSpec, database: Any = None, **limits: Any) -> Scheduler:
        made = new_scheduler(database or self.database, self.runs, self.clock, **limits)
        self.schedulers.append(made)
        await put(made, specs)
        await self.settled(made)
        return made

    def service(self, scheduler: Scheduler) -> Schedules:
        return Schedules(scheduler, self.database, self.runs)  # type: ignore[arg-type]

    async def settled(self, *schedulers: Scheduler) -> None:
        """Wait until these have nothing to do before the clock moves."""

        async def idle() -> bool:
            return all(
                one._resting and one.clock.known and one._rest_s() > 0 and not one._wake.is_set() for one in schedulers
            )

        for one in schedulers:
            one._wake.set()
        await until(idle)
        # A notice of what was committed may still be on its way.
        await asyncio.sleep(0.02)
        await until(idle)

    async def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settled(*self.schedulers)

    async def stop(self, scheduler: Scheduler) -> None:
        self.schedulers.remove(scheduler)
        await scheduler.stop()

    async def started(self) -> list[str]:
        return await self.database.read(started)

    async def fires(self, name: str = "backup") -> list[tuple[str, str]]:
        rows = await self.database.read(lambda tx: records.find_fires(tx, name, limit=500))
        return [(row.state, row.reason) for row in reversed(rows)]


@pytest.fixture
async def world(open_database: Open) -> AsyncIterator[World]:
    database = await open_database(*TABLES)
    other = await open_database(*TABLES) if database.kind == "postgresql" else database
    made = World(database, other)
    try:
        yield made
    finally:
        for scheduler in made.schedulers:
            await scheduler.stop()


async def test_a_fire_is_one_run(world: World) -> None:
    scheduler = await world.scheduler(spec(parameters={"target": "/var"}, labels={"team": "shop"}, priority=3))
    await world.pass_s(59)
    assert await world.started() == []
    await world.pass_s(1.01)
    assert await world.started() == [key(60)]
    await world.pass_s(60)
    assert await world.started() == [key(60), key(120)]
    request = world.runs.requests[0]
    assert (str(request.actor), request.trigger.kind, request.trigger.name) == ("schedule:backup", "schedule", "backup")
    assert request.trigger.data == {"fire": fire_text(T0 + 60), "fire_s": T0 + 60}
    assert (request.parameters, request.labels, request.priority) == ({"target": "/var"}, {"team": "shop"}, 3)
    view = await world.service(scheduler).show("backup")
    assert (view.state, view.next_s, view.fired, view.last_run_state) == ("active", T0 + 180, 2, "queued")
    assert view.last is not None
    assert (view.last.state, view.last.run_id) == ("started", f"run-{key(120)}")
    text = render(scheduler.metrics())
    assert 'dogwatch_schedule_fires_total{state="started"} 2.0' in text
    assert "dogwatch_schedule_lateness_seconds_count 2.0" in text


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [("skip", []), ("latest", [key(3600)]), ("all", [key(60 * n) for n in range(1, 61)])],
)
async def test_a_restart_loses_and_doubles_nothing(world: World, misfire: str, expected: list[str]) -> None:
    first = await world.scheduler(spec(misfire=misfire))
    await world.stop(first)
    world.clock.advance(3640)
    await world.scheduler(spec(misfire=misfire))
    assert await world.started() == expected
    left_out = 60 - len(expected)
    missed = [reason for state, reason in await world.fires() if state == "missed"]
    assert len(missed) == (left_out > 0)
    assert not missed or missed[0].startswith(f"{left_out} from {fire_text(T0 + 60)}")
    record = await world.database.read(lambda tx: records.find_record(tx, "backup"))
    assert record.missed == left_out
    await world.pass_s(20.01)
    assert await world.started() == [*expected, key(3660)]


async def test_two_schedulers_start_each_fire_once(world: World) -> None:
    specs = [spec(f"s{number}", misfire="all") for number in range(20)]
    await world.scheduler(*specs)
    await world.scheduler(*specs, database=world.other)
    for _ in range(6):
        await world.pass_s(60)
    wanted = sorted(key(60 * minute, f"s{number}") for number in range(20) for minute in range(1, 7))
    assert await world.started() == wanted
    done = [one.counts.fires["started"] for one in world.schedulers]
    assert sum(done) == 120


async def test_a_start_that_is_refused_leaves_only_the_reason(world: World) -> None:
    scheduler = await world.scheduler(spec("forbidden"), spec("broken"))
    await world.pass_s(61)
    assert await world.started() == []
    assert await world.fires("forbidden") == [("refused", "a run of 'forbidden' is not over")]
    assert await world.fires("broken") == [("failed", "parameter 'target' must be given")]
    await world.pass_s(60)
    assert len(await world.fires("forbidden")) == 2
    assert scheduler.counts.fires == {"started": 0, "refused": 2, "failed": 2}
    assert (await world.service(scheduler).show("forbidden")).refused == 2


async def test_a_start_that_fails_for_now_is_tried_again(world: World) -> None:
    world.runs.fail = 3
    await world.scheduler(spec())
    world.clock.advance(61)
    world.schedulers[0]._wake.set()

    async def there() -> list[str]:
        world.clock.advance(0.5)
        world.schedulers[0]._wake.set()
        return await world.started()

    assert await until(there) == [key(60)]


async def test_a_database_that_goes_and_comes_back(world: World) -> None:
    scheduler = await world.scheduler(spec())
    world.database.down = True
    world.clock.advance(70)
    scheduler._wake.set()
    await until(lambda: _value(scheduler.trouble))
    world.database.down = False
    await until(world.started)
    assert await world.started() == [key(60)]
    await until(lambda: _value(not scheduler.trouble))


async def _value(value: Any) -> Any:
    return value


async def test_a_pause_is_audited_and_survives(world: World) -> None:
    scheduler = await world.scheduler(spec(misfire="all"))
    service = world.service(scheduler)
    view = await service.pause("backup", OPERATOR, reason="the disk is being replaced")
    assert (view.state, view.next_s) == ("paused", None)
    assert view.reason == "by user:ada: the disk is being replaced"
    await service.pause("backup", OPERATOR)  # again changes nothing
    await world.pass_s(120)
    assert await world.started() == []
    await world.stop(scheduler)
    scheduler = await world.scheduler(spec(misfire="all"))
    await world.pass_s(120)
    assert await world.started() == []
    assert (await world.service(scheduler).resume("backup", OPERATOR)).state == "active"
    await world.settled(scheduler)
    # What the pause passed over is not made up for.
    assert await world.started() == []
    await world.pass_s(60.01)
    assert await world.started() == [key(300)]
    events = await world.database.read(lambda tx: tx.rows("SELECT body FROM audit_events ORDER BY number"))
    assert [b'"verb":"pause"' in str(row[0]).encode() for row in events] == [True, False]
    assert '"name":"ada"' in str(events[0][0])


async def test_a_pause_elsewhere_is_heard_of(world: World) -> None:
    scheduler = await world.scheduler(spec())
    await world.other.write(lambda tx: records.set_paused(tx, "backup", "user:ada", ""))
    await until(lambda: _value(not scheduler.entries["backup"].active))
    await world.pass_s(61)
    assert await world.started() == []


async def test_another_cron_begins_anew(world: World) -> None:
    scheduler = await world.scheduler(spec(cron="0 0 1 1 *", misfire="all"))
    await world.pass_s(1000)
    await put(scheduler, [spec(misfire="all")])
    await world.settled(scheduler)
    assert await world.started() == []
    await world.pass_s(60)
    assert await world.started() == [key(1020)]
    # Parameters are no reason to begin anew: what is missed meanwhile stays missed.
    await world.stop(scheduler)
    world.clock.advance(120)
    await world.scheduler(spec(misfire="all", parameters={"x": 1}))
    assert await world.started() == [key(1020), key(1080), key(1140)]


async def test_a_removed_schedule_keeps_its_history_for_a_while(world: World) -> None:
    scheduler = await world.scheduler(spec(), keep_s=86_400.0)
    await world.pass_s(61)
    await put(scheduler, [spec("other", job="x", cron="0 0 1 1 *")])
    await world.settled(scheduler)
    await world.pass_s(600)
    assert await world.started() == [key(60)]
    assert len(await world.fires()) == 1
    with pytest.raises(NotFound, match="no schedule 'backup'"):
        await world.service(scheduler).show("backup")
    # It comes back: as if it were new.
    await put(scheduler, [spec(misfire="all")])
    await world.settled(scheduler)
    assert await world.started() == [key(60)]
    await world.pass_s(60)
    assert len(await world.started()) == 2
    await put(scheduler, [])
    await world.settled(scheduler)
    await world.pass_s(90_000)
    assert await world.fires() == []
    assert await world.database.read(records.all_records) == {}


async def test_fires_are_kept_by_number(world: World) -> None:
    scheduler = await world.scheduler(spec(misfire="all", misfire_limit=1000), keep_fires=20)
    await world.stop(scheduler)
    for _ in range(3):
        world.clock.advance(60 * 50)
        scheduler = await world.scheduler(spec(misfire="all", misfire_limit=1000), keep_fires=20)
        await world.stop(scheduler)
    assert len(await world.started()) == 150
    assert len(await world.fires()) <= 20 + 50


async def test_the_clock_jumps_forward(world: World) -> None:
    scheduler = await world.scheduler(spec())
    world.clock.jump(7200)
    await world.pass_s(10)  # until it looks at the clock
    assert await world.started() == [key(7200)]
    assert scheduler.counts.steps == 1
    await world.pass_s(50.01)
    assert await world.started() == [key(7200), key(7260)]


async def test_the_clock_jumps_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = await world.scheduler(spec())
    service = world.service(scheduler)
    await world.pass_s(61)
    world.clock.jump(-3600)
    await world.pass_s(10)
    view = await service.show("backup")
    assert (view.state, view.next_s) == ("behind", T0 + 120)
    assert "the clock was set back" in view.reason
    assert "the clock was set back behind what 1 schedules have fired (backup" in caplog.text
    assert "dogwatch_schedules_behind 1.0" in render(scheduler.metrics())
    await world.pass_s(600)
    assert await world.started() == [key(60)]
    # Without waiting for it: what has run is not run again, and all else is.
    view = await service.resume("backup", OPERATOR, from_now=True)
    await world.settled(scheduler)
    assert view.state == "active"
    for _ in range(52):
        await world.pass_s(60)
    begun = await world.started()
    assert len(begun) == len(set(begun))
    assert key(60) in begun
    assert key(0) in begun
    assert key(120) in begun


@pytest.mark.parametrize(("misfire", "made_up"), [("skip", 0), ("latest", 1), ("all", 100)])
async def test_the_clock_jumps_by_days_over_a_restart(world: World, misfire: str, made_up: int) -> None:
    first = await world.scheduler(spec(misfire=misfire))
    await world.stop(first)
    world.clock.jump(3 * 86400)
    second = await world.scheduler(spec(misfire=misfire))
    last = [key(3 * 86400 - 60 * n) for n in reversed(range(100))]
    # What is due this second is no misfire.
    begun = last[-max(1, made_up) :]
    assert await world.started() == begun
    await world.stop(second)
    # The jump was a mistake, and is taken back while nobody looks.
    world.clock.jump(-2 * 86400)
    third = await world.scheduler(spec(misfire=misfire))
    await world.pass_s(3600)
    assert await world.started() == begun
    assert (await world.service(third).show("backup")).state == "behind"


async def test_a_person_starts_it_now(world: World) -> None:
    scheduler = await world.scheduler(spec(parameters={"target": "/var"}), spec("broken"))
    service = world.service(scheduler)
    first = await service.run("backup", OPERATOR, key="k1", reason="before the move")
    again = await service.run("backup", OPERATOR, key="k1")
    assert (first.created, again.created) == (True, False)
    assert await world.started() == ["schedule/backup/manual-k1"]
    assert await world.fires() == [("manual", "started by user:ada")]
    request = world.runs.requests[0]
    assert (request.actor, request.trigger.kind, request.reason) == (OPERATOR, "schedule", "before the move")
    with pytest.raises(UsageError):
        await service.run("broken", OPERATOR)
    with pytest.raises(NotFound) as caught:
        await service.run("bakup", OPERATOR)
    assert caught.value.hint == "did you mean 'backup'?"


async def test_the_last_configuration_wins(world: World) -> None:
    first = await world.scheduler(spec(cron="*/10 * * * * *", misfire="all"))
    second = await world.scheduler(spec(misfire="all"), database=world.other)
    await until(lambda: _value(not first.entries["backup"].active))
    await world.pass_s(61)
    assert await world.started() == [key(60)]
    assert second.counts.fires["started"] == 1
    assert (await world.service(first).show("backup")).state == "superseded"


async def test_reloads_amid_fires_lose_nothing(world: World) -> None:
    specs = [spec(f"s{number}", cron="*/10 * * * * *", misfire="all") for number in range(5)]
    scheduler = await world.scheduler(*specs)
    for step in range(12):
        world.clock.advance(10)
        scheduler._wake.set()
        await asyncio.sleep(0)
        await put(scheduler, [*specs, spec(f"more{step}", cron="0 0 1 1 *")])
    await world.settled(scheduler)
    wanted = sorted(key(10 * tick, f"s{number}") for number in range(5) for tick in range(1, 13))
    assert await world.started() == wanted


async def test_a_stop_amid_fires_leaves_both_or_neither(world: World) -> None:
    specs = [spec(f"s{number}", misfire="all") for number in range(50)]
    for turn in range(5):
        scheduler = await world.scheduler(*specs)
        world.clock.advance(60)
        scheduler._wake.set()
        await asyncio.sleep(0.002 * turn)
        await world.stop(scheduler)
    await world.scheduler(*specs)
    wanted = sorted(key(60 * minute, f"s{number}") for number in range(50) for minute in range(1, 6))
    assert await world.started() == wanted


async def test_upcoming_and_paused_by_the_configuration(world: World) -> None:
    scheduler = await world.scheduler(spec(paused=True), spec("once", cron="", at=["2020-01-01T00:00"]))
    service = world.service(scheduler)
    assert (await service.show("backup")).state == "disabled"
    assert (await service.show("once")).state == "ended"
    assert service.upcoming("backup", 2) == [T0 + 60, T0 + 120]
    await world.pass_s(61)
    assert await world.started() == []
    await put(scheduler, [spec(misfire="all")])
    await world.settled(scheduler)
    await world.pass_s(60)
    assert await world.started() == [key(120)]


async def test_a_freeze_made_and_ended_while_it_runs(world: World) -> None:
    scheduler = await world.scheduler(spec())
    await world.pass_s(61)
    assert await world.started() == [key(60)]
    freeze = Once(T0 + 90, T0 + 600)
    scheduler.freeze(lambda name: [freeze] if name == "backup" else [])
    await world.pass_s(120)
    assert await world.started() == [key(60)]
    assert (await world.service(scheduler).show("backup")).reason.startswith("frozen by maintenance")
    # Ended early: what it left out stays left out, what follows fires.
    ended = Once(T0 + 90, T0 + 190)
    scheduler.freeze(lambda name: [ended])
    await world.pass_s(60)
    assert await world.started() == [key(60), key(240)]
