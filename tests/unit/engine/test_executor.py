"""One claimed run, carried out against a ledger in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.engine_fakes import Do, Each, FakeLedger, FakeRun, PlainLanguage, step

from dogwatch.core.clock import SystemClock
from dogwatch.engine import executor as executor_module
from dogwatch.engine.action import Outcome, Scene, Wait
from dogwatch.engine.executor import Execution, Tools
from dogwatch.engine.ledger import Advance, Order
from dogwatch.engine.scene import Services
from dogwatch.engine.spec import Retry
from dogwatch.engine.values import RunState, StepState
from dogwatch.errors import PermanentError, TransientError

S = StepState


class Bench:
    """A ledger, and executions of its runs."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()
        self.services = Services()
        self.held = True

    def execution(self, run: FakeRun) -> Execution:
        tools = Tools(
            ledger=self.ledger,
            language=PlainLanguage(),
            services=self.services,
            clock=SystemClock(),
            held=lambda: self.held,
        )
        return Execution(self.ledger.claimed(run), tools)

    async def carry(self, run: FakeRun) -> FakeRun:
        async with asyncio.timeout(60):
            await self.execution(run).run()
        return run

    async def run(self, *steps: Any, **options: Any) -> FakeRun:
        return await self.carry(self.ledger.add(*steps, **options))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def states(run: FakeRun) -> dict[str, str]:
    return {name: row.state.value for name, row in run.steps.items()}


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.001)


async def fail(scene: Scene) -> Outcome:
    raise PermanentError("no such file", hint="look for it")


async def forever(scene: Scene) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def test_each_step_is_on_disk_as_running_before_its_action_runs(bench: Bench) -> None:
    seen = []

    async def look(scene: Scene) -> Outcome:
        seen.append((scene.step, run.steps[scene.step].state, {n: r.state for n, r in run.steps.items()}))
        return Outcome(outputs={"from": scene.step})

    run = bench.ledger.add(step("a", look), step("b", look))
    await bench.carry(run)
    assert run.run.state is RunState.SUCCEEDED
    assert seen == [("a", S.RUNNING, {"a": S.RUNNING}), ("b", S.RUNNING, {"a": S.SUCCEEDED, "b": S.RUNNING})]
    # The end of one step and the beginning of the next are one change.
    assert [[row.name for row in change.steps] for change in bench.ledger.changes] == [["a"], ["a", "b"], ["b"]]


async def test_a_run_without_steps_is_one_change(bench: Bench) -> None:
    run = await bench.run()
    assert run.run.state is RunState.SUCCEEDED
    assert bench.ledger.calls == ["advance"]


async def test_steps_that_need_nothing_of_each_other_run_at_the_same_time(bench: Bench) -> None:
    both = asyncio.Barrier(2)

    async def meet(scene: Scene) -> Outcome:
        await both.wait()
        return Outcome()

    run = await bench.run(step("a", meet, needs=[]), step("b", meet, needs=[]))
    assert states(run) == {"a": "succeeded", "b": "succeeded"}


async def test_a_failure_cancels_what_runs_and_waits_for_its_clean_up(bench: Bench) -> None:
    cleaned = []

    async def slow(scene: Scene) -> Outcome:
        try:
            return await forever(scene)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(scene.step)

    run = await bench.run(
        step("bad", fail, needs=[]), step("slow", slow, needs=[]), step("clean", needs=["slow"], always=True)
    )
    assert states(run) == {"bad": "failed", "slow": "cancelled", "clean": "succeeded"}
    assert cleaned == ["slow"]
    assert run.run.state is RunState.FAILED
    assert run.run.reason == "bad failed: no such file (look for it)"
    assert run.steps["slow"].reason == "bad failed"


async def test_a_transient_error_is_tried_again_a_permanent_one_is_not(bench: Bench) -> None:
    tried: list[int] = []

    async def shaky(scene: Scene) -> Outcome:
        tried.append(scene.attempt)
        if scene.attempt < 3:
            raise TransientError("busy", retry_after_s=0.01)
        raise PermanentError("gone")

    run = await bench.run(step("a", shaky, retry=Retry(attempts=9, base=0.0, on="transient")))
    assert tried == [1, 2, 3]
    assert run.steps["a"].reason == "gone"


