"""Processes that carry runs out, for tests that kill them: a parent that has everything imported forks one for each
line of JSON on its standard input, and says on its standard output when one ended.

A life opens the database, starts the runs it is told of (under keys, so that only the first start counts), works until
all of them have ended, and exits. `kill_at` is the instant at which it kills itself: instants are counted before and
after each call of the ledger, and in each action before its effect, in the middle of it and after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psycopg  # noqa: F401 - imported before the forks
from tests.engine_fakes import PlainLanguage
from tests.runs import check, render

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.core.component import Registry
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.engine.ledger import WorkerIdentity
from dogwatch.engine.port import Runs
from dogwatch.engine.runs import Means, RunBook
from dogwatch.engine.scene import Services
from dogwatch.engine.spec import JobSpec, Retry, StepSpec
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter, RunState, StartRun
from dogwatch.engine.worker import Worker, WorkerOptions
from dogwatch.errors import DogwatchError, PermanentError, TransientError
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

ANN = Actor(kind="user", name="ann")


class Effect(Action, frozen=True, kw_only=True):
    """Writes a line when it begins and one when it ends. fails: attempts that fail before one succeeds.

    rest_s: it waits on disk for so long first. ask: it waits for a signal first. answers: a step that asks, which it
    signals. cancels: it cancels its own run.
    """

    kind: ClassVar[str] = "effect"
    hold_s: float = 0.0
    fails: int = 0
    rest_s: float = 0.0
    ask: bool = False
    answers: str = ""
    cancels: bool = False

    def plan(self) -> Change:
        return Change(summary="an effect")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        world = scene.get(World)
        if not scene.woken and (self.rest_s or self.ask):
            return Wait(until_s=None if self.ask else scene.now_s + self.rest_s, note="approval")
        world.instant()
        world.write(scene, "begin")
        try:
            world.instant()
            scene.write(f"{scene.step} works\n")
            await asyncio.sleep(self.hold_s)
            await self._ask_for(scene)
        except asyncio.CancelledError:
            world.write(scene, "cut")
            raise
        world.write(scene, "end")
        world.instant()
        if scene.attempt <= self.fails:
            raise TransientError("not yet")
        return Outcome(outputs={"by": os.getpid(), "said": scene.signal})

    async def _ask_for(self, scene: Scene) -> None:
        runs = scene.get(Runs)  # type: ignore[type-abstract]
        if self.cancels:
            await runs.cancel(scene.run_id, ANN, reason="enough")
        while self.answers:
            states = {step.name: step.state for step in await runs.steps(scene.run_id)}
            if states[self.answers].ended:
                return
            if states[self.answers] == "waiting":
                await runs.signal(scene.run_id, self.answers, "yes")
            await asyncio.sleep(0.01)


class Child(Action, frozen=True, kw_only=True):
    """Starts a run of another job and waits for its end."""

    kind: ClassVar[str] = "child"
    job: str = ""

    def plan(self) -> Change:
        return Change(summary="a child")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        if scene.woken and scene.signal is not None:
            if scene.signal["state"] != "succeeded":
                raise PermanentError(f"the child {scene.signal['state']}")
            return Outcome()
        runs = scene.get(Runs)  # type: ignore[type-abstract]
        key = f"{scene.run_id}/{scene.step}/{scene.attempt}"
        parent = (scene.run_id, scene.step)
        await runs.start(StartRun(job=self.job, actor=ANN, key=key, parent=parent))
        return Wait(until_s=scene.now_s + 30.0, note=f"job {self.job}")


class World:
    """Where effects are counted and when this life ends."""

    def __init__(self, effects: str, kill_at: int | None) -> None:
        self._descriptor = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._kill_at = kill_at
        self._instants = 0

    def instant(self) -> None:
        self._instants += 1
        if self._instants == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, scene: Scene, what: str) -> None:
        line = [scene.job, scene.run_id, scene.step, scene.attempt, what, os.getpid(), boottime_s()]
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Mortal:
    """A ledger each of whose calls has an instant before and one after it."""

    def __init__(self, ledger: RunBook, world: World) -> None:
        self._ledger, self._world = ledger, world

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._ledger, name)
        if name not in ("claim", "advance", "append"):
            return call

        async def mortal(*arguments: Any) -> Any:
            self._world.instant()
            answer = await call(*arguments)
            if name != "claim" or answer:
                self._world.instant()
            return answer

        return mortal


def spec_of(written: dict[str, Any]) -> StepSpec:
    options = dict(written)
    action: Action
    if "effect" in options:
        action = Effect(**options.pop("effect"))
    elif "script" in options:
        action = ExecAction(run=options.pop("script"))
    else:
        action = Child(job=options.pop("child"))
    if "retry" in options:
        options["retry"] = Retry(**options["retry"])
    return StepSpec(action=action, **options)


async def live(life: dict[str, Any]) -> None:
    world = World(life["effects"], life.get("kill_at"))
    jobs = {
        name: JobSpec(name=name, **{**written, "steps": [spec_of(step) for step in written["steps"]]})
        for name, written in life["jobs"].items()
    }
    tables = (access_tables(), engine_tables())
    url = life["url"]
    if url.startswith("sqlite:"):
        database: Any = await open_sqlite(Path(url.removeprefix("sqlite:")), tables, SystemClock())
    else:
        database = await open_postgres(url, tables)
    means = Means(
        jobs=lambda: jobs,
        actions=Registry("action", Effect, Child, ExecAction),
        clock=SystemClock(),
        check=check,
        render=render,
    )
    book = RunBook(database, means)
    # As the daemon has it: programs live as long as the lease does.
    ttl_s, alone = life["ttl_s"], bool(database.opening)
    launcher = Launcher(
        Path(life["effects"]).with_name("programs.lock") if alone else None, ttl_s=None if alone else ttl_s
    )
    await launcher.open()
    services = Services()
    services.add(World, world)
    services.add(Launcher, launcher)
    services.add(Runs, book)  # type: ignore[type-abstract]
    worker = Worker(
        WorkerIdentity(
            worker_id=f"w{os.getpid()}", host="h", boot_id="b", pid=os.getpid(), labels={}, slots=8,
            ttl_s=ttl_s, version="1",
        ),
        Mortal(book, world),  # type: ignore[arg-type]
        database.listen,
        language=PlainLanguage(),
        services=services,
        clock=SystemClock(),
        options=WorkerOptions(
            poll_s=0.2,
            grace_s=life.get("grace_s", 5.0),
            alone=alone,
            renew=lambda left_s: None if alone else launcher.renew(boottime_s() + left_s - ttl_s),
        ),
    )  # fmt: skip
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _dump)
    working = asyncio.create_task(worker.run())
    watching = asyncio.create_task(_until_ended(book, life["start"]))
    await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
    worker.stop()
    watching.cancel()
    await asyncio.wait([working, watching])
    await launcher.close()
    await database.close()
    working.result()


async def _until_ended(book: RunBook, keys: Sequence[Sequence[str]]) -> None:
    """Start runs and return once all have ended. The database may be gone meanwhile."""
    runs = []
    for job, key in keys:
        runs.append(await _patiently(lambda job=job, key=key: book.start(StartRun(job=job, actor=ANN, key=key))))
    for started in runs:
        await _patiently(lambda run_id=started.run.run_id: book.wait(run_id))
    # Children that were cancelled with their parent clean up after its end.
    going = tuple(state for state in RunState if not state.ended)
    while (await book.find(RunFilter(states=going))).items:  # noqa: ASYNC110 - another process ends them
        await asyncio.sleep(0.02)


async def _patiently(call: Any) -> Any:
    while True:
        try:
            return await call()
        except DogwatchError:
            await asyncio.sleep(0.1)


def _dump() -> None:
    """Say what every task waits for: a test that fails asks for it."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=4, file=sys.stderr)
    sys.stderr.flush()


def _say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _fork(line: bytes) -> None:
    pid = os.fork()
    if pid:
        return _say(began=pid)
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # The parent's own pipes: a life must not keep them open.
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)
        asyncio.run(live(msgspec.json.decode(line)))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    wakeup, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    rest = b""
    _say(ready=True)
    while True:
        readable, _, _ = select.select([0, wakeup], [], [])
        if wakeup in readable:
            os.read(wakeup, 4096)
        if 0 in readable:
            data = os.read(0, 1 << 20)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _fork(line)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            _say(ended=pid, code=os.waitstatus_to_exitcode(status), at_s=boottime_s())


if __name__ == "__main__":
    main()
