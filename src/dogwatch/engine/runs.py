"""The book of runs: what the rest of Dogwatch asks of runs, and what workers ask, over one database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.core.clock import Clock
from dogwatch.core.component import Registry, nearest
from dogwatch.core.deadline import woken
from dogwatch.core.metrics import Family
from dogwatch.engine.action import Action
from dogwatch.engine.book import advance as advancing
from dogwatch.engine.book import (
    approvals,
    claim,
    freezes,
    intents,
    meters,
    orders,
    output,
    read,
    topics,
    unplaced,
    workers,
)
from dogwatch.engine.book.approvals import IsIn
from dogwatch.engine.book.claim import Haul, Taken
from dogwatch.engine.book.definitions import Definitions
from dogwatch.engine.book.encode import refill
from dogwatch.engine.book.ids import Mint
from dogwatch.engine.book.intents import Check, Render, Sealer
from dogwatch.engine.book.lost import Watch
from dogwatch.engine.book.retention import Keeping, prune
from dogwatch.engine.book.setting import Freeze, Frozen, first_of, setting_of
from dogwatch.engine.book.start import Intent, Opener
from dogwatch.engine.ledger import Advance, Beat, Claimed, Order, WorkerIdentity
from dogwatch.engine.port import AGAIN, Starter
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Chunk, Json, Page, Run, RunFilter, RunState, Started, StartRun, StepRun, Worker
from dogwatch.errors import Conflict, DogwatchError, NotAllowed, NotFound, PermanentError, TransientError
from dogwatch.store.database import Database, Tx

T = TypeVar("T")
# Notices can get lost: whoever waits looks by itself so often.
_LOOK_S = 1.0
_REFILLS = 512
# So often one claim looks further where some of what it found was blocked.
_ROUNDS = 5


# What a run that ended gives to the step of another job that started it.
Outputs = Callable[[JobSpec, Run, Sequence[StepRun]], Mapping[str, Json]]


def _nobody(_actor: Actor, _who: str) -> bool:
    return False


def _marked(intent: Intent, again: str) -> Intent:
    labels = {name: value for name, value in intent.labels.items() if name != AGAIN}
    return msgspec.structs.replace(intent, labels={**labels, AGAIN: again} if again else labels)


def _nothing(_spec: JobSpec, _run: Run, _steps: Sequence[StepRun]) -> Mapping[str, Json]:
    return {}


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What the book leaves to others.

    jobs: those of the configuration in force. check: parameters of a job. render: templates of concurrency keys and
    locks. is_in: whether an actor has a role or is in a group, in
    approvals. frozen: what holds deployments. sealer: keeps secret parameters; None: jobs with any
    cannot be started. outputs: of a run that ended, for its parent. output_bytes: kept of one run.
    """

    jobs: Callable[[], Mapping[str, JobSpec]]
    actions: Registry[Action]
    clock: Clock
    check: Check
    render: Render
    is_in: IsIn = _nobody
    frozen: Frozen = lambda _job, _labels, _now_s: None
    sealer: Sealer | None = None
    outputs: Outputs = _nothing
    output_bytes: int = output.DEFAULT_BYTES
    keeping: Keeping = Keeping()


