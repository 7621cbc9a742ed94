"""Intervals, deadlines, faults: each collector's own."""

from __future__ import annotations

import asyncio
import gc
import math

import pytest
from tests.unit.hosts.fakes import ScriptedCollector, ScriptedSampler, forever

from dogwatch.core.clock import ManualClock
from dogwatch.core.metrics import Counter, render
from dogwatch.errors import TransientError
from dogwatch.hosts.collector import Absent, Moment
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner


class Stage:
    def __init__(self, *every_s: float) -> None:
        # A round number, so that ticks are on it.
        self.clock = ManualClock(monotonic_s=9000.0)
        self.taken: list[tuple[float, list[str]]] = []
        self.runner = Runner(
            self.clock,
            lambda at, entries: self.taken.append((at.monotonic_s, [entry.name for entry in entries])),
            second_s=math.inf,
        )
        self.entries: list[Entry] = []
        for index, interval in enumerate(every_s):
            collector = ScriptedCollector()
            entry = Entry(collector, collector.open(Machine()), every_s=interval)
            entry.name = f"c{index}"
            self.entries.append(entry)
        self.runner.replace({entry.name: entry for entry in self.entries})

    def sampler(self, index: int = 0) -> ScriptedSampler:
        sampler = self.entries[index].sampler
        assert isinstance(sampler, ScriptedSampler)
        return sampler

    def advance(self, seconds: float) -> float:
        self.clock.advance(seconds)
        return self.runner.run_due()

    async def settle(self) -> None:
        for entry in self.entries:
            while entry.task is not None:
                await asyncio.wait([entry.task])

    async def close(self) -> None:
        for entry in self.entries:
            await entry.close()


async def test_each_has_its_own_interval_and_common_ticks_are_taken_together() -> None:
    stage = Stage(10.0, 15.0)
    assert stage.runner.run_due() == 10.0, "all run at once at the start"
    waits = [stage.advance(5.0) for _ in range(6)]
    assert waits == [5.0, 5.0, 5.0, 10.0, 5.0, 10.0]
    assert [(at - 9000, names) for at, names in stage.taken] == [
        (0.0, ["c0", "c1"]),
        (10.0, ["c0"]),
        (15.0, ["c1"]),
        (20.0, ["c0"]),
        (30.0, ["c0", "c1"]),
    ]
    assert all(entry.skipped.value == entry.late.value == 0 for entry in stage.entries)


async def test_ticks_that_passed_are_skipped_and_counted_and_never_caught_up() -> None:
    stage = Stage(10.0)
    stage.runner.run_due()
    assert stage.advance(47.0) == 3.0, "back on its grid"
    assert len(stage.sampler().at) == 2
    entry = stage.entries[0]
    assert (entry.skipped.value, entry.late.value) == (3, 1)
    text = render(stage.runner.families())
    assert 'dogwatch_collector_skipped_total{collector="scripted"} 3' in text
    assert 'dogwatch_collector_late_total{collector="scripted"} 1' in text


async def test_the_wall_clock_may_jump() -> None:
    stage = Stage(10.0)
    stage.runner.run_due()
    for jump in (86400.0, -172800.0):
        stage.clock.jump(jump)
        assert stage.runner.run_due() == 10.0, "a jump is no reason to run"
    stage.advance(10.0)
    assert len(stage.sampler().at) == 2
    assert stage.sampler().at[1].time_s - stage.sampler().at[0].time_s == 10.0 - 86400.0
    assert stage.entries[0].skipped.value == 0