async def test_what_the_other_side_asked_for_is_waited(bench: Bench) -> None:
    times = []

    async def busy(scene: Scene) -> Outcome:
        times.append(time.monotonic())
        if scene.attempt == 1:
            raise TransientError("busy", retry_after_s=0.2)
        return Outcome()

    await bench.run(step("a", busy, retry=Retry(attempts=2, base=0.0)))
    assert times[1] - times[0] >= 0.2


async def test_an_attempt_that_takes_too_long_is_cancelled_and_may_be_tried_again(bench: Bench) -> None:
    async def hang(scene: Scene) -> Outcome:
        assert 0.0 < scene.remaining_s() <= 0.05
        return await forever(scene) if scene.attempt == 1 else Outcome()

    run = await bench.run(step("a", hang, timeout=0.05, retry=Retry(attempts=2, base=0.0, on="transient")))
    assert run.run.state is RunState.SUCCEEDED
    assert run.steps["a"].attempt == 2
    run = await bench.run(step("a", forever, timeout=0.05))
    assert run.steps["a"].reason == "took longer than 50ms"


async def test_the_runs_time_is_over(bench: Bench) -> None:
    run = await bench.run(step("a", forever), step("b", always=True), deadline_s=time.time() + 0.05, timeout=60.0)
    assert states(run) == {"a": "cancelled", "b": "succeeded"}
    assert (run.run.state, run.run.reason) == (RunState.FAILED, "the run took longer than 1m")


async def test_an_error_that_no_action_should_raise_is_a_failed_step(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scene: Scene) -> Outcome:
        raise ZeroDivisionError("oops s3cr3t")

    async def leaves(scene: Scene) -> Outcome:
        raise SystemExit(3)

    run = await bench.run(
        step("a", broken, needs=[]), step("b", leaves, needs=[]), on_error="collect", secrets={"x": "s3cr3t"}
    )
    assert run.steps["a"].reason == "unexpected ZeroDivisionError: oops ***"
    assert run.steps["b"].reason == "unexpected SystemExit: 3"
    assert "failed in a way that its action does not know" in caplog.text
    assert "ZeroDivisionError: oops ***" in caplog.text


async def test_a_cancel_from_inside_is_a_failure(bench: Bench) -> None:
    async def odd(scene: Scene) -> Outcome:
        raise asyncio.CancelledError

    run = await bench.run(step("a", odd))
    assert (run.steps["a"].state, run.steps["a"].reason) == (S.FAILED, "was cancelled from inside")


async def test_cancel_reaches_the_action_and_cleanup_runs(bench: Bench) -> None:
    run = bench.ledger.add(step("a", forever), step("b"), step("clean", always=True))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    run.order = Order(cancel="by user:ann")
    execution.tell(run.order)
    await task
    assert states(run) == {"a": "cancelled", "b": "cancelled", "clean": "succeeded"}
    assert (run.run.state, run.run.reason) == (RunState.CANCELLED, "by user:ann")


async def test_an_action_that_does_not_heed_its_cancellation_is_left_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(executor_module, "CANCEL_S", 0.05)
    release = asyncio.Event()

    async def deaf(scene: Scene) -> Outcome:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return Outcome()

    run = bench.ledger.add(step("a", deaf))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    run.order = Order(cancel="enough")
    execution.tell(run.order)
    await task
    assert run.run.state is RunState.CANCELLED
    assert "it is left behind" in caplog.text
    release.set()


async def test_paused_lets_what_runs_end_then_releases_the_run(bench: Bench) -> None:
    go = asyncio.Event()

    async def wait(scene: Scene) -> Outcome:
        await go.wait()
        return Outcome()

    run = bench.ledger.add(step("a", wait), step("b"))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: execution.busy)
    run.order = Order(paused=True)
    execution.tell(run.order)
    go.set()
    await task
    assert states(run) == {"a": "succeeded"}
    assert run.released == 1
    run.order = Order()
    await bench.carry(run)
    assert run.run.state is RunState.SUCCEEDED


async def test_a_wait_releases_the_run_and_a_signal_goes_on_with_it(bench: Bench) -> None:
    async def ask(scene: Scene) -> Outcome | Wait:
        if not scene.woken:
            return Wait(note="approval by ops", memory={"asked": 1})
        return Outcome(outputs={"said": scene.signal, "memory": scene.memory, "attempt": scene.attempt})

    run = await bench.run(step("a", ask))
    assert (run.released, run.run.waiting_for, run.steps["a"].state) == (1, "approval by ops", S.WAITING)
    bench.ledger.signal(run, "a", "yes")
    await bench.carry(run)
    assert run.steps["a"].outputs == {"said": "yes", "memory": {"asked": 1}, "attempt": 1}
    assert run.run.waiting_for == ""


