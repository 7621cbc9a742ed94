"""Runs one command on many hosts: bounded in number and time, batch after batch, until a rule stops it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.core.units import format_duration
from dogwatch.errors import DogwatchError
from dogwatch.fleet.connection import OUTPUT_BYTES, Connection, Ended, HostFailed, RemoteCommand, State
from dogwatch.fleet.login import Login
from dogwatch.fleet.pool import Dialer, reach
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.rollout import Rollout, Verdict, cut_batches, judge

# What is done on each host in place of the order's command: given its name, how it is reached and the open connection.
Work = Callable[[str, Login, Connection], Awaitable[Ended]]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and within which bounds.

    script: for /bin/sh. timeout_s: of the command on each host. deadline_s: of everything; then what runs is ended.
    forks: hosts at once. input: given to each command. limit_bytes: kept of each stream of each host.
    """

    script: str
    env: Mapping[str, str] = {}
    input: bytes | None = None
    forks: int = 50
    timeout_s: float | None = 60.0
    deadline_s: float | None = None
    rollout: Rollout = Rollout()
    limit_bytes: int = OUTPUT_BYTES


class Watcher(Protocol):
    """Is told what happens, as it happens."""

    def started(self, host: str) -> None: ...

    def ended(self, result: HostResult) -> None: ...

    def stopped(self, reason: str) -> None: ...


class HostLedger(Protocol):
    """Writes down what becomes of hosts, so that a run can go on after a crash. Raises: DogwatchError."""

    async def begun(self, host: str, batch: int) -> None:
        """Return once it is on disk that the command may begin there."""
        ...

    async def ended(self, result: HostResult) -> None:
        """Return once the result is on disk."""
        ...