async def test_one_that_hangs_blocks_only_itself_and_is_given_up_at_its_deadline() -> None:
    stage = Stage(10.0, 10.0)
    stage.sampler(0).step = forever
    stage.runner.run_due()
    stage.advance(10.0)
    hung, well = stage.entries
    assert (len(stage.sampler(0).at), len(stage.sampler(1).at)) == (1, 2), "no overlap with itself"
    assert hung.skipped.value == 1
    await stage.settle()
    assert hung.view().message == "gave no answer in 50ms"
    assert not hung.view().ok
    assert (hung.timeouts.value, hung.errors.value) == (1, 1)
    assert well.view().ok
    assert 'dogwatch_collector_trouble{collector="scripted"} 1.0' in render(stage.runner.families())
    stage.sampler(0).step = lambda _at: None
    stage.advance(10.0)
    assert hung.view().ok
    assert hung.view().message == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/proc/x"), "cannot read /proc/x: Permission denied"),
        (TransientError("the engine is away"), "the engine is away"),
        (ZeroDivisionError("division by zero"), "not understood: ZeroDivisionError: division by zero"),
    ],
)
async def test_a_fault_is_recorded_and_what_it_showed_is_withdrawn(error: Exception, message: str) -> None:
    stage = Stage(10.0, 10.0)
    stage.runner.run_due()
    assert render(stage.runner.families()).count("\nnode_scripted 1") == 2

    def fail(_at: Moment) -> None:
        raise error

    stage.sampler(0).step = fail
    stage.advance(10.0)
    assert stage.entries[0].view().message == message
    assert not stage.entries[0].view().ok
    text = render(stage.runner.families())
    assert text.count("\nnode_scripted ") == 1
    assert 'node_scrape_collector_success{collector="scripted"} 0.0' in text
    assert stage.taken[-1] == (9010.0, ["c1"])


async def test_a_fault_that_decoding_finds_is_recorded_too() -> None:
    stage = Stage(10.0)
    stage.runner.run_due()
    stage.sampler().bad_families = ValueError("not a number")
    assert "node_scripted" not in render(stage.runner.families())
    assert stage.entries[0].view().message == "not understood: ValueError: not a number"
    assert stage.entries[0].errors.value == 1


async def test_what_a_machine_has_not_is_no_trouble() -> None:
    stage = Stage(10.0)

    def absent(_at: Moment) -> None:
        raise Absent("no such thing here")

    stage.sampler().step = absent
    stage.runner.run_due()
    view = stage.entries[0].view()
    assert view.ok
    assert view.message == "no such thing here"
    assert stage.entries[0].errors.value == 0
    text = render(stage.runner.families())
    assert 'node_scrape_collector_success{collector="scripted"} 0.0' in text
    assert 'dogwatch_collector_trouble{collector="scripted"} 0.0' in text


async def test_closing_ends_a_run_that_is_under_way() -> None:
    stage = Stage(10.0)
    stage.sampler().step = forever
    stage.runner.run_due()
    task = stage.entries[0].task
    assert task is not None
    # Before its first step, as well: nothing may be left that was never awaited.
    await stage.close()
    assert task.cancelled()
    assert stage.sampler().closed == 1
    gc.collect()


async def test_a_replaced_entry_announces_nothing() -> None:
    stage = Stage(10.0)
    release = asyncio.Event()

    async def wait(_at: Moment) -> None:
        await release.wait()

    stage.sampler().step = wait
    stage.runner.run_due()
    await asyncio.sleep(0)
    stage.runner.replace({})
    release.set()
    await stage.settle()
    assert stage.taken == []


async def test_replacing_wakes_the_loop() -> None:
    stage = Stage()
    task = asyncio.get_running_loop().create_task(stage.runner.run())
    await asyncio.sleep(0)
    collector = ScriptedCollector()
    entry = Entry(collector, collector.open(Machine()), every_s=1000.0)
    stage.runner.replace({"scripted": entry})
    async with asyncio.timeout(60):
        while not entry.runs.value:  # noqa: ASYNC110  # a counter, not an event
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


def test_the_second_sample_comes_early_and_the_grid_is_kept() -> None:
    entry = Entry.__new__(Entry)
    entry.every_s, entry.due_s, entry.early = 15.0, -math.inf, False
    entry.next_due(1000.0, 2.0)
    assert entry.due_s == 1002.0
    entry.next_due(1002.0, 2.0)
    assert entry.due_s == 1005.0
    entry.skipped = Counter()
    entry.next_due(1005.0, 2.0)
    assert entry.due_s == 1020.0
