"""What tests of actions share: a scene that keeps what it is given, and runs that are only remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Json, Page, Run, RunFilter, RunState, Started, StartRun, StepRun
from dogwatch.errors import DogwatchError, NotFound, PermanentError

T = TypeVar("T")
START_S = 1_800_000_000.0


class FakeScene:
    """See action.Scene. services: by type. moved: how far its clock is ahead."""

    def __init__(
        self, services: Mapping[type[Any], object] | None = None, *, step: str = "one", **changes: Any
    ) -> None:
        self.run_id, self.step, self.attempt = "r1", step, 1
        self.idempotency_key = f"r1.{step}"
        self.actor = Actor(kind="run", name="r1")
        self.job, self.labels = "deploy", {}
        self.woken, self.memory, self.signal = False, None, None
        self.now_s = START_S
        self.left_s = 30.0
        self.secrets: Sequence[str] = ()
        self.written: list[tuple[str, str]] = []
        self._services = dict(services or {})
        for name, value in changes.items():
            setattr(self, name, value)

    def wake(self, memory: Json, signal: Json = None) -> FakeScene:
        """Let the step go on after a wait."""
        self.woken, self.memory, self.signal = True, memory, signal
        return self

    def remaining_s(self) -> float:
        return self.left_s

    def write(self, text: bytes | str, stream: str = "stdout") -> None:
        self.written.append((stream, text if isinstance(text, str) else text.decode(errors="replace")))

    def mask(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def get(self, service: type[T]) -> T:
        found = self._services.get(service)
        if found is None:
            raise PermanentError(f"this program has no {service.__name__}")
        return found  # type: ignore[return-value]


class FakeRuns:
    """The part of port.Runs that a `job` step uses; runs end when a test says so."""

    def __init__(self, *jobs: JobSpec, refusal: DogwatchError | None = None) -> None:
        self._jobs = jobs
        self._refusal = refusal
        self.started: list[StartRun] = []
        self.runs: dict[str, Run] = {}
        self.outputs: dict[str, Mapping[str, Json]] = {}

    def jobs(self) -> Sequence[JobSpec]:
        return self._jobs

    async def start(self, request: StartRun) -> Started:
        if self._refusal is not None:
            raise self._refusal
        for run in self.runs.values():
            if run.key == request.key:
                return Started(run=run, created=False)
        self.started.append(request)
        run = Run(
            run_id=f"c{len(self.runs) + 1}",
            job=request.job,
            state=RunState.QUEUED,
            actor=request.actor,
            trigger=request.trigger,
            key=request.key,
            parent=request.parent,
            parameters=request.parameters,
            created_s=START_S,
        )
        self.runs[run.run_id] = run
        return Started(run=run, created=True)

    def end(self, run_id: str, state: RunState, reason: str = "", outputs: Mapping[str, Json] | None = None) -> None:
        self.runs[run_id] = msgspec.structs.replace(self.runs[run_id], state=state, reason=reason)
        self.outputs[run_id] = outputs or {}

    async def find(self, wanted: RunFilter) -> Page[Run]:
        found = [run for run in reversed(self.runs.values()) if run.parent and run.parent[0] == wanted.parent]
        at = int(wanted.cursor or 0)
        # Small pages, so that paging is met.
        cursor = str(at + 2) if at + 2 < len(found) else ""
        return Page(items=found[at : at + 2], cursor=cursor)

    async def show(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise NotFound(f"no run {run_id}")
        return self.runs[run_id]

    async def steps(self, run_id: str) -> Sequence[StepRun]:
        from dogwatch.engine.values import StepState

        outputs = self.outputs.get(run_id, {})
        return [StepRun(run_id=run_id, name="last", kind="x", state=StepState.SUCCEEDED, outputs=outputs)]
