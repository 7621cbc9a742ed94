"""Calling another job: a run of its own, which ends with the run that started it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.port import Runs
from dogwatch.engine.scope import job_outputs
from dogwatch.engine.values import Json, RunFilter, RunState, StartRun, Trigger
from dogwatch.errors import Conflict, NotFound, PermanentError

# Signals wake it at once; this is for one that was lost.
LOOK_AGAIN_S = 60.0


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger signals the step that waits for a run: how it ended, and what it gives."""

    run_id: str
    state: RunState
    reason: str = ""
    outputs: Mapping[str, Json] = {}


class JobAction(Action, frozen=True, kw_only=True):
    """Starts a run of another job. Cancelling this one cancels it. Its outputs are those of the job, and `run_id`.

    job: its name. parameters: what it is given. wait: until it has ended, on disk; its failure fails the step.
    false: only until it is started.
    """

    kind: ClassVar[str] = "job"
    short: ClassVar[str] = "job"
    outputs: ClassVar[Mapping[str, str]] = {"*": "dyn", "run_id": "string"}

    job: str
    parameters: Mapping[str, Json] = {}
    wait: bool = True

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if "{{" in self.job:
            yield ("job",), "must be the name itself", "templates are for its parameters"

    def plan(self) -> Change:
        given = tuple(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in self.parameters.items())
        until = " and wait until it has ended" if self.wait else ""
        return Change(summary=f"run the job {self.job}{until}", details=given, undo="")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        runs = scene.get(Runs)  # type: ignore[type-abstract]
        child = scene.memory.get("run_id") if isinstance(scene.memory, Mapping) else None
        if not isinstance(child, str):
            child = await self._start(runs, scene)
            if not self.wait:
                return Outcome(outputs={"run_id": child}, message=f"started {child}")
        ended = await self._ended(runs, child, scene)
        if ended is None:
            note = f"run {child} of {self.job}"
            return Wait(until_s=scene.now_s + LOOK_AGAIN_S, note=note, memory={"run_id": child})
        if ended.state is not RunState.SUCCEEDED:
            reason = f": {ended.reason}" if ended.reason else ""
            raise PermanentError(f"run {child} of {self.job} {_WORDS.get(ended.state, ended.state)}{reason}")
        return Outcome(outputs={**ended.outputs, "run_id": child}, message=f"run {child} succeeded")

    async def _start(self, runs: Runs, scene: Scene) -> str:
        if scene.attempt > 1 and (child := await _started_before(runs, scene)):
            return child
        request = StartRun(
            job=self.job,
            parameters=self.parameters,
            actor=Actor(kind="run", name=scene.run_id),
            trigger=Trigger(kind="run", name=scene.run_id, data={"job": scene.job, "step": scene.step}),
            # Another for each further attempt: what an earlier one started has failed by then.
            key=f"{scene.run_id}/{scene.step}/{scene.attempt}",
            parent=(scene.run_id, scene.step),
        )
        try:
            return (await runs.start(request)).run.run_id
        except (Conflict, NotFound) as error:
            raise PermanentError(f"cannot run the job {self.job}: {error}", hint=error.hint) from error

    async def _ended(self, runs: Runs, child: str, scene: Scene) -> Ended | None:
        """Return how the run ended, from the signal or by looking; None while it runs."""
        try:
            told = msgspec.convert(scene.signal, Ended) if scene.signal is not None else None
        except msgspec.ValidationError:
            told = None
        if told is not None and told.run_id == child and told.state.ended:
            return told
        run = await runs.show(child)
        if not run.state.ended:
            return None
        spec = next((spec for spec in runs.jobs() if spec.name == self.job), None)
        outputs = job_outputs(spec, run, await runs.steps(child)) if spec is not None else {}
        return Ended(run_id=child, state=run.state, reason=run.reason, outputs=outputs)


async def _started_before(runs: Runs, scene: Scene) -> str:
    """Return the run that an earlier attempt started and that need not be started again, "" where there is none.

    An attempt that a crash cut off may have started one; one that failed is the reason for this attempt.
    """
    cursor = ""
    while True:
        page = await runs.find(RunFilter(parent=scene.run_id, limit=200, cursor=cursor))
        for run in page.items:
            if run.parent is not None and run.parent[1] == scene.step:
                good = not run.state.ended or run.state is RunState.SUCCEEDED
                return run.run_id if good else ""
        cursor = page.cursor
        if not cursor:
            return ""


_WORDS = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}
