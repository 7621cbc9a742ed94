"""One claimed run, carried out against a ledger in memory."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from tests.engine_fakes import Do, Each, step
from tests.unit.engine.executor_bench import Bench, S, _row, forever, states, until

from dogwatch.engine import executor as executor_module
from dogwatch.engine.action import Outcome, Scene, Wait
from dogwatch.engine.ledger import Order
from dogwatch.engine.spec import Retry
from dogwatch.engine.values import RunState
from dogwatch.errors import PermanentError, TransientError


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def fail(scene: Scene) -> Outcome:
    raise PermanentError("no such file", hint="look for it")


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
