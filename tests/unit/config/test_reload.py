"""The transaction of a reload over scripted parts: order, every way to fail, coalescing, deadlines, what is told."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.config.watchlike import CATALOG, SERVER, until

from dogwatch.config.deadlines import Deadlines
from dogwatch.config.load import Loader
from dogwatch.config.part import Configuration, Part, Prepared
from dogwatch.config.reload import STOPPING, Reloader
from dogwatch.config.status import STEPS, ReloadRecord
from dogwatch.config.trace import HISTORY, History, Trace
from dogwatch.core.bus import Bus
from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.core.metrics import render
from dogwatch.errors import ConfigError, DogwatchError, Problem

Fail = Callable[[], None]


class Script:
    """What parts did, and what they are to do: `("start", "a")` raises fails[("start", "a")]."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.collecting: list[bool] = []
        self.fails: dict[tuple[str, str], Exception] = {}
        self.hang: set[tuple[str, str]] = set()
        self.gate: asyncio.Event | None = None

    def did(self, what: str, name: str) -> None:
        self.log.append(f"{what} {name}")
        if (what, name) in self.fails:
            raise self.fails[(what, name)]

    async def wait(self, what: str, name: str) -> None:
        if (what, name) in self.hang:
            await asyncio.Event().wait()
        if self.gate is not None:
            await self.gate.wait()


class Change:
    def __init__(self, script: Script, name: str) -> None:
        self.script, self.name = script, name

    async def start(self) -> None:
        self.script.did("start", self.name)
        await self.script.wait("start", self.name)

    def swap(self) -> None:
        self.script.did("swap", self.name)

    async def finish(self) -> None:
        self.script.did("finish", self.name)
        await self.script.wait("finish", self.name)

    async def discard(self) -> None:
        self.script.did("discard", self.name)
        await self.script.wait("discard", self.name)


class ScriptedPart:
    def __init__(self, script: Script, name: str) -> None:
        self.script, self.name = script, name
        self.seen: list[str] = []

    def prepare(self, configuration: Configuration) -> Prepared:
        self.script.collecting.append(gc.isenabled())
        self.script.did("prepare", self.name)
        self.seen.append(configuration.get(SERVER).listen)
        return Change(self.script, self.name)

    async def stop(self) -> None:
        self.script.did("stop", self.name)


class World:
    """A configuration file, two parts and a reloader."""

    def __init__(self, folder: Path, deadlines: Deadlines | None = None) -> None:
        self.path = folder / "dogwatch.yaml"
        self.write("one")
        self.script = Script()
        self.parts = [ScriptedPart(self.script, "a"), ScriptedPart(self.script, "b")]
        self.bus = Bus()
        parts: list[Part] = list(self.parts)
        loader = Loader([self.path], CATALOG, environ={})
        self.reloader = Reloader(loader, parts, clock=SystemClock(), bus=self.bus, deadlines=deadlines)

    def write(self, listen: str) -> None:
        self.path.write_text(f"server: {{listen: {listen}}}\n")

    async def started(self) -> World:
        await self.reloader.start()
        self.script.log.clear()
        return self

    @property
    def log(self) -> list[str]:
        return self.script.log


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_the_first_configuration_takes_the_same_way(world: World) -> None:
    loaded = await world.reloader.start()
    assert loaded.get(SERVER).listen == "one"
    assert world.log == ["prepare a", "prepare b", "start a", "start b", "swap a", "swap b", "finish a", "finish b"]
    record = world.reloader.history()[0]
    assert (record.trigger, record.outcome, record.number) == ("start", "applied", 1)
    assert [step.name for step in record.steps] == list(STEPS)


async def test_a_bad_first_configuration_raises_every_problem(world: World) -> None:
    world.path.write_text("server: {listn: x}\nsevrer:\n")
    with pytest.raises(ConfigError) as caught:
        await world.reloader.start()
    assert len(caught.value.problems) == 2
    assert world.log == []


