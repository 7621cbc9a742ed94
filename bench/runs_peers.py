"""One system that carries out runs, measured in a process of its own: `python -m bench.runs_peers '{"system": …}'`.

Prints JSON: starts_s: runs a second, from the first start to the last end, 50 at the same time. queue_p50_ms: from the
call that starts a run on an idle system to its first instruction.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

SLOTS = 50
SINGLE = 25


class Counter:
    """Counts what ran, and when the newest did."""

    def __init__(self) -> None:
        self.done = 0
        self.at_s = 0.0

    def ran(self) -> None:
        self.done += 1
        self.at_s = time.perf_counter()

    async def reach(self, number: int, limit_s: float = 120.0) -> None:
        end = time.perf_counter() + limit_s
        while self.done < number:
            if time.perf_counter() > end:
                raise TimeoutError(f"{self.done} of {number} ran")
            await asyncio.sleep(0.005)


async def measured(start: Callable[[], Awaitable[object]], counter: Counter, runs: int, settled: Any) -> dict[str, Any]:
    """start: starts one run. settled: awaits that all that was started is written as ended."""
    room = asyncio.Semaphore(SLOTS)

    async def bounded() -> None:
        async with room:
            await start()

    await asyncio.gather(*(bounded() for _ in range(SLOTS)))
    await counter.reach(SLOTS)
    await settled()
    begin, before = time.perf_counter(), counter.done
    await asyncio.gather(*(bounded() for _ in range(runs)))
    await counter.reach(before + runs)
    await settled()
    starts_s = runs / (time.perf_counter() - begin)
    waits = []
    for _ in range(SINGLE):
        await asyncio.sleep(0.07)
        before, begin = counter.done, time.perf_counter()
        await start()
        await counter.reach(before + 1)
        waits.append((counter.at_s - begin) * 1000)
    return {"starts_s": starts_s, "queue_p50_ms": statistics.median(waits)}


# -- Dogwatch --------------------------------------------------------------------------------------------------------


async def ours(options: dict[str, Any]) -> dict[str, Any]:
    from dogwatch.access.actor import Actor
    from dogwatch.access.tables import access_tables
    from dogwatch.core.clock import SystemClock
    from dogwatch.core.component import Registry
    from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
    from dogwatch.engine.language import CelLanguage
    from dogwatch.engine.runs import Means, RunBook
    from dogwatch.engine.scene import Services
    from dogwatch.engine.spec import JobSpec, StepSpec
    from dogwatch.engine.tables import engine_tables
    from dogwatch.engine.values import RunFilter, RunState, StartRun
    from dogwatch.engine.worker import Worker, WorkerOptions, identity

    counter = Counter()

    class Nothing(Action, frozen=True, kw_only=True):
        kind: ClassVar[str] = "nothing"

        def plan(self) -> Change:
            return Change(summary="nothing")

        async def apply(self, scene: Scene) -> Outcome | Wait:
            counter.ran()
            return Wait(note="approval by ops") if options.get("ask") else Outcome(outputs={"at_s": scene.now_s})

    database = await _database(options["url"], (access_tables(), engine_tables()))
    count = options["steps"]
    job = JobSpec(name="bench", steps=[StepSpec(name=f"s{number}", action=Nothing()) for number in range(count)])
    means = Means(
        jobs=lambda: {"bench": job},
        actions=Registry("action", Nothing),
        clock=SystemClock(),
        check=lambda _spec, given: given,
        render=lambda text, _variables: text,
    )
    book = RunBook(database, means)
    worker = Worker(
        identity(slots=SLOTS, ttl_s=6.0, labels={}, version="bench"),
        book if count else Told(book, counter),
        database.listen,
        language=CelLanguage(),
        services=Services(),
        clock=SystemClock(),
        options=WorkerOptions(alone=bool(database.opening)),
    )
    working = asyncio.create_task(worker.run())
    actor = Actor(kind="user", name="bench")
    going = tuple(state for state in RunState if not state.ended)

    async def settled() -> None:
        while (await book.find(RunFilter(states=going, limit=1))).items:  # noqa: ASYNC110 - others end them
            await asyncio.sleep(0.005)

    try:
        if options.get("idle_s"):
            return await _idle(options["idle_s"])
        if options.get("ask"):
            return await _approvals(lambda: book.start(StartRun(job="bench", actor=actor)), worker, options["runs"])
        return await measured(lambda: book.start(StartRun(job="bench", actor=actor)), counter, options["runs"], settled)
    finally:
        worker.stop()
        await working
        await database.close()


async def _idle(seconds: float) -> dict[str, Any]:
    """Return the share of a core that a worker with nothing to do takes."""
    await asyncio.sleep(1.0)
    before, begin = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    return {"idle_core_ratio": (time.process_time() - before) / (time.perf_counter() - begin)}


async def _approvals(start: Callable[[], Awaitable[object]], worker: Any, runs: int) -> dict[str, Any]:
    """Return by how much the process grows with runs that wait for approval."""
    import gc

    async def wait_for(count: int) -> None:
        await asyncio.gather(*(start() for _ in range(count)))
        await asyncio.sleep(0.5)
        while worker.busy:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
        gc.collect()

    await wait_for(SLOTS)
    before = _rss_mib()
    await wait_for(runs)
    return {"approvals_mib": _rss_mib() - before, "process_mib": _rss_mib(), "held": worker.busy}


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Told:
    """A ledger that counts runs without steps as they are claimed: that is when they begin."""

    def __init__(self, book: Any, counter: Counter) -> None:
        self._book, self._counter = book, counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._book, name)

    async def claim(self, worker_id: str, slots: int) -> Any:
        claimed = await self._book.claim(worker_id, slots)
        for _ in claimed:
            self._counter.ran()
        return claimed


async def _database(url: str, tables: Any) -> Any:
    from dogwatch.core.clock import SystemClock
    from dogwatch.store.state_postgres import open_postgres
    from dogwatch.store.state_sqlite import open_sqlite

    if url.startswith("sqlite:"):
        return await open_sqlite(Path(url.removeprefix("sqlite:")), tables, SystemClock())
    return await open_postgres(url, tables)


# -- DBOS ------------------------------------------------------------------------------------------------------------


async def dbos(options: dict[str, Any]) -> dict[str, Any]:
    from dbos import DBOS

    counter = Counter()
    config: dict[str, Any] = {"name": "bench", "application_version": "1", "log_level": "ERROR", "enable_otlp": False}
    url = options["url"]
    if url.startswith("sqlite:"):
        import sqlalchemy

        config["system_database_url"] = f"sqlite:///{url.removeprefix('sqlite:')}"
        if options.get("wal"):

            @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "connect")
            def fast(connection: Any, _record: Any) -> None:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")

    else:
        config["system_database_url"] = url
    DBOS(config=config)  # type: ignore[arg-type]

    @DBOS.step()
    async def one() -> int:
        return 1

    @DBOS.workflow()
    async def work() -> None:
        for _ in range(options["steps"]):
            await one()
        counter.ran()

    await asyncio.to_thread(DBOS.launch)
    await DBOS.register_queue_async("bench", worker_concurrency=SLOTS, polling_interval_sec=0.05)

    async def settled() -> None:
        return None

    try:
        if options.get("direct"):
            return await measured(lambda: DBOS.start_workflow_async(work), counter, options["runs"], settled)
        return await measured(lambda: DBOS.enqueue_workflow_async("bench", work), counter, options["runs"], settled)
    finally:
        await asyncio.to_thread(DBOS.destroy)


# -- procrastinate ---------------------------------------------------------------------------------------------------


async def procrastinate(options: dict[str, Any]) -> dict[str, Any]:
    from procrastinate import App, PsycopgConnector

    counter = Counter()
    app = App(connector=PsycopgConnector(conninfo=options["url"]))

    @app.task(name="work")
    async def work() -> None:
        counter.ran()

    async def settled() -> None:
        return None

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        working = asyncio.create_task(app.run_worker_async(concurrency=SLOTS, install_signal_handlers=False))
        try:
            return await measured(work.defer_async, counter, options["runs"], settled)
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


# -- Celery ----------------------------------------------------------------------------------------------------------


async def celery(options: dict[str, Any]) -> dict[str, Any]:
    """The worker is a process of its own, as Celery wants it; its task says through Redis that it ran, and when."""
    with _redis(Path(options["folder"])) as url:
        os.environ["BENCH_REDIS"] = url
        worker = _celery_worker()
        over = threading.Event()
        counter = Counter()
        try:
            from bench.runs_celery import connection, work

            redis = connection()

            def look() -> None:
                while not over.wait(0.002):
                    seen = int(redis.get("done") or 0)
                    if seen != counter.done:
                        counter.done, counter.at_s = seen, float(redis.get("at") or 0.0)

            looking = threading.Thread(target=look)
            looking.start()

            async def settled() -> None:
                return None

            return await measured(lambda: asyncio.to_thread(work.delay), counter, options["runs"], settled)
        finally:
            over.set()
            looking.join()
            worker.terminate()
            worker.wait(20)


def _celery_worker() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "bench.runs_celery", "worker", "-P", "threads", "-c", str(SLOTS)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    port = 20_000 + os.getpid() % 20_000
    # As Debian's packages have it: what was acknowledged survives a crash but for a second.
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(20)


SYSTEMS = {"ours": ours, "dbos": dbos, "procrastinate": procrastinate, "celery": celery}


def main() -> None:
    options = json.loads(sys.argv[1])
    if options["system"] in ("ours", "procrastinate"):
        import uvloop

        result = uvloop.run(SYSTEMS[options["system"]](options))
    else:
        result = asyncio.run(SYSTEMS[options["system"]](options))
    print(json.dumps(result), flush=True)
    # Peers leave threads behind that keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