async def test_a_signal_while_the_run_is_held_is_taken_once(bench: Bench) -> None:
    calls = []

    async def ask(scene: Scene) -> Outcome | Wait:
        calls.append(scene.signal)
        return Outcome() if scene.woken else Wait(note="approval")

    stop = asyncio.Event()

    async def busy(scene: Scene) -> Outcome:
        await stop.wait()
        return Outcome()

    run = bench.ledger.add(step("ask", ask), step("busy", busy, needs=[]))
    execution = bench.execution(run)
    task = asyncio.create_task(execution.run())
    await until(lambda: "ask" in run.steps and run.steps["ask"].state is S.WAITING)
    order = Order(signals={"ask": "yes"})
    execution.tell(order)
    execution.tell(order)
    await until(lambda: run.steps["ask"].state is S.SUCCEEDED)
    execution.tell(order)
    stop.set()
    await task
    assert calls == [None, "yes"]


async def test_a_short_wait_is_not_worth_a_release(bench: Bench) -> None:
    async def nap(scene: Scene) -> Outcome | Wait:
        return Outcome() if scene.woken else Wait(until_s=scene.now_s + 0.05)

    run = await bench.run(step("a", nap))
    assert (run.released, run.run.state) == (0, RunState.SUCCEEDED)


async def test_outputs_are_passed_on_added_to_and_masked(bench: Bench) -> None:
    async def build(scene: Scene) -> Outcome:
        scene.write("token is s3cr3t\n")
        return Outcome(
            outputs={"image": "app:1", "token": "Bearer s3cr3t", "deep": [{"x": "s3cr3t"}]}, message="s3cr3t"
        )

    run = await bench.run(
        step("build", build, outputs={"tag": "result.image"}),
        step("use", action=Do(text="{tag}")),
        secrets={"token": "s3cr3t"},
    )
    assert run.steps["build"].outputs == {
        "image": "app:1", "tag": "app:1", "token": "Bearer ***", "deep": [{"x": "***"}],
    }  # fmt: skip
    assert run.steps["use"].outputs == {"text": "app:1"}
    assert run.text() == "token is ***\n"
    assert "s3cr3t" not in repr(run.steps)


async def test_what_cannot_be_filled_in_or_kept_fails_the_step(bench: Bench) -> None:
    run = await bench.run(step("a", action=Do(text="{nothing}")))
    assert run.steps["a"].reason == "no such output: 'nothing'"

    async def big(scene: Scene) -> Outcome:
        return Outcome(outputs={"x": "y" * 300_000})

    run = await bench.run(step("a", big))
    assert run.steps["a"].reason.startswith("its outputs take 300")
    run = await bench.run(step("a", outputs={"x": "result.none"}))
    assert run.steps["a"].reason == "output x: no such key: none"


async def test_a_map_runs_its_items_bounded_and_gives_their_outputs_in_order(bench: Bench) -> None:
    at_once, most = 0, 0

    async def one(scene: Scene) -> Outcome:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return Outcome(outputs={"step": scene.step})

    run = await bench.run(step("m", action=Each(over=[1, 2, 3, 4, 5], do=Do(work=one), parallel=2)))
    assert most == 2
    assert run.steps["m"].outputs == {"items": [{"step": f"m[{number}]"} for number in range(5)]}
    assert run.steps["m[3]"].item == 4


async def test_a_step_that_was_cut_is_made_again_and_says_so(bench: Bench) -> None:
    run = bench.ledger.add(step("a", action=Do(text="x")), step("b", after_crash="fail", needs=[]))
    for name in ("a", "b"):
        row = msgspec.structs.replace(_row(run, name), state=S.RUNNING, attempt=1, started_s=1.0)
        run.steps[name] = row
    await bench.carry(run)
    assert run.steps["b"].state is S.FAILED
    assert run.steps["b"].reason == "its worker was lost while it ran, and it must not be repeated"
    assert run.text("note") == "its worker was lost while it ran\n" * 2


def _row(run: FakeRun, name: str) -> Any:
    from dogwatch.engine.ledger import StepRow

    return StepRow(name=name, kind="do")


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
