"""A process's part in carrying out runs: it claims them, shows that it lives, and lets go when it may not have them."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import Counter, Family
from dogwatch.core.units import Seconds
from dogwatch.engine.executor import Execution
from dogwatch.engine.executor_tools import Language, Tools
from dogwatch.engine.ledger import Claimed, Fenced, Ledger, Order, WorkerIdentity
from dogwatch.engine.scene import Services
from dogwatch.errors import TransientError, Unreachable

T = TypeVar("T")
_log = logging.getLogger(__name__)

READY = "runs"
_TROUBLE = (TransientError, Unreachable)
_AGAIN_S = 0.25
# What lasts is said again so seldom.
_SAY_S = 30.0
_LEAVE_S = 5.0
# A worker without runs that is alone on its database loses nothing by looking less often.
_ALONE_REAP_S = 10.0
Listen = Callable[[str, Callable[[], None]], Callable[[], None]]


class _Outage:
    """Says that the ledger cannot be reached: at once, seldom while it lasts, and when it is over."""

    def __init__(self, worker_id: str, now_s: Callable[[], float]) -> None:
        self._worker_id, self._now_s = worker_id, now_s
        self._since_s: float | None = None
        self._said_s = 0.0

    def note(self, what: str, error: Exception) -> None:
        now_s = self._now_s()
        if self._since_s is None:
            self._since_s = now_s
        elif now_s < self._said_s + _SAY_S:
            return
        self._said_s = now_s
        _log.warning("worker %s: %s: %s; trying again", self._worker_id, what, error)

    def over(self) -> None:
        if self._since_s is not None:
            _log.info("worker %s: all is well again after %.1f s", self._worker_id, self._now_s() - self._since_s)
        self._since_s = None


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """poll_s: how often to look for runs, should a notice be lost, and for those whose time comes.

    grace_s: how long a stop lets steps finish. alone: nobody else can use the database, so nobody takes over what
    this worker has. renew: called with the seconds for which the lease now lasts (the guard of started programs).
    """

    poll_s: Seconds = 1.0
    grace_s: Seconds = 20.0
    alone: bool = False
    renew: Callable[[float], None] = lambda _seconds: None


def identity(*, slots: int, ttl_s: float, labels: Mapping[str, str], version: str) -> WorkerIdentity:
    """Return who this process is, as a worker: another one at each start."""
    host = socket.gethostname()
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot_id = ""
    return WorkerIdentity(
        worker_id=f"{host}-{os.getpid()}-{secrets.token_hex(4)}",
        host=host,
        boot_id=boot_id,
        pid=os.getpid(),
        labels=labels,
        slots=slots,
        ttl_s=ttl_s,
        version=version,
    )


class Lease:
    """Until when this worker surely owns its runs, on a clock that goes on while the machine sleeps."""

    def __init__(self, ttl_s: float, *, alone: bool, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self._ttl_s, self._alone = ttl_s, alone
        # What is cancelled then needs a moment to end before another worker begins.
        self._margin_s = min(1.0, ttl_s / 6)
        self._until_s = 0.0

    def renewed(self, asked_s: float) -> float:
        """Count from the moment before the heartbeat was sent; return how long it lasts from now."""
        self._until_s = max(self._until_s, asked_s + self._ttl_s - self._margin_s)
        return self._until_s - self.now_s()

    def void(self) -> None:
        self._until_s = 0.0

    def holds(self) -> bool:
        return (self._alone and self._until_s > 0.0) or self.now_s() < self._until_s

    @property
    def left_s(self) -> float:
        return self._until_s - self.now_s()


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """The clock of the database, as well as a heartbeat can tell it: by it runs are due, and waits are over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s = 0.0

    def now_s(self) -> float:
        return self._clock.now_s() + self._ahead_s

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def told(self, now_s: float, *, took_s: float) -> None:
        """now_s: the database's, some time within the last took_s seconds. Less than that is no difference."""
        ahead_s = now_s + took_s / 2 - self._clock.now_s()
        self._ahead_s = ahead_s if abs(ahead_s) > took_s else 0.0


