"""What tests of the executor and the worker need: a ledger in memory, actions made of functions, a plain language."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.executor_tools import View
from dogwatch.engine.ledger import Advance, Beat, Claimed, Fenced, Order, StepRow, WorkerIdentity
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.values import Chunk, Json, Run, RunState, StepState, Trigger
from dogwatch.engine.writer import Masks, PlainMasks
from dogwatch.errors import PermanentError, TransientError

Doing = Callable[[Scene], Awaitable[Outcome | Wait]]
ANN = Actor(kind="user", name="ann")


class Do(Action, frozen=True, kw_only=True):
    """Runs a function of the test."""

    kind: ClassVar[str] = "do"
    work: Any = None
    text: str = ""

    def plan(self) -> Change:
        return Change(summary="do")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        if self.work is None:
            return Outcome(outputs={"text": self.text})
        result: Outcome | Wait = await self.work(scene)
        return result


class Each(Action, frozen=True, kw_only=True):
    kind: ClassVar[str] = "each"
    control: ClassVar[bool] = True
    over: Json = None
    do: Action = Do()
    parallel: int = 2
    on_error: Literal["stop", "collect"] = "stop"

    def plan(self) -> Change:
        return Change(summary="each")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        raise AssertionError


def step(name: str, work: Doing | None = None, **options: Any) -> StepSpec:
    return StepSpec(name=name, **{"action": Do(work=work), **options})


class PlainLanguage:
    """`true` and `false` are conditions, `result.x` is an expression; `{x}` in a text is output x of any step."""

    def fill(self, action: Action, view: View) -> Action:
        if isinstance(action, Do) and "{" in action.text:
            outputs = {name: value for row in view.rows.values() for name, value in row.outputs.items()}
            try:
                text = action.text.format(**outputs, item=view.row.item, secret=view.claimed.secrets)
            except KeyError as error:
                raise PermanentError(f"no such output: {error}") from error
            return msgspec.structs.replace(action, text=text)
        return action

    def holds(self, expression: str, view: View) -> bool:
        if expression not in ("true", "false"):
            raise PermanentError(f"unknown name '{expression}'")
        return expression == "true"

    def value(self, expression: str, view: View) -> Json:
        key = expression.removeprefix("result.")
        if key not in (view.result or {}):
            raise PermanentError(f"no such key: {key}")
        return (view.result or {})[key]

    def hides(self, action: Action, claimed: Claimed) -> bool:
        return False

    def masks(self, claimed: Claimed, items: Iterable[Json] = ()) -> Masks:
        return PlainMasks(list(claimed.secrets.values()))


class FakeRun:
    def __init__(self, run_id: str, job: JobSpec, secrets: Mapping[str, str], deadline_s: float | None) -> None:
        self.job, self.secrets = job, secrets
        self.run = Run(
            run_id=run_id, job=job.name, state=RunState.QUEUED, actor=ANN, trigger=Trigger(), created_s=0.0,
            deadline_s=deadline_s,
        )  # fmt: skip
        self.steps: dict[str, StepRow] = {}
        self.order = Order()
        self.worker, self.fence, self.ready = "", 0, True
        self.output: list[Chunk] = []
        self.ended = asyncio.Event()
        self.released = 0

    def text(self, stream: str = "stdout") -> str:
        return "".join(chunk.text for chunk in self.output if chunk.stream == stream)


class FakeLedger:
    """Keeps runs in memory as the real one does on disk. trouble: how many calls fail as if the database were gone."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.workers: dict[str, str] = {}
        self.listeners: dict[str, list[Callable[[], None]]] = {}
        self.trouble = 0
        self.calls: list[str] = []
        self.changes: list[Advance] = []
        self.hang: asyncio.Event | None = None

    def listen(self, topic: str, call: Callable[[], None]) -> Callable[[], None]:
        self.listeners.setdefault(topic, []).append(call)
        return lambda: self.listeners[topic].remove(call)

    def tell(self, topic: str) -> None:
        for call in self.listeners.get(topic, []):
            call()

    def add(
        self, *steps: StepSpec, secrets: Mapping[str, str] | None = None, deadline_s: float | None = None, **job: Any
    ) -> FakeRun:
        run = FakeRun(f"r{len(self.runs)}", JobSpec(name="job", steps=list(steps), **job), secrets or {}, deadline_s)
        self.runs[run.run.run_id] = run
        self.tell("runs")
        return run

    def order(self, run: FakeRun, **changes: Any) -> None:
        run.order = msgspec.structs.replace(run.order, **changes)
        run.ready = True
        self.tell(f"worker:{run.worker}" if run.worker else "runs")

    def signal(self, run: FakeRun, name: str, payload: Json) -> None:
        run.steps[name] = msgspec.structs.replace(run.steps[name], signal=(payload,))
        run.ready = True
        self.tell(f"worker:{run.worker}" if run.worker else "runs")

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        await asyncio.sleep(0)
        if self.hang is not None and name == "heartbeat":
            await self.hang.wait()
        if self.trouble > 0:
            self.trouble -= 1
            raise TransientError("the database is gone")

    def _orders(self, run: FakeRun) -> Order:
        signals = {
            row.name: row.signal[0]
            for row in run.steps.values()
            if row.signal is not None and row.state is StepState.WAITING
        }
        return msgspec.structs.replace(run.order, signals=signals)

    async def register(self, worker: WorkerIdentity) -> None:
        await self._called("register")
        self.workers[worker.worker_id] = "active"

    async def heartbeat(self, worker_id: str, held: Mapping[str, int]) -> Beat:
        await self._called("heartbeat")
        if self.workers.get(worker_id, "lost") == "lost":
            raise Fenced("declared lost")
        own = {run_id: run for run_id, run in self.runs.items() if run.worker == worker_id}
        return Beat(
            orders={run_id: self._orders(run) for run_id, run in own.items()},
            lost=[run_id for run_id, fence in held.items() if run_id not in own or own[run_id].fence != fence],
            missing=[],
            draining=self.workers[worker_id] == "draining",
        )

    async def leave(self, worker_id: str) -> None:
        await self._called("leave")
        self.take_from(worker_id)
        self.workers.pop(worker_id, None)

    def take_from(self, worker_id: str) -> None:
        for run in self.runs.values():
            if run.worker == worker_id:
                run.worker, run.ready = "", True
                run.fence += 1

    def lose(self, worker_id: str) -> None:
        """Declare a worker lost, as a reaper does."""
        self.workers[worker_id] = "lost"
        self.take_from(worker_id)

    async def claim(self, worker_id: str, slots: int) -> Sequence[Claimed]:
        await self._called("claim")
        if self.workers.get(worker_id) != "active":
            raise Fenced("declared lost")
        due = [run for run in self.runs.values() if run.ready and not run.worker and not run.run.state.ended][:slots]
        return [self.claimed(run, worker_id) for run in due]

    def claimed(self, run: FakeRun, worker_id: str = "w") -> Claimed:
        run.worker, run.ready = worker_id, False
        run.fence += 1
        run.run = msgspec.structs.replace(run.run, state=RunState.RUNNING)
        return Claimed(
            run=run.run, fence=run.fence, definition=run.job, steps=list(run.steps.values()), order=run.order,
            secrets=run.secrets,
        )  # fmt: skip

    async def advance(self, change: Advance) -> Order:
        await self._called("advance")
        run = self.runs[change.run_id]
        if run.fence != change.fence or not run.worker:
            raise Fenced("not its own")
        self.changes.append(change)
        for row in change.steps:
            old = run.steps.get(row.name)
            signal = old.signal if old is not None and row.state is StepState.WAITING else None
            run.steps[row.name] = msgspec.structs.replace(row, signal=signal)
        if change.state is not None:
            run.run = msgspec.structs.replace(run.run, state=change.state, reason=change.reason or "")
        if change.waiting_for is not None:
            run.run = msgspec.structs.replace(run.run, waiting_for=change.waiting_for)
        order = self._orders(run)
        if run.run.state.ended:
            run.worker = ""
            run.ended.set()
        elif change.release:
            run.worker = ""
            run.released += 1
            run.ready = bool(order.signals)
        return order

    async def append(self, run_id: str, fence: int, chunks: Sequence[Chunk]) -> None:
        await self._called("append")
        run = self.runs[run_id]
        if run.fence != fence or not run.worker:
            raise Fenced("not its own")
        run.output.extend(chunks)

    async def reap(self) -> int:
        await self._called("reap")
        return 0