async def test_a_change_is_applied_and_named(world: World) -> None:
    await world.started()
    world.path.write_text("server: {listen: two, workers: 3}\nprobes: [{name: p, icmp: {}}]\n")
    with world.bus.subscribe("reload") as events:
        record = await world.reloader.reload("signal")
        told = [events._events.popleft().data.outcome for _ in range(2)]  # type: ignore[attr-defined]
    assert told == ["running", "applied"]
    assert (record.outcome, record.trigger) == ("applied", "signal")
    assert set(record.changed) == {"~server.listen", "+server.workers", "+probes.p"}
    assert world.parts[1].seen == ["one", "two"]
    assert [step.name for step in record.steps] == list(STEPS)
    assert all(step.duration_s >= 0 for step in record.steps)


async def test_a_plan_tells_what_would_change_and_undoes_what_it_built(world: World) -> None:
    await world.started()
    assert (await world.reloader.plan()).outcome == "unchanged"
    assert world.log == []
    world.path.write_text("server: {listen: two, workers: 3}\nprobes: [{name: p, icmp: {}}]\n")
    plan = await world.reloader.plan()
    assert world.log == ["prepare a", "prepare b", "discard b", "discard a"]
    assert (plan.outcome, plan.total, plan.problems) == ("applies", 3, [])
    assert [(one.section, one.name, one.what) for one in plan.differences] == [
        ("server", "listen", "changed"),
        ("server", "workers", "added"),
        ("probes", "p", "added"),
    ]
    assert plan.counts["server"] == {"added": 1, "changed": 1, "removed": 0}
    assert world.reloader.current is not None
    assert world.reloader.current.get(SERVER).listen == "one"
    assert len(world.reloader.history()) == 1, "a plan is no reload"


async def test_a_plan_that_would_fail_tells_every_complaint(world: World) -> None:
    await world.started()
    world.path.write_text("server: {listen: two}\n")
    world.script.fails[("prepare", "a")] = ConfigError([Problem("is elsewhere", "server.listen", restart=True)])
    world.script.fails[("prepare", "b")] = DogwatchError("no room", hint="make some")
    plan = await world.reloader.plan()
    assert plan.outcome == "fails"
    assert plan.problems == ["server.listen: is elsewhere", "b: no room; make some"]
    assert plan.restart == ["server.listen: is elsewhere"]
    assert [one.name for one in plan.differences] == ["listen"]
    world.path.write_text("server: {listn: two}\n")
    assert "unknown option" in (await world.reloader.plan()).problems[0]
    world.path.unlink()
    assert (await world.reloader.plan()).outcome == "fails"


async def test_a_plan_and_a_reload_take_turns(world: World) -> None:
    await world.started()
    world.write("two")
    gate = world.script.gate = asyncio.Event()
    plan = asyncio.create_task(world.reloader.plan())
    await until(lambda: "discard b" in world.log)
    reload = asyncio.create_task(world.reloader.reload("api"))
    for _ in range(100):  # time for a reload that does not wait
        await asyncio.sleep(0.001)
    assert world.log == ["prepare a", "prepare b", "discard b"]
    gate.set()
    assert (await plan).outcome == "applies"
    assert (await reload).outcome == "applied"
    assert world.log[3:6] == ["discard a", "prepare a", "prepare b"]


async def test_a_plan_is_bounded_and_lets_no_collector_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = await World(tmp_path, Deadlines(stop_s=0.01)).started()
    world.write("two")
    world.script.hang = {("discard", "b")}
    world.script.collecting.clear()
    async with asyncio.timeout(60):
        assert (await world.reloader.plan()).outcome == "applies"
    assert world.log[-1] == "discard a"
    assert world.script.collecting == [False, False]
    assert "could not undo" in caplog.text


async def test_the_same_meaning_is_unchanged(world: World) -> None:
    await world.started()
    world.path.write_text("# a comment\nserver:\n  listen: one\n")
    record = await world.reloader.reload("api")
    assert (record.outcome, world.log) == ("unchanged", [])
    assert [step.name for step in record.steps] == ["detected", "parsed"]


