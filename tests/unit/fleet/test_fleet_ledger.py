"""What a run over hosts promises about what is written down: before a command, after it, and where it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from dogwatch.errors import TransientError
from dogwatch.fleet.connection import Connection, HostFailed, State
from dogwatch.fleet.login import Login
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.rollout import Amount, Rollout
from dogwatch.fleet.run import FleetRun, Order


class Nowhere:
    async def open(self, login: Login) -> Connection:
        raise HostFailed(State.REFUSED, f"{login.host} refuses connections")

    async def close(self) -> None: ...


class Ledger:
    """Notes what it is told; fails where it is to."""

    def __init__(self, *, full_at: str = "") -> None:
        self.told: list[str] = []
        self.full_at = full_at

    async def begun(self, host: str, batch: int) -> None:
        await self._note(f"begun {host}")

    async def ended(self, result: HostResult) -> None:
        await self._note(f"ended {result.host} {result.state}")

    async def _note(self, text: str) -> None:
        await asyncio.sleep(0.01)
        if self.full_at and text.startswith(self.full_at):
            raise TransientError("the state cannot be written: disk full")
        self.told.append(text)


def here(*names: str) -> dict[str, Login | HostFailed]:
    return {name: Login(host=name, connection="local") for name in names}


async def test_nothing_runs_before_it_is_on_disk_that_it_may(tmp_path: Path) -> None:
    ledger = Ledger()
    order = Order(script=f"echo $$ >> {tmp_path}/ran", forks=1)
    logins = {**here("a"), "b": Login(host="b"), "c": HostFailed(State.MISCONFIGURED, "no such key")}
    results = await FleetRun(order, logins, Nowhere(), ledger=ledger).run()
    assert [one.state for one in results] == [State.SUCCEEDED, State.REFUSED, State.MISCONFIGURED]
    assert ledger.told == ["begun a", "ended a succeeded", "begun b", "ended b refused", "ended c misconfigured"]


async def test_where_it_cannot_be_written_that_it_begins_nothing_begins(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    order, ledger = Order(script=f"touch {ran}", forks=1), Ledger(full_at="begun a")
    running = FleetRun(order, here("a", "b"), Nowhere(), ledger=ledger)
    results = await running.run()
    assert [one.state for one in results] == [State.NOT_STARTED, State.NOT_STARTED]
    assert "disk full" in running.reason
    assert not ran.exists()


async def test_where_a_result_cannot_be_written_it_is_told_and_no_other_begins() -> None:
    ledger = Ledger(full_at="ended a")
    running = FleetRun(Order(script="echo in", forks=1), here("a", "b"), Nowhere(), ledger=ledger)
    results = await running.run()
    assert [(one.state, one.stdout) for one in results] == [(State.SUCCEEDED, b"in\n"), (State.NOT_STARTED, b"")]
    assert "what became of a could not be kept" in running.reason


async def test_what_has_its_end_is_not_done_again_and_forgiven_failures_do_not_count(tmp_path: Path) -> None:
    done = {
        "a": HostResult(host="a", state=State.SUCCEEDED, stdout=b"before"),
        "b": HostResult(host="b", state=State.NON_ZERO, exit_code=1),
    }
    order = Order(script=f"echo >> {tmp_path}/ran", rollout=Rollout(max_fail=Amount(0)))
    stopped = await FleetRun(order, here("a", "b", "c"), Nowhere(), done=done).run()
    assert [one.state for one in stopped] == [State.SUCCEEDED, State.NON_ZERO, State.NOT_STARTED]
    results = await FleetRun(order, here("a", "b", "c"), Nowhere(), done=done, forgiven=1).run()
    assert [one.state for one in results] == [State.SUCCEEDED, State.NON_ZERO, State.SUCCEEDED]
    assert results[0].stdout == b"before"
    assert (tmp_path / "ran").read_text() == "\n"


@pytest.mark.parametrize("phase", ["begun", "ended"])
async def test_a_cancelled_run_writes_the_ends_of_all_that_ran(phase: str) -> None:
    ledger = Ledger()
    running = FleetRun(Order(script="sleep 30"), here("a", "b"), Nowhere(), ledger=ledger)
    task = asyncio.create_task(running.run())
    async with asyncio.timeout(60):
        while len(ledger.told) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        running.cancel() if phase == "begun" else task.cancel()
        with pytest.raises(asyncio.CancelledError) if phase == "ended" else contextlib.nullcontext():
            await task
    assert sorted(ledger.told[2:]) == ["ended a cancelled", "ended b cancelled"]
    assert [one.state for one in running.results()] == [State.CANCELLED, State.CANCELLED]