class Worker:
    """run() serves until stop(). listen: Database.listen. boottime_s: the lease's clock."""

    def __init__(
        self,
        who: WorkerIdentity,
        ledger: Ledger,
        listen: Listen,
        *,
        language: Language,
        services: Services,
        clock: Clock,
        options: WorkerOptions | None = None,
        boottime_s: Callable[[], float] = boottime_s,
    ) -> None:
        self.who = who
        self._ledger, self._listen = ledger, listen
        self._options = options or WorkerOptions()
        self._lease = Lease(who.ttl_s, alone=self._options.alone, now_s=boottime_s)
        self._outage = _Outage(self.who.worker_id, self._lease.now_s)
        self._clock = DatabaseClock(clock)
        self._tools = Tools(
            ledger=ledger, language=language, services=services, clock=self._clock, held=self._lease.holds
        )
        self._runs: dict[str, Execution] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._claim_now, self._beat_now = asyncio.Event(), asyncio.Event()
        self._stop, self._beaten = asyncio.Event(), asyncio.Event()
        self._draining = self._told_to_drain = self._more = False
        self._dropped = Counter()

    # -- from outside ------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        return len(self._runs)

    @property
    def draining(self) -> bool:
        return self._draining or self._told_to_drain

    def drain(self, on: bool = True) -> None:
        """Take no new run; those that it has go on. on=False: take runs again."""
        self._draining = on or self._stop.is_set()
        self._claim_now.set()

    def stop(self) -> None:
        """Let run() end: no new run or step, what runs may finish within the grace, then all is given back."""
        self._draining = True
        self._stop.set()

    @property
    def dropped(self) -> int:
        """How many runs were let go because they were, or might be, another worker's."""
        return self._dropped.value

    async def run(self) -> None:
        """Serve until stop() or a cancellation; nothing of this worker runs afterwards."""
        ends = [
            self._listen(READY, self._claim_now.set),
            self._listen(f"worker:{self.who.worker_id}", self._beat_now.set),
        ]
        loops: list[asyncio.Task[None]] = []
        try:
            await self._until_stopped(self._register())
            if not self._stop.is_set():
                loops = [
                    asyncio.create_task(work, name=f"worker {name}")
                    for name, work in (("beats", self._beats()), ("claims", self._claims()), ("reaps", self._reaps()))
                ]
                await self._serve(loops)
                await self._finish()
        finally:
            for end in ends:
                end()
            await cancel_and_wait((*loops, *self._tasks.values()))
            await self._leave()

    async def _until_stopped(self, work: Awaitable[None]) -> None:
        """Await work; a stop cuts it short."""
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait([stop, *([] if task.done() else [task])])
        if task.done() and not task.cancelled():
            task.result()

    async def _serve(self, loops: list[asyncio.Task[None]]) -> None:
        """Return when a stop was asked for. Raises: what a loop raised."""
        stop = asyncio.create_task(self._stop.wait(), name="worker stop")
        try:
            done, _ = await asyncio.wait([stop, *loops], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait([stop])
        for task in done - {stop}:
            task.result()

    async def _finish(self) -> None:
        """Let what runs end within the grace; end the rest. Heartbeats go on meanwhile."""
        for execution in self._runs.values():
            execution.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._options.grace_s)
        for execution in self._runs.values():
            execution.cut()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=max(1.0, self._lease.left_s))

    async def _leave(self) -> None:
        """Say that all is free. Where that fails the reaper finds out."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._ledger.leave(self.who.worker_id)
        except (*_TROUBLE, TimeoutError) as error:
            _log.warning("worker %s cannot say that it leaves: %s", self.who.worker_id, error)

    # -- the lease ---------------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        while True:
            asked_s = self._lease.now_s()
            try:
                await self._ledger.register(self.who)
            except _TROUBLE as error:
                self._outage.note("it cannot register", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            self._outage.over()
            self._options.renew(self._lease.renewed(asked_s))
            self._claim_now.set()
            return

    async def _beats(self) -> None:
        """Show that this worker lives; let go of everything before its lease may be over."""
        every_s = self.who.ttl_s / 3
        while True:
            self._beat_now.clear()
            again_s = every_s
            if not self._lease.holds():
                await self._drop_all("its lease is over")
            try:
                await self._beat()
                self._outage.over()
            except Fenced:
                await self._drop_all("it was declared lost")
                await self._register()
            except _TROUBLE as error:
                self._outage.note("no heartbeat", error)
                again_s = min(_AGAIN_S, every_s)
            if self._runs and not self._options.alone:
                again_s = min(again_s, max(0.0, self._lease.left_s))
            await _signalled(self._beat_now, again_s)

    async def _beat(self) -> None:
        heard = {run_id: (execution, execution.heard) for run_id, execution in self._runs.items()}
        held = {run_id: execution.fence for run_id, (execution, _) in heard.items()}
        asked_s = self._lease.now_s()
        # A call that hangs must not keep what runs beyond the lease.
        bound_s = None if self._options.alone or not held else max(0.0, self._lease.left_s)
        try:
            async with asyncio.timeout(bound_s):
                beat = await self._ledger.heartbeat(self.who.worker_id, held)
        except TimeoutError as error:
            raise TransientError("the database does not answer") from error
        if not self._lease.holds():
            await self._drop_all("its lease was over before the answer came")
        self._options.renew(self._lease.renewed(asked_s))
        if beat.now_s is not None:
            self._clock.told(beat.now_s, took_s=self._lease.now_s() - asked_s)
        self._beaten.set()
        for run_id in beat.lost:
            self._drop(run_id, "another worker has it")
        for run_id, (execution, mark) in heard.items():
            # What the ledger told the run itself since is newer than this answer.
            if self._runs.get(run_id) is execution and execution.heard == mark:
                execution.tell(beat.orders.get(run_id, Order()))
        if self._told_to_drain and not beat.draining:
            self._claim_now.set()
        self._told_to_drain = beat.draining

    async def _drop_all(self, why: str) -> None:
        """Let go of every run, and return when nothing of them runs."""
        self._lease.void()
        self._options.renew(0.0)
        for run_id in list(self._runs):
            self._drop(run_id, why)
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def _drop(self, run_id: str, why: str) -> None:
        task = self._tasks.get(run_id)
        if task is not None and not task.cancelling():
            _log.warning("worker %s drops run %s: %s", self.who.worker_id, run_id, why)
            self._dropped.inc()
            task.cancel()

    async def _reaps(self) -> None:
        """Look for workers that are lost. Often: a lost worker's runs wait for this."""
        every_s = _ALONE_REAP_S if self._options.alone else self.who.ttl_s / 12
        while True:
            if self._lease.holds():
                try:
                    taken = await self._ledger.reap()
                except _TROUBLE as error:
                    _log.debug("worker %s cannot look for lost workers: %s", self.who.worker_id, error)
                else:
                    if taken:
                        _log.warning("%d runs were taken from lost workers", taken)
                        self._claim_now.set()
            await asyncio.sleep(every_s)

    # -- runs --------------------------------------------------------------------------------------------------------

    async def _claims(self) -> None:
        await self._beaten.wait()  # it tells the database's time
        while True:
            self._claim_now.clear()
            free = self.who.slots - len(self._runs)
            if free > 0 and not self.draining and self._lease.holds():
                try:
                    claimed = await self._ledger.claim(self.who.worker_id, free)
                except Fenced:
                    self._beat_now.set()  # it will learn there what that means
                    claimed = ()
                except _TROUBLE as error:
                    _log.debug("worker %s cannot claim: %s", self.who.worker_id, error)
                    claimed = ()
                for run in claimed:
                    self._begin(run)
                # There may be more for the next slot that becomes free.
                self._more = len(claimed) >= free
            await _signalled(self._claim_now, self._options.poll_s)

    def _begin(self, claimed: Claimed) -> None:
        run_id = claimed.run.run_id
        if not self._lease.holds() or (self._draining and self._stop.is_set()):
            return  # a later heartbeat gives it back
        before = self._tasks.get(run_id)
        if before is not None:
            self._drop(run_id, "it was claimed anew")
        execution = Execution(claimed, self._tools)
        self._runs[run_id] = execution
        task = asyncio.create_task(_after(before, execution), name=f"run {run_id}")
        self._tasks[run_id] = task
        task.add_done_callback(lambda _: self._over(run_id, execution, task))

    def _over(self, run_id: str, execution: Execution, task: asyncio.Task[None]) -> None:
        if self._runs.get(run_id) is execution:
            del self._runs[run_id]
        if self._tasks.get(run_id) is task:
            del self._tasks[run_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("run %s was left alone by an error", run_id, exc_info=error)
        if self._more:
            self._claim_now.set()


def families(worker: Worker | None) -> Iterable[Family]:
    """Return what `/metrics` shows of this process's worker, all zero where it has none."""
    slots, busy, dropped = (worker.who.slots, worker.busy, worker.dropped) if worker is not None else (0, 0, 0)
    values = (
        ("dogwatch_worker_slots", "gauge", "Runs that the worker of this process takes at the same time.", slots),
        ("dogwatch_worker_busy", "gauge", "Runs that the worker of this process has.", busy),
        (
            "dogwatch_worker_dropped_total",
            "counter",
            "Runs that the worker of this process let go because another one had, or might have taken, them over.",
            dropped,
        ),
    )
    return [Family(name, kind, text, ((name, float(value)),)) for name, kind, text, value in values]


async def _after(before: asyncio.Task[None] | None, execution: Execution) -> None:
    """Carry a run out once what an earlier claim of it started has ended."""
    if before is not None:
        await asyncio.wait([before])
    await execution.run()


async def _signalled(event: asyncio.Event, most_s: float) -> None:
    """Return when the event is set, or after a time."""
    if event.is_set():
        return
    timer = asyncio.get_running_loop().call_later(most_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