async def test_a_bad_file_changes_nothing_and_stands_until_mended(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.started()
    world.path.write_text("server: {workers: 0, lisen: x}\n")
    record = await world.reloader.reload("file")
    assert record.outcome == "failed"
    assert [line.split(": ")[1] for line in record.problems] == ["server.workers", "server.lisen"]
    assert (world.log, world.reloader.failing) == ([], record)
    assert world.reloader.current is not None
    assert world.reloader.current.get(SERVER).listen == "one"
    assert "the old configuration stays in force" in caplog.text
    assert "dogwatch_reload_successful 0.0" in render(world.reloader.families())
    # Back to what is in force: nothing to apply, and nothing to complain about any more.
    world.write("one")
    assert (await world.reloader.reload("file")).outcome == "unchanged"
    assert world.reloader.failing is None
    assert "dogwatch_reload_successful 1.0" in render(world.reloader.families())
    assert [one.outcome for one in world.reloader.history()] == ["unchanged", "failed", "applied"]


async def test_complaints_of_all_parts_are_told_together(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.fails[("prepare", "a")] = ConfigError([Problem("no such certificate", file="f", line=3)])
    world.script.fails[("prepare", "b")] = DogwatchError("port taken", hint="free it")
    record = await world.reloader.reload("api")
    assert record.problems == ("f:3: no such certificate", "b: port taken; free it")
    assert [step.name for step in record.steps] == ["detected", "parsed", "validated"]


@pytest.mark.parametrize(
    ("step", "part", "log"),
    [
        ("prepare", "b", ["prepare a", "prepare b", "discard a"]),
        ("start", "a", ["prepare a", "prepare b", "start a", "discard b", "discard a"]),
        ("start", "b", ["prepare a", "prepare b", "start a", "start b", "discard b", "discard a"]),
    ],
)
@pytest.mark.parametrize("error", [OSError(98, "Address already in use"), RuntimeError("a bug"), DogwatchError("no")])
async def test_every_failure_before_the_swap_is_undone_in_reverse(
    world: World, step: str, part: str, log: list[str], error: Exception
) -> None:
    await world.started()
    world.write("two")
    world.script.fails[(step, part)] = error
    record = await world.reloader.reload("api")
    assert (record.outcome, world.log) == ("failed", log)
    assert len(record.problems) == 1
    assert world.reloader.current is not None
    assert world.reloader.current.get(SERVER).listen == "one"
    # The next good one is applied.
    world.script.fails.clear()
    assert (await world.reloader.reload("api")).outcome == "applied"


async def test_a_discard_that_fails_does_not_keep_the_others_from_theirs(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.fails = {("start", "b"): OSError("x"), ("discard", "b"): RuntimeError("y")}
    await world.reloader.reload("api")
    assert world.log[-2:] == ["discard b", "discard a"]


async def test_after_the_swap_there_is_no_way_back(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.fails = {("swap", "a"): RuntimeError("bug"), ("finish", "a"): OSError("x")}
    record = await world.reloader.reload("api")
    assert record.outcome == "applied"
    assert [line.split(":")[0] for line in record.problems] == ["a", "a"]
    assert world.log[-4:] == ["swap a", "swap b", "finish a", "finish b"]
    assert world.reloader.current is not None
    assert world.reloader.current.get(SERVER).listen == "two"


async def test_phases_are_bounded(tmp_path: Path) -> None:
    world = await World(tmp_path, Deadlines(start_s=0.01, stop_s=0.01)).started()
    world.write("two")
    world.script.hang = {("start", "b"), ("discard", "b")}
    record = await world.reloader.reload("api")
    assert record.problems == ("starting the new configuration took longer than 0.01 s",)
    assert world.log[-1] == "discard a"
    world.script.hang = {("finish", "a")}
    record = await world.reloader.reload("api")
    assert record.outcome == "applied"
    assert "stopping the old of a took longer" in record.problems[0]
    assert world.log[-1] == "finish b"


async def test_whoever_asks_during_a_reload_shares_the_next_one(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.gate = asyncio.Event()
    first = asyncio.create_task(world.reloader.reload("signal"))
    await until(lambda: "start a" in world.log)
    assert world.reloader.history()[0].outcome == "running"
    world.write("three")
    others = [asyncio.create_task(world.reloader.reload("api")) for _ in range(5)]
    await asyncio.sleep(0)
    world.script.gate.set()
    records = await asyncio.gather(first, *others)
    assert [record.number for record in records] == [2, 3, 3, 3, 3, 3]
    assert world.parts[0].seen == ["one", "two", "three"]


async def test_a_caller_that_goes_away_leaves_the_reload_running(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.gate = asyncio.Event()
    asked = asyncio.create_task(world.reloader.reload("api"))
    await until(lambda: "start a" in world.log)
    asked.cancel()
    await asyncio.wait([asked])
    world.script.gate.set()
    assert (await world.reloader.reload("api")).outcome == "unchanged"
    assert world.parts[0].seen == ["one", "two"]


async def test_close_undoes_what_has_not_swapped_and_frees_every_waiter(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.gate = asyncio.Event()
    asked = [asyncio.create_task(world.reloader.reload("api"))]
    await until(lambda: "start a" in world.log)
    asked.append(asyncio.create_task(world.reloader.reload("signal")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(world.reloader.close())
    await asyncio.sleep(0)
    world.script.gate.set()
    await closing
    records: list[ReloadRecord] = await asyncio.gather(*asked)
    assert [record.problems for record in records] == [(STOPPING,)] * 2
    assert world.log[-2:] == ["discard b", "discard a"]
    assert (await world.reloader.reload("api")).problems == (STOPPING,)


async def test_close_lets_a_swapped_reload_stop_the_old(world: World) -> None:
    await world.started()
    world.write("two")
    world.script.hang = set()
    asked = asyncio.create_task(world.reloader.reload("api"))
    while "swap b" not in world.log:
        world.script.gate = asyncio.Event() if "start b" in world.log else None
        await asyncio.sleep(0)
    gate = world.script.gate
    closing = asyncio.create_task(world.reloader.close())
    await asyncio.sleep(0)
    if gate is not None:
        gate.set()
    await closing
    assert (await asked).outcome == "applied"
    assert world.log[-1] == "finish b"


async def test_a_configuration_that_was_already_read_is_not_read_again(world: World) -> None:
    loaded = Loader([world.path], CATALOG, environ={}).load()
    world.path.unlink()
    assert await world.reloader.start(loaded) is loaded


def ended(number: int, outcome: str, trigger: str = "file") -> ReloadRecord:
    trace = Trace(ManualClock(), number=number, trigger=trigger, since_s=0.5)
    return trace.end(outcome, problems=["x"] * 500 if outcome == "failed" else ())


def test_history_is_bounded_and_leaves_out_touched_files() -> None:
    history = History()
    for number in range(200):
        history.end(ended(number, "applied"))
        history.end(ended(number, "unchanged"))
    assert len(history.records()) == HISTORY
    assert {record.outcome for record in history.records()} == {"applied"}
    history.end(ended(300, "failed", "anything a caller may say"))
    assert history.records()[0].trigger == "api"
    assert history.records()[0].problems[-1] == "… and 300 more"
    text = render(history.families())
    assert 'dogwatch_reload_total{outcome="applied",trigger="file"} 200.0' in text
    assert 'dogwatch_reload_total{outcome="unchanged",trigger="file"} 200.0' in text
    assert 'dogwatch_reload_step_duration_seconds{step="detected"} 0.5' in text
    assert "dogwatch_reload_last_success_timestamp_seconds 1800000000.0" in text


def test_nothing_is_claimed_before_the_first_reload() -> None:
    assert render(History().families()) == ""


async def test_a_lane_that_hangs_is_told_and_not_doubled(world: World, caplog: pytest.LogCaptureFixture) -> None:
    import threading

    released = threading.Event()

    class Hanging(Loader):
        def parse(self):  # type: ignore[no-untyped-def]
            released.wait(20)
            return super().parse()

    caplog.set_level(logging.ERROR)
    loader = Hanging([world.path], CATALOG, environ={})
    deadlines = Deadlines(load_s=0.05)
    reloader = Reloader(loader, [], clock=SystemClock(), bus=Bus(), deadlines=deadlines)
    for _ in range(3):
        record = await reloader.reload("api")
        assert record.problems == ("reading the configuration took longer than 0.05 s",)
    assert [thread.name for thread in threading.enumerate()].count("config-load") == 1
    released.set()
    await until(lambda: not reloader._lane.stuck)
    assert (await reloader.reload("api")).outcome == "applied"
