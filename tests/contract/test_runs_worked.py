"""The book of runs and a worker together, on both databases: what people ask of runs while they are carried out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from tests.contract.conftest import Open
from tests.engine_fakes import PlainLanguage
from tests.runs import ALICE, check, identity, render

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.core.component import Registry
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.port import Runs
from dogwatch.engine.runs import Means, RunBook
from dogwatch.engine.scene import Services
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunState, StartRun, StepRun
from dogwatch.engine.worker import Worker, WorkerOptions
from dogwatch.errors import PermanentError


class Doings(dict[str, Callable[[Scene], Awaitable[Outcome | Wait]]]):
    """What the steps of a test do, by name."""


class Call(Action, frozen=True, kw_only=True):
    kind: ClassVar[str] = "call"
    name: str

    def plan(self) -> Change:
        return Change(summary=self.name)

    async def apply(self, scene: Scene) -> Outcome | Wait:
        return await scene.get(Doings)[self.name](scene)


class World:
    def __init__(self, book: RunBook, worker: Worker, doings: Doings) -> None:
        self.book, self.worker, self.doings = book, worker, doings
        self.began: list[str] = []
        self.go = asyncio.Event()
        doings |= {"hold": self._hold, "ask": self._ask, "note": self._note, "fail": self._fail}

    async def _hold(self, scene: Scene) -> Outcome:
        self.began.append(scene.step)
        await self.go.wait()
        return Outcome()

    async def _ask(self, scene: Scene) -> Outcome | Wait:
        if scene.woken and scene.signal is not None:
            return Outcome(outputs={"said": scene.signal})
        return Wait(note="approval by ops")

    async def _note(self, scene: Scene) -> Outcome:
        self.began.append(scene.step)
        return Outcome(outputs={"step": scene.step})

    async def _fail(self, scene: Scene) -> Outcome:
        self.began.append(scene.step)
        raise PermanentError("as it was asked to")

    async def start(self, job: str = "job", **options: Any) -> str:
        return (await self.book.start(StartRun(job=job, actor=ALICE, **options))).run.run_id

    async def ended(self, run_id: str) -> RunState:
        async with asyncio.timeout(60):
            return (await self.book.wait(run_id)).state

    async def steps(self, run_id: str) -> dict[str, StepRun]:
        return {step.name: step for step in await self.book.steps(run_id)}

    async def until(self, holds: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(60):
            while not await holds():  # noqa: ASYNC110 - it looks at the database
                await asyncio.sleep(0.02)

    async def waits(self, run_id: str, step: str) -> None:
        async def waiting() -> bool:
            found = (await self.steps(run_id)).get(step)
            return found is not None and found.state == "waiting"

        await self.until(waiting)

    async def parked(self) -> None:
        async def idle() -> bool:
            return not self.worker.busy

        await self.until(idle)

    async def has_begun(self, count: int = 1) -> None:
        async def begun() -> bool:
            return len(self.began) >= count

        await self.until(begun)


def step(name: str, does: str = "note", **options: Any) -> StepSpec:
    return StepSpec(name=name, **{"action": Call(name=does), **options})


@contextlib.asynccontextmanager
async def world(open_database: Open, *steps: StepSpec, slots: int = 4, **job: Any) -> AsyncIterator[World]:
    others: list[JobSpec] = job.pop("others", [])
    jobs = {one.name: one for one in (JobSpec(name="job", steps=list(steps), **job), *others)}
    database = await open_database(access_tables(), engine_tables())
    actions: Registry[Action] = Registry("action", Call, MapAction, JobAction, WaitAction)
    means = Means(jobs=lambda: jobs, actions=actions, clock=SystemClock(), check=check, render=render)
    book, services, doings = RunBook(database, means), Services(), Doings()
    services.add(Doings, doings)
    services.add(Runs, book)  # type: ignore[type-abstract]
    worker = Worker(
        identity("w1", slots=slots, ttl_s=60.0),
        book,
        database.listen,
        language=PlainLanguage(),
        services=services,
        clock=SystemClock(),
        options=WorkerOptions(alone=bool(database.opening), grace_s=0.0),
    )
    working = asyncio.create_task(worker.run())
    try:
        yield World(book, worker, doings)
    finally:
        worker.stop()
        await working


async def test_paused_it_begins_nothing_until_it_is_resumed(open_database: Open) -> None:
    async with world(open_database, step("a", "hold"), step("b")) as here:
        run_id = await here.start()
        await here.has_begun()
        assert (await here.book.pause(run_id, ALICE)).state is RunState.PAUSED
        here.go.set()
        await here.parked()
        steps = await here.steps(run_id)
        assert [step.state.value for step in steps.values()] == ["succeeded", "pending"]
        assert (await here.book.show(run_id)).state is RunState.PAUSED
        await here.book.resume(run_id, ALICE)
        assert await here.ended(run_id) is RunState.SUCCEEDED
        assert here.began == ["a", "b"]


async def test_a_run_that_waits_costs_no_slot_and_an_answer_goes_on_with_it(open_database: Open) -> None:
    async with world(open_database, step("ask", "ask"), step("b"), slots=1) as here:
        runs = [await here.start() for _ in range(3)]
        for run_id in runs:
            await here.waits(run_id, "ask")
        await here.parked()
        assert (await here.book.show(runs[0])).waiting_for == "approval by ops"
        for run_id in reversed(runs):
            await here.book.signal(run_id, "ask", run_id)
            assert await here.ended(run_id) is RunState.SUCCEEDED
            assert (await here.steps(run_id))["ask"].outputs == {"said": run_id}


async def test_an_answer_reaches_a_run_that_does_something_else_meanwhile(open_database: Open) -> None:
    async with world(open_database, step("ask", "ask"), step("b"), step("busy", "hold", needs=[])) as here:
        run_id = await here.start()
        await here.waits(run_id, "ask")
        started = time.monotonic()
        await here.book.signal(run_id, "ask", "yes")
        await here.has_begun(2)
        assert time.monotonic() - started < 15, "it does not wait for a heartbeat's turn"
        assert here.began == ["busy", "b"]
        here.go.set()
        assert await here.ended(run_id) is RunState.SUCCEEDED


async def test_a_cancel_ends_a_run_that_works_and_one_that_waits(open_database: Open) -> None:
    async with world(
        open_database, step("a", "hold", needs=[]), step("ask", "ask", needs=[]), step("clean", always=True)
    ) as here:
        run_id = await here.start()
        await here.waits(run_id, "ask")
        await here.book.cancel(run_id, ALICE, reason="enough")
        assert await here.ended(run_id) is RunState.CANCELLED
        states = {name: one.state.value for name, one in (await here.steps(run_id)).items()}
        assert states == {"a": "cancelled", "ask": "cancelled", "clean": "succeeded"}
        assert (await here.book.show(run_id)).reason == "enough"
        here.go.set()
        other = await here.start()
        await here.waits(other, "ask")
        await here.parked()
        await here.book.cancel(other, ALICE)
        assert await here.ended(other) is RunState.CANCELLED


async def test_a_long_wait_is_parked_and_its_time_wakes_it(open_database: Open) -> None:
    async with world(open_database, step("nap", action=WaitAction(for_=2.6)), step("b")) as here:
        run_id = await here.start()
        await here.waits(run_id, "nap")
        await here.parked()
        started = (await here.steps(run_id))["nap"].started_s or 0.0
        assert await here.ended(run_id) is RunState.SUCCEEDED
        ended = (await here.steps(run_id))["nap"].ended_s or 0.0
        assert 2.6 <= ended - started < 15.0


async def test_the_deadline_of_a_run_ends_it_also_while_it_is_parked(open_database: Open) -> None:
    async with world(open_database, step("ask", "ask"), step("clean", always=True), timeout=2.5) as here:
        run_id = await here.start()
        await here.waits(run_id, "ask")
        await here.parked()
        assert await here.ended(run_id) is RunState.FAILED
        assert (await here.book.show(run_id)).reason == "the run took longer than 2.5s"
        assert here.began == ["clean"]


async def test_parent_and_child_need_no_second_slot(open_database: Open) -> None:
    below = JobSpec(name="below", steps=[step("deep")])
    async with world(
        open_database, step("call", action=JobAction(job="below")), step("b"), slots=1, others=[below]
    ) as here:
        run_id = await here.start()
        started = time.monotonic()
        assert await here.ended(run_id) is RunState.SUCCEEDED
        assert time.monotonic() - started < 10.0
        assert here.began == ["deep", "b"]


async def test_a_child_that_fails_fails_its_parents_step(open_database: Open) -> None:
    below = JobSpec(name="below", steps=[step("deep", "fail")])
    async with world(open_database, step("call", action=JobAction(job="below")), others=[below]) as here:
        run_id = await here.start()
        assert await here.ended(run_id) is RunState.FAILED
        assert "deep failed: as it was asked to" in (await here.steps(run_id))["call"].reason


async def test_a_rerun_of_what_failed_repeats_neither_steps_nor_items_that_succeeded(open_database: Open) -> None:
    broken = True

    async def shaky(scene: Scene) -> Outcome:
        here.began.append(scene.step)
        if broken and scene.step == "m[1]":
            raise PermanentError("broken")
        return Outcome(outputs={"n": scene.step})

    spec = step("m", action=MapAction(over=["x", "y", "z"], do=Call(name="shaky"), on_error="collect", parallel=1))
    async with world(open_database, step("a"), spec, step("b")) as here:
        here.doings["shaky"] = shaky
        run_id = await here.start()
        assert await here.ended(run_id) is RunState.FAILED
        assert here.began == ["a", "m[0]", "m[1]", "m[2]"]
        here.began.clear()
        broken = False
        again = (await here.book.rerun(run_id, ALICE, failed_only=True)).run.run_id
        assert await here.ended(again) is RunState.SUCCEEDED
        assert here.began == ["m[1]", "b"]
        steps = await here.steps(again)
        assert steps["m"].outputs == {"items": [{"n": "m[0]"}, {"n": "m[1]"}, {"n": "m[2]"}]}


async def test_items_of_a_map_wait_parked_and_each_answer_goes_on_with_its_own(open_database: Open) -> None:
    spec = step("m", action=MapAction(over=[1, 2], do=Call(name="ask"), parallel=2))
    async with world(open_database, spec) as here:
        run_id = await here.start()
        await here.waits(run_id, "m[1]")
        await here.parked()
        for name in ("m[1]", "m[0]"):
            await here.book.signal(run_id, name, name)
            await asyncio.sleep(0.1)
        assert await here.ended(run_id) is RunState.SUCCEEDED
        assert (await here.steps(run_id))["m"].outputs == {"items": [{"said": "m[0]"}, {"said": "m[1]"}]}


async def test_higher_priority_goes_first_then_age(open_database: Open) -> None:
    async with world(open_database, step("a", "hold"), slots=1) as here:
        first = await here.start()
        await here.has_begun()
        runs = {name: await here.start(priority=priority) for name, priority in (("low", 0), ("high", 5), ("mid", 1))}
        here.go.set()
        for run_id in (first, *runs.values()):
            await here.ended(run_id)
        started = {name: (await here.book.show(run_id)).started_s or 0.0 for name, run_id in runs.items()}
        assert sorted(started, key=lambda name: started[name]) == ["high", "mid", "low"]


async def test_output_is_followed_while_it_is_written(open_database: Open) -> None:
    async def talk(scene: Scene) -> Outcome:
        scene.write("first\n")
        await here.go.wait()
        scene.write("last\n")
        return Outcome()

    async with world(open_database, step("a", "talk")) as here:
        here.doings["talk"] = talk
        run_id = await here.start()
        seen = []
        async with asyncio.timeout(60):
            async for chunk in here.book.follow(run_id):
                seen.append(chunk.text)
                here.go.set()
        assert seen == ["first\n", "last\n"]