class FleetRun:
    """One order over hosts. `cancel` ends it early; `run` then returns what happened where.

    done: what became of hosts before, in a run that goes on: nothing is done there. forgiven: how many of them failed
    and do not count any more. ledger: is told before and after each host.
    """

    def __init__(
        self,
        order: Order,
        logins: Mapping[str, Login | HostFailed],
        dialer: Dialer,
        *,
        work: Work | None = None,
        watcher: Watcher | None = None,
        ledger: HostLedger | None = None,
        done: Mapping[str, HostResult] | None = None,
        forgiven: int = 0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.order = order
        self.reason = ""
        self._logins = logins
        self._dialer = dialer
        self._work = work or self._command
        self._watcher = watcher
        self._now_s = now_s
        self._ledger = ledger
        self._results: dict[str, HostResult] = dict(done or {})
        self._failed = sum(not one.ok for one in self._results.values()) - forgiven
        self._moved = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._keeping = 0
        self._broken: list[BaseException] = []
        self._ending = State.CANCELLED

    def cancel(self, reason: str = "cancelled") -> None:
        """Start nothing more and end what runs."""
        self._stop(reason)
        for task in self._running.values():
            if not task.cancelling():
                task.cancel()

    async def run(self) -> list[HostResult]:
        """Return one result for each host, in the order given. It raises nothing that a host could cause."""
        hosts = list(self._logins)
        deadline = None
        if self.order.deadline_s is not None:
            deadline = asyncio.get_running_loop().call_later(self.order.deadline_s, self._too_late)
        try:
            for number, batch in enumerate(cut_batches(hosts, self.order.rollout.batches), 1):
                if self.reason or not self._may_go_on(len(hosts)):
                    break
                await self._batch(batch, number, len(hosts))
            self._may_go_on(len(hosts))
        finally:
            if deadline is not None:
                deadline.cancel()
        return self.results()

    def results(self) -> list[HostResult]:
        """Return what became of each host so far, in the order given."""
        return [self._results.get(host) or self._not_started(host) for host in self._logins]

    async def _batch(self, batch: Sequence[str], number: int, total: int) -> None:
        """Run one batch; no host of it is started once a rule has said stop."""
        rest = iter([host for host in batch if host not in self._results])
        try:
            while True:
                while self._has_room() and not self.reason and self._may_go_on(total):
                    host = next(rest, None)
                    if host is None:
                        break
                    task = asyncio.create_task(self._host(host, number), name=f"fleet-{host}")
                    self._running[host] = task
                    task.add_done_callback(self._done)
                if not self._running:
                    return
                self._moved.clear()
                await self._moved.wait()
                if self._broken:
                    raise self._broken[0]
        except BaseException:
            self.cancel()
            while self._running:
                await asyncio.wait(list(self._running.values()))
            raise

    def _has_room(self) -> bool:
        """Return whether another host may be begun. One whose result is being written leaves its place to the next."""
        return len(self._running) - self._keeping < self.order.forks and self._keeping < self.order.forks

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task.get_name().removeprefix("fleet-"), None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken.append(error)  # a mistake of ours, never a host's: the run ends with it
        self._moved.set()

    def _may_go_on(self, total: int) -> bool:
        verdict: Verdict = judge(self.order.rollout, total=total, failed=max(0, self._failed))
        if not verdict.go_on:
            self._stop(verdict.reason)
        return verdict.go_on

    def _stop(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            if self._watcher is not None:
                self._watcher.stopped(reason)

    def _too_late(self) -> None:
        self._ending = State.TIMED_OUT
        self.cancel(f"the whole run took longer than {format_duration(self.order.deadline_s or 0)}")

    async def _host(self, host: str, batch: int) -> None:
        if self._watcher is not None:
            self._watcher.started(host)
        begun_s = self._now_s()
        phase = _Phase(batch=batch)
        try:
            result = await self._attempt(host, phase)
        except HostFailed as error:
            result = HostResult(host=host, state=error.state, message=str(error), hint=error.hint)
        except asyncio.CancelledError:
            told = "ended while it ran" if phase.ran else "ended before the command began"
            result = HostResult(host=host, state=self._ending, message=f"{self.reason or 'cancelled'}: {told}")
        ended_s = self._now_s()
        connected_s = phase.connected_s or ended_s
        result = msgspec.structs.replace(
            result, batch=batch, connect_s=connected_s - begun_s, run_s=ended_s - connected_s
        )
        await self._keep(result)

    async def _keep(self, result: HostResult) -> None:
        """Take a result: it is on disk before anybody is told."""
        self._failed += not result.ok
        if self._ledger is not None:
            self._keeping += 1
            self._moved.set()
            writing = asyncio.ensure_future(self._ledger.ended(result))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
            except DogwatchError as error:
                self._stop(f"what became of {result.host} could not be kept: {error}")
            finally:
                self._keeping -= 1
        self._results[result.host] = result
        if self._watcher is not None:
            self._watcher.ended(result)

    async def _attempt(self, host: str, phase: _Phase) -> HostResult:
        login = self._logins[host]
        if isinstance(login, HostFailed):
            raise login
        begun = None
        if self._ledger is not None:
            # While the login is under way: the command waits for both.
            begun = asyncio.ensure_future(self._ledger.begun(host, phase.batch))
        try:
            connection = await reach(login, self._dialer)
        except BaseException:
            await _settled(begun)
            raise
        phase.connected_s = self._now_s()
        try:
            if begun is not None:
                await asyncio.shield(begun)
            phase.ran = True
            return _result(host, await self._work(host, login, connection))
        except asyncio.CancelledError:
            await _settled(begun)
            raise
        except DogwatchError as error:
            if phase.ran:
                raise
            self._stop(f"that {host} begins could not be kept: {error}")
            raise HostFailed(State.NOT_STARTED, str(error), hint=error.hint) from None
        finally:
            await connection.close()

    async def _command(self, _host: str, login: Login, connection: Connection) -> Ended:
        return await connection.run(
            RemoteCommand(
                script=self.order.script,
                env=self.order.env,
                stdin=None if self.order.input is None else _pieces(self.order.input),
                become=login.become,
                timeout_s=self.order.timeout_s,
                limit_bytes=self.order.limit_bytes,
            )
        )

    def _not_started(self, host: str) -> HostResult:
        return HostResult(host=host, state=State.NOT_STARTED, message=self.reason)


class _Phase(msgspec.Struct):
    batch: int
    connected_s: float = 0.0
    ran: bool = False


async def _settled(begun: asyncio.Future[None] | None) -> None:
    """Wait for what was to be written: the result is written after it, never before."""
    if begun is not None:
        await asyncio.wait([begun])
        begun.exception()  # the result that follows cannot be written either, and tells of it


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _result(host: str, ended: Ended) -> HostResult:
    return HostResult(
        host=host,
        state=ended.state,
        exit_code=ended.exit_code,
        signal=ended.signal,
        stdout=ended.stdout,
        stderr=ended.stderr,
        cut=sum(ended.cut),
        message=ended.note,
    )
