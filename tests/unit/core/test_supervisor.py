"""The supervisor: an unexpected end stops the daemon, and the stop goes in order whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from dogwatch.core.supervisor import Limits, Phase, StopReport, Supervisor

QUICK = Limits(grace_s=0.05, hook_s=0.05, hurry_s=0.02, abandon_s=0.02)


async def forever() -> None:
    await asyncio.Event().wait()


def outcomes(report: StopReport) -> dict[str, str]:
    return {step.name: step.outcome for step in report.steps}


async def test_the_stop_goes_in_order() -> None:
    order: list[str] = []
    supervisor = Supervisor()

    async def task() -> None:
        try:
            await forever()
        finally:
            order.append("task cancelled")

    def hook(name: str):
        async def run() -> None:
            await asyncio.sleep(0)
            order.append(name)

        return run

    supervisor.start("task", task())
    for phase in (Phase.CLOSE, Phase.FLUSH, Phase.REFUSE, Phase.FINISH, Phase.CANCEL):
        supervisor.on_stop(phase, f"{phase.word} 1", hook(f"{phase.word} 1"))
        supervisor.on_stop(phase, f"{phase.word} 2", hook(f"{phase.word} 2"))
    asyncio.get_running_loop().call_soon(supervisor.stop, "test", 7)
    report = await supervisor.run()
    assert order == [
        "refuse 1",
        "refuse 2",
        "finish 1",
        "finish 2",
        "task cancelled",
        "cancel 1",
        "cancel 2",
        "flush 1",
        "flush 2",
        "close 1",
        "close 2",
    ]
    assert (report.reason, report.exit_code, report.clean) == ("test", 7, True)
    assert supervisor.names() == ()


@pytest.mark.parametrize("how", ["fails", "ends", "is cancelled"])
async def test_an_unexpected_end_is_logged_and_stops_the_daemon(how: str, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()

    async def work() -> None:
        await asyncio.sleep(0)
        if how == "fails":
            raise KeyError("x")
        if how == "is cancelled":
            await forever()

    supervisor.start("other", forever())
    task = supervisor.start("probes", work())
    if how == "is cancelled":
        task.cancel()
    report = await asyncio.wait_for(supervisor.run(), 60)
    assert report.exit_code == 1
    assert report.reason.startswith("task probes ")
    assert any("probes" in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)


async def test_a_task_that_may_end_may_but_not_with_an_error() -> None:
    supervisor = Supervisor()

    async def fail() -> None:
        raise KeyError("x")

    await supervisor.start("once", asyncio.sleep(0), may_end=True)
    await asyncio.sleep(0)
    assert not supervisor.stopping
    supervisor.start("bad", fail(), may_end=True)
    assert (await supervisor.run()).reason == "task bad failed: KeyError: 'x'"


async def test_names_are_unique_while_they_run() -> None:
    supervisor = Supervisor()
    supervisor.start("one", forever())
    with pytest.raises(ValueError, match="one runs already"):
        supervisor.start("one", forever())
    supervisor.stop("test")
    await supervisor.run()
    with pytest.raises(RuntimeError, match="stopping"):
        supervisor.start("two", forever())


async def test_a_step_that_fails_or_hangs_is_recorded_and_the_rest_go_on() -> None:
    ran: list[str] = []
    supervisor = Supervisor(QUICK)

    async def fail() -> None:
        raise OSError("disk full")

    async def close() -> None:
        ran.append("close")

    async def stubborn() -> None:
        while "released" not in ran:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    supervisor.on_stop(Phase.REFUSE, "listener", fail)
    supervisor.on_stop(Phase.FLUSH, "hangs", forever)
    supervisor.on_stop(Phase.FLUSH, "stubborn", stubborn)
    supervisor.on_stop(Phase.CLOSE, "store", close)
    supervisor.start("stubborn task", stubborn())
    supervisor.stop("test")
    report = await supervisor.run()
    ran.append("released")
    assert ran == ["close", "released"]
    assert outcomes(report) == {
        "listener": "failed",
        "hangs": "late",
        "stubborn": "stuck",
        "task stubborn task": "stuck",
        "store": "done",
    }
    assert report.steps[0].error == "OSError: disk full"
    assert not report.clean


async def test_what_runs_gets_the_grace_period_together() -> None:
    supervisor = Supervisor(Limits(grace_s=0.2, abandon_s=0.1))
    done: list[str] = []

    async def finish() -> None:
        await asyncio.sleep(0.02)
        done.append("finished")

    supervisor.on_stop(Phase.FINISH, "quick", finish)
    supervisor.on_stop(Phase.FINISH, "slow 1", forever)
    supervisor.on_stop(Phase.FINISH, "slow 2", forever)
    supervisor.on_stop(Phase.FINISH, "own limit", forever, timeout_s=0.01)
    supervisor.stop("test")
    started_s = time.monotonic()
    report = await supervisor.run()
    assert 0.15 < time.monotonic() - started_s < 3
    assert done == ["finished"]
    assert outcomes(report) == {"quick": "done", "slow 1": "late", "slow 2": "late", "own limit": "late"}


async def test_a_second_signal_skips_waiting_but_still_flushes() -> None:
    supervisor = Supervisor(Limits(grace_s=60, hook_s=60, hurry_s=0.02, abandon_s=0.02))
    done: list[str] = []

    async def flush() -> None:
        done.append("flushed")

    supervisor.on_stop(Phase.FINISH, "long", forever)
    supervisor.on_stop(Phase.FLUSH, "flush", flush)
    supervisor.on_stop(Phase.CLOSE, "hangs", forever)
    supervisor.stop("SIGTERM", 143)
    asyncio.get_running_loop().call_later(0.02, supervisor.hurry, "second signal")
    report = await asyncio.wait_for(supervisor.run(), 60)
    assert outcomes(report) == {"long": "cut", "flush": "done", "hangs": "late"}
    assert done == ["flushed"]
    assert report.exit_code == 143


async def test_cancelling_it_stops_in_order_and_then_says_so() -> None:
    supervisor = Supervisor(QUICK)
    done: list[str] = []

    async def close() -> None:
        done.append("closed")

    supervisor.start("task", forever())
    supervisor.on_stop(Phase.FINISH, "long", forever)
    supervisor.on_stop(Phase.CLOSE, "store", close)
    running = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert done == ["closed"]


async def test_an_error_of_a_task_that_is_being_cancelled_is_recorded() -> None:
    supervisor = Supervisor()

    async def bad_clean_up() -> None:
        try:
            await forever()
        finally:
            raise OSError("cannot clean up")

    supervisor.start("bad", bad_clean_up())
    asyncio.get_running_loop().call_soon(supervisor.stop, "test")
    await asyncio.sleep(0)
    report = await supervisor.run()
    assert outcomes(report) == {"task bad": "failed"}
    assert (report.reason, report.exit_code) == ("test", 0)
