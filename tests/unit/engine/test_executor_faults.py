"""One claimed run when the database, the lease or the worker goes: nothing is done twice, nothing is lost."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.engine_fakes import step
from tests.unit.engine.executor_bench import Bench, S, _row, forever, states, until

from dogwatch.engine.action import Outcome, Scene, Wait
from dogwatch.engine.ledger import Advance, Order
from dogwatch.engine.values import RunState


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_while_the_database_is_gone_the_run_waits_and_repeats_nothing(bench: Bench) -> None:
    times = 0

    async def count(scene: Scene) -> Outcome:
        nonlocal times
        times += 1
        bench.ledger.trouble = 3
        return Outcome()

    run = await bench.run(step("a", count), step("b"))
    assert (run.run.state, times) == (RunState.SUCCEEDED, 1)


async def test_a_run_that_is_anothers_by_now_is_dropped_with_what_it_runs(bench: Bench) -> None:
    ended = []

    async def slow(scene: Scene) -> Outcome:
        try:
            return await forever(scene)
        finally:
            ended.append(scene.step)

    go = asyncio.Event()

    async def quick(scene: Scene) -> Outcome:
        await go.wait()
        return Outcome()

    run = bench.ledger.add(step("slow", slow), step("quick", quick, needs=[]))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    run.fence += 1
    before = dict(run.steps)
    go.set()
    await task
    assert ended == ["slow"]
    assert run.steps == before


async def test_an_action_does_not_go_on_once_the_lease_is_lost(bench: Bench) -> None:
    went_on = []
    wake = asyncio.Event()

    async def effect(scene: Scene) -> Outcome:
        await wake.wait()
        went_on.append("effect")
        return Outcome()

    run = bench.ledger.add(step("a", effect))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    await asyncio.sleep(0.01)
    bench.held = False
    wake.set()
    await task
    assert went_on == []
    assert run.steps["a"].state is S.RUNNING, "nothing is written"


async def test_a_stop_lets_steps_finish_and_begins_none(bench: Bench) -> None:
    go = asyncio.Event()

    async def wait(scene: Scene) -> Outcome:
        await go.wait()
        return Outcome()

    run = bench.ledger.add(step("a", wait), step("b"))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    execution.stop()
    go.set()
    await task
    assert states(run) == {"a": "succeeded"}
    assert run.run.state is RunState.RUNNING


async def test_a_step_that_does_not_finish_in_time_is_cut_and_made_again(bench: Bench) -> None:
    run = bench.ledger.add(step("a", forever))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    execution.cut()
    await task
    assert (run.steps["a"].state, run.steps["a"].cut) == (S.RUNNING, True)
    assert run.text("note") == "its worker was stopped while it ran\n"


async def test_output_is_masked_across_writes_kept_in_order_and_bounded(bench: Bench) -> None:
    async def talk(scene: Scene) -> Outcome:
        scene.write("a pass")
        scene.write("word here\n")
        scene.write(b"\xe2\x82", "stderr")
        scene.write(b"\xac\n", "stderr")
        scene.write("the end is a pass")
        return Outcome()

    run = await bench.run(step("a", talk), secrets={"p": "password"})
    assert run.text() == "a *** here\nthe end is a pass"
    assert run.text("stderr") == "€\n"
    assert [chunk.sequence for chunk in run.output] == sorted({chunk.sequence for chunk in run.output})

    async def flood(scene: Scene) -> Outcome:
        for _ in range(80):
            scene.write("x" * 100_000)
        await asyncio.sleep(0.05)
        scene.write("after")
        return Outcome()

    run = await bench.run(step("a", flood))
    assert len(run.text()) <= 4 * 1024 * 1024 + 5
    assert "of output were lost" in run.text("note")
    assert run.text().endswith("after")


async def test_output_comes_while_the_step_runs_and_is_on_disk_before_its_end(bench: Bench) -> None:
    go = asyncio.Event()

    async def talk(scene: Scene) -> Outcome:
        scene.write("first\n")
        await go.wait()
        scene.write("last\n")
        return Outcome()

    run = bench.ledger.add(step("a", talk))
    task = asyncio.create_task(bench.execution(run).run())
    await until(lambda: run.text() == "first\n")
    go.set()
    await task
    assert run.text() == "first\nlast\n"
    ends = [index for index, call in enumerate(bench.ledger.calls) if call in ("append", "advance")]
    assert bench.ledger.calls[ends[-2]] == "append"


async def test_an_error_of_the_engine_fails_the_run_instead_of_claiming_it_for_ever(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    run = bench.ledger.add(step("a"))

    async def broken(change: Advance) -> Order:
        bench.ledger.advance = whole  # type: ignore[method-assign]
        raise RuntimeError("a bug")

    whole = bench.ledger.advance
    bench.ledger.advance = broken  # type: ignore[method-assign]
    await bench.carry(run)
    assert (run.run.state, run.run.reason) == (RunState.FAILED, "the engine failed: RuntimeError: a bug")
    assert "cannot be carried out" in caplog.text


async def test_services_are_found_by_type_or_said_to_be_missing(bench: Bench) -> None:
    bench.services.add(dict, {"a": 1})

    async def use(scene: Scene) -> Outcome:
        assert scene.get(dict) == {"a": 1}
        scene.get(list)
        raise AssertionError

    run = await bench.run(step("a", use))
    assert run.steps["a"].reason == "this program has no list"


async def test_what_was_paused_or_cancelled_before_a_step_was_written_as_begun_is_not_begun(bench: Bench) -> None:
    began = []

    async def note(scene: Scene) -> Outcome | Wait:
        began.append((scene.step, scene.signal))
        return Outcome() if scene.woken or scene.step == "b" else Wait(note="")

    run = bench.ledger.add(step("a", note), step("b", note))
    await bench.carry(run)
    run.order = Order(paused=True)
    bench.ledger.signal(run, "a", "yes")
    execution = bench.execution(run)
    # It was paused after the claim, and the run hears of it with the answer to its first change.
    execution._order = Order()
    await execution.run()
    assert began == [("a", None)]
    assert run.steps["a"].state is S.WAITING
    run.order = Order()
    await bench.carry(run)
    assert began == [("a", None), ("a", "yes"), ("b", None)]
    assert [row.attempt for row in run.steps.values()] == [1, 1]
    other = bench.ledger.add(step("b", note), step("clean", always=True))
    execution = bench.execution(other)
    other.order = Order(cancel="enough")
    await execution.run()
    assert states(other) == {"b": "cancelled", "clean": "succeeded"}
    assert len(began) == 3


async def test_a_run_that_cannot_even_be_read_fails_and_kills_no_worker(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    run = bench.ledger.add(step("a"))
    run.steps["gone"] = msgspec.structs.replace(_row(run, "gone"), state=S.RUNNING, attempt=1)
    await bench.carry(run)
    assert run.run.state is RunState.FAILED
    assert run.run.reason.startswith("the engine failed: KeyError")
    assert "cannot be carried out" in caplog.text


async def test_a_stop_that_comes_while_a_step_is_written_as_begun_keeps_it_from_beginning(bench: Bench) -> None:
    began = []

    async def note(scene: Scene) -> Outcome:
        began.append(scene.step)
        return Outcome()

    run = bench.ledger.add(step("a", note))
    execution = bench.execution(run)
    write = bench.ledger.advance

    async def stopped_meanwhile(change: Advance) -> Order:
        order = await write(change)
        execution.stop()
        return order

    bench.ledger.advance = stopped_meanwhile  # type: ignore[method-assign]
    await execution.run()
    assert (began, run.steps["a"].state, run.steps["a"].attempt) == ([], S.PENDING, 0)