class RunBook:
    """Implements engine/port.Runs and engine/ledger.Ledger. It has no tasks of its own: workers call it."""

    def __init__(self, database: Database, means: Means) -> None:
        self._database, self._means = database, means
        self._definitions = Definitions(means.actions)
        self._setting = setting_of(database.kind, self._outputs, self._frozen)
        self._watch = Watch()
        self._meters = meters.Meters()
        self._opener = Opener(self._setting, Mint(), self._definitions, self._meters)
        self._refills: dict[tuple[int, int], tuple[JobSpec, JobSpec | None, JobSpec]] = {}
        # Workers whose last claim found something: they need not ask whether there is anything.
        self._busy: set[str] = set()
        self._labels: dict[str, Mapping[str, str]] = {}

    def _frozen(self, job: str, labels: Mapping[str, str], now_s: float) -> Freeze | None:
        return self._means.frozen(job, labels, now_s)

    def use(self, means: Means) -> None:
        """Work by other bounds from now on: what a reload may change."""
        self._means = means

    def sealer(self) -> Sealer | None:
        """Return what keeps secret parameters now: other parts keep with it what must not be read on disk."""
        return self._means.sealer

    # -- Runs: starting ----------------------------------------------------------------------------------------------

    def jobs(self) -> Sequence[JobSpec]:
        jobs = self._means.jobs()
        return [jobs[name] for name in sorted(jobs)]

    def _job(self, name: str) -> JobSpec:
        jobs = self._means.jobs()
        if name not in jobs:
            raise NotFound(f"no job '{name}'", hint=nearest(name, list(jobs)))
        return jobs[name]

    async def start(self, request: StartRun) -> Started:
        return await self._write(self.starter(request))

    async def start_adhoc(self, spec: JobSpec, request: StartRun) -> Started:
        means = self._means
        intent = intents.intent_of(spec, request, means.check, means.render, means.sealer)
        return await self._write(lambda tx: self._opener.open(tx, intent))

    def starter(self, request: StartRun) -> Starter:
        spec = self._job(request.job)
        means = self._means
        intent = intents.intent_of(spec, request, means.check, means.render, means.sealer)
        return lambda tx: self._opener.open(tx, intent)

    async def rerun(
        self, run_id: str, actor: Actor, *, failed_only: bool = False, key: str = "", again: str = ""
    ) -> Started:
        what = again or ("unfinished" if failed_only else "")

        def work(tx: Tx) -> Started:
            return self._opener.open(tx, _marked(self._again(tx, run_id, actor, failed_only, key), what))

        return await self._write(work)

    def _again(self, tx: Tx, given: str, actor: Actor, failed_only: bool, key: str) -> Intent:
        run = read.show(tx, given)
        if not run.state.ended:
            raise Conflict(f"cannot rerun run {run.run_id}: it has not ended", hint="cancel it, or wait for it")
        row = first_of(tx, "SELECT definition, sealed FROM runs WHERE run_id = :run_id", run_id=run.run_id)
        spec = self._definitions.get(tx, str(row[0]))
        steps = []
        if failed_only:
            steps = intents.kept(spec, read.step_rows(tx, run.run_id)[1], run.run_id)
        sealed = None if row[1] is None else bytes(row[1])
        whole = intents.opened(run, sealed, self._means.sealer)
        variables = {
            "params": whole.parameters,
            "job": spec.name,
            "env": spec.env,
            "trigger": msgspec.to_builtins(whole.trigger),
        }
        gates = intents.gates_of(spec, {**variables, "labels": run.labels}, self._means.render)
        return intents.rerun_of(spec, run, steps, sealed, gates, actor=actor, key=key)

    def _outputs(self, tx: Tx, run_id: str) -> Mapping[str, Json]:
        (_, digest), rows = read.step_rows(tx, run_id)
        try:
            spec = self._definitions.get(tx, str(digest))
            return self._means.outputs(spec, read.show(tx, run_id), read.in_order(run_id, spec, rows))
        except DogwatchError:
            return {}  # a mistake in an expression must not keep the run from its end

    # -- Runs: looking -----------------------------------------------------------------------------------------------

    async def find(self, wanted: RunFilter) -> Page[Run]:
        return await self._database.read(lambda tx: read.find(tx, wanted))

    async def show(self, run_id: str) -> Run:
        return await self._database.read(lambda tx: read.show(tx, run_id))

    async def steps(self, run_id: str) -> Sequence[StepRun]:
        def work(tx: Tx) -> Sequence[StepRun]:
            whole = read.resolve(tx, run_id)
            (_, digest), rows = read.step_rows(tx, whole)
            spec = None
            # Of a definition that this program cannot read, what was done is shown all the same.
            with contextlib.suppress(Exception):
                spec = self._definitions.get(tx, str(digest))
            return read.in_order(whole, spec, rows)

        return await self._database.read(work)

    async def output(
        self, run_id: str, *, step: str = "", after: int = 0, limit: int = 1000, search: str = ""
    ) -> Sequence[Chunk]:
        def work(tx: Tx) -> Sequence[Chunk]:
            whole = read.show(tx, run_id).run_id
            return output.read(tx, whole, step=step, after=after, limit=limit, search=search)[0]

        return await self._database.read(work)

    async def follow(self, run_id: str, *, step: str = "", after: int = 0) -> AsyncIterator[Chunk]:
        run = await self.show(run_id)
        async with self._told(topics.of_output(run.run_id), topics.of_run(run.run_id)) as told:
            while True:
                told.clear()

                def work(tx: Tx, since: int = after) -> tuple[list[Chunk], int, bool]:
                    ended = read.show(tx, run.run_id).state.ended
                    return *output.read(tx, run.run_id, step=step, after=since), ended

                try:
                    chunks, after, ended = await self._database.read(work)
                except TransientError:
                    await woken(told, _LOOK_S)
                    continue
                for chunk in chunks:
                    yield chunk
                if not chunks:
                    if ended:
                        return
                    await woken(told, _LOOK_S)

    async def wait(self, run_id: str) -> Run:
        run = await self.show(run_id)
        async with self._told(topics.of_run(run.run_id)) as told:
            while True:
                told.clear()
                with contextlib.suppress(TransientError):
                    run = await self.show(run.run_id)
                if run.state.ended:
                    return run
                await woken(told, _LOOK_S)

    @contextlib.asynccontextmanager
    async def _told(self, *names: str) -> AsyncIterator[asyncio.Event]:
        told = asyncio.Event()
        stops = [self._database.listen(name, told.set) for name in names]
        try:
            yield told
        finally:
            for stop in stops:
                stop()

    # -- Runs: orders ------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        return await self._write(lambda tx: orders.cancel(tx, self._setting, read.resolve(tx, run_id), actor, reason))

    async def pause(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        return await self._write(lambda tx: orders.pause(tx, self._setting, read.resolve(tx, run_id), actor, reason))

    async def resume(self, run_id: str, actor: Actor) -> Run:
        return await self._write(lambda tx: orders.resume(tx, self._setting, read.resolve(tx, run_id), actor))

    async def decide(self, run_id: str, step: str, actor: Actor, *, approve: bool, comment: str = "") -> Run:
        decided = await self._write(
            lambda tx: approvals.decide(
                tx,
                self._setting,
                read.resolve(tx, run_id),
                step,
                actor,
                self._means.is_in,
                approve=approve,
                comment=comment,
            )
        )
        if isinstance(decided, NotAllowed):
            raise decided
        return decided

    async def signal(self, run_id: str, step: str, payload: Json) -> None:
        def work(tx: Tx) -> None:
            whole = read.show(tx, run_id).run_id
            orders.signal(tx, self._setting, whole, step, payload)

        await self._write(work, free=True)

    async def workers(self) -> Sequence[Worker]:
        return await self._database.read(workers.listing)

    async def drain(self, worker_id: str, actor: Actor, *, on: bool = True) -> Worker:
        return await self._write(lambda tx: workers.drain(tx, worker_id, actor, on=on))

    # -- Ledger ------------------------------------------------------------------------------------------------------

    async def register(self, worker: WorkerIdentity) -> None:
        await self._write(lambda tx: workers.register(tx, self._setting, worker, self._database.opening), free=True)
        self._labels[worker.worker_id] = worker.labels

    async def heartbeat(self, worker_id: str, held: Mapping[str, int]) -> Beat:
        return await self._seeing(
            self._write(lambda tx: workers.heartbeat(tx, self._setting, worker_id, held), free=True)
        )

    async def leave(self, worker_id: str) -> None:
        await self._write(lambda tx: workers.leave(tx, self._setting, worker_id), free=True)
        self._busy.discard(worker_id)
        self._labels.pop(worker_id, None)

    async def claim(self, worker_id: str, slots: int) -> Sequence[Claimed]:
        labels = self._labels.get(worker_id)
        # One that another book registered asks by claiming.
        known = labels is not None and worker_id not in self._busy
        if known and not await self._database.read(lambda tx: claim.anything(tx, labels or {})):
            return ()
        taken: list[Taken] = []
        for _ in range(_ROUNDS):
            try:
                haul = await self._haul(worker_id, slots - len(taken))
            except DogwatchError:
                if not taken:
                    raise
                break  # what was taken before is the worker's
            taken += haul.taken
            if not haul.more or len(taken) >= slots:
                break
        (self._busy.add if taken else self._busy.discard)(worker_id)
        self._meters.claimed += len(taken)
        return [claimed for one in taken if (claimed := await self._completed(one)) is not None]

    async def _haul(self, worker_id: str, slots: int) -> Haul:
        return await self._write(
            lambda tx: claim.claim(tx, self._setting, self._definitions, worker_id, slots), free=True
        )

    async def _completed(self, taken: Taken) -> Claimed | None:
        """Return the run with what is not on disk, or not readable there: the secrets of now. None: it has failed."""
        claimed = taken.claimed
        current = self._means.jobs().get(claimed.run.job)
        try:
            run = intents.opened(claimed.run, taken.sealed, self._means.sealer)
            steps = [intents.item_opened(step, self._means.sealer) for step in claimed.steps]
        except PermanentError as error:
            reason = f"its secret parameters cannot be read: {error}"
            failed = Advance(run_id=claimed.run.run_id, fence=claimed.fence, state=RunState.FAILED, reason=reason)
            with contextlib.suppress(DogwatchError):  # the next heartbeat gives it back, to be tried again
                await self.advance(failed)
            return None
        return msgspec.structs.replace(
            claimed,
            run=run,
            steps=steps,
            definition=self._refilled(claimed.definition, current),
            secrets=claim.secrets_of(claimed.definition, current),
        )

    def _refilled(self, spec: JobSpec, current: JobSpec | None) -> JobSpec:
        found = self._refills.get((id(spec), id(current)))
        if found is None:
            if len(self._refills) >= _REFILLS:
                self._refills.clear()
            # Both are kept with it, so that their ids cannot become another's.
            found = self._refills[id(spec), id(current)] = (spec, current, refill(spec, current))
        return found[2]

    async def advance(self, change: Advance) -> Order:
        if any(step.hidden for step in change.steps):
            sealed = [intents.item_sealed(step, self._means.sealer) for step in change.steps]
            change = msgspec.structs.replace(change, steps=sealed)
        order = await self._write(
            lambda tx: advancing.advance(tx, self._setting, change), free=not advancing.may_cancel(change)
        )
        if change.state is not None and change.state.ended:
            self._meters.ended[change.state] = self._meters.ended.get(change.state, 0) + 1
        return order

    async def append(self, run_id: str, fence: int, chunks: Sequence[Chunk]) -> None:
        await self._write(lambda tx: output.append(tx, run_id, fence, chunks, self._means.output_bytes), free=True)

    async def reap(self) -> int:
        seen = await self._seeing(self._database.read(workers.observe))
        opening = self._database.opening
        silent = self._watch.silent(seen, self._means.clock.monotonic_s(), opening)
        taken = 0
        left = bool(silent) or await self._database.read(workers.unowned)
        if left:
            taken = await self._write(lambda tx: workers.reap(tx, self._setting, silent), free=True)
        self._meters.reaped += taken
        return taken

    async def _seeing(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except TransientError:
            self._watch.blind()
            raise

    async def _write(self, work: Callable[[Tx], T], *, free: bool = False) -> T:
        return await self._database.write(work, free=free)

    async def thaw(self) -> int:
        """Look again at deployments that are held: freezes are others now. Return how many there were."""
        return await self._write(freezes.thaw) if await self._database.read(freezes.any_held) else 0

    # -- housekeeping ------------------------------------------------------------------------------------------------

    async def retain(self) -> int:
        """Delete what is kept too long or too much of; return how many runs went. Any process may do it, any time."""
        return await prune(self._database, self._means.keeping)

    async def refresh(self) -> None:
        """Count again for metrics, which costs more the more runs have not ended, and say at runs that no worker can
        take what they wait for.
        """
        self._meters.counts = await self._database.read(read.counts)
        if found := await self._database.read(unplaced.notes):
            await self._database.write(lambda tx: unplaced.write(tx, found))

    def metrics(self) -> Iterable[Family]:
        return self._meters.families()
