"""What the rest of Dogwatch may ask of runs. The engine implements it; nothing above imports more than this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from dogwatch.access.actor import Actor
from dogwatch.core.metrics import Family
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Chunk, Json, Page, Run, RunFilter, Started, StartRun, StepRun, Worker
from dogwatch.store.database import Tx

Starter = Callable[[Tx], Started]
# The label of a rerun that says what steps repeat of their hosts; without it all.
AGAIN = "dogwatch/again"


class Runs(Protocol):
    """Every call that changes something writes its audit event in the same transaction.

    Raises everywhere: NotFound for a run, job or step that does not exist; TransientError while the database cannot
    be used.
    """

    def jobs(self) -> Sequence[JobSpec]:
        """Return the jobs of the configuration in force, by name."""
        ...

    async def start(self, request: StartRun) -> Started:
        """Return once the run is on disk; it follows by itself.

        Raises: UsageError (parameters, all mistakes at once), Conflict (the job's concurrency rule forbids it).
        """
        ...

    async def start_adhoc(self, spec: JobSpec, request: StartRun) -> Started:
        """Start a run of a job that no configuration has: a command over the fleet, a plan to apply. It is on disk with
        its definition, and so is rerun, resumed and shown as any other.

        spec: its name is none that a configured job can have (`fleet:run`); its secrets are secret parameters. Text
        that is no template has `{{` written as `\\{{`.
        Raises: as start.
        """
        ...

    def starter(self, request: StartRun) -> Starter:
        """Validate now, and return what starts the run inside a transaction of the caller: a fire or a delivery and
        its run are on disk together, or neither is.

        Raises: as start; what it returns raises Conflict.
        """
        ...

    async def find(self, wanted: RunFilter) -> Page[Run]: ...

    async def show(self, run_id: str) -> Run:
        """run_id: whole, or a beginning that only one run has."""
        ...

    async def steps(self, run_id: str) -> Sequence[StepRun]: ...

    async def cancel(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        """Ask it to end; its children too. Cleanup steps run. A run that has ended stays as it is.

        Raises: Conflict for a run that has ended.
        """
        ...

    async def pause(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        """Begin no further step; those that run end by themselves. Raises: Conflict."""
        ...

    async def resume(self, run_id: str, actor: Actor) -> Run:
        """Raises: Conflict for a run that is not paused."""
        ...

    async def rerun(
        self, run_id: str, actor: Actor, *, failed_only: bool = False, key: str = "", again: str = ""
    ) -> Started:
        """Start it again as a new run with the same parameters and definition.

        failed_only: steps that succeeded keep their outputs and are not repeated. again: what steps over many things
        (hosts) are to repeat of these, in the label AGAIN: `unfinished` (all that did not succeed; the default with
        failed_only), `failed`, `rest` (what had no turn).
        Raises: Conflict for a run that has not ended, or has nothing to repeat.
        """
        ...

    async def decide(self, run_id: str, step: str, actor: Actor, *, approve: bool, comment: str = "") -> Run:
        """Approve or reject a step that waits for it. step: "" where only one waits.

        Raises: NotAllowed for who may not, Conflict where nothing waits.
        """
        ...

    async def signal(self, run_id: str, step: str, payload: Json) -> None:
        """Wake a waiting step with a payload. A signal for a step that does not wait is dropped."""
        ...

    async def output(
        self, run_id: str, *, step: str = "", after: int = 0, limit: int = 1000, search: str = ""
    ) -> Sequence[Chunk]:
        """Return what was kept of the output, oldest first; what was cut is said by a note. search: plain text."""
        ...

    def follow(self, run_id: str, *, step: str = "", after: int = 0) -> AsyncIterator[Chunk]:
        """Yield output as it comes, and end with the run."""
        ...

    async def wait(self, run_id: str) -> Run:
        """Return the run once it has ended."""
        ...

    async def workers(self) -> Sequence[Worker]: ...

    async def drain(self, worker_id: str, actor: Actor, *, on: bool = True) -> Worker:
        """Let it take no new run, or take runs again."""
        ...

    def metrics(self) -> Iterable[Family]: ...
