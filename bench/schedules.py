"""Schedules: how late a fire's run is on disk, what 10,000 of them cost while nothing is due, and all due at once."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.port import Starter
from dogwatch.engine.schedules.scheduler import Scheduler
from dogwatch.engine.schedules.spec import ScheduleSpec
from dogwatch.engine.schedules.tables import schedule_tables
from dogwatch.engine.values import Run, RunState, Started, StartRun
from dogwatch.store.database import Tx
from dogwatch.store.state_sqlite import open_sqlite

NAME = "schedules"
MANY = 10_000


class _Starts:
    """Starts that write nothing of their own: what is measured is the scheduler's part."""

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self.count = 0

    def starter(self, request: StartRun) -> Starter:
        def start(tx: Tx) -> Started:
            self.count += 1
            self.late_s.append(tx.now_s - request.trigger.data["fire_s"])
            run = Run(
                run_id=request.key,
                job=request.job,
                state=RunState.QUEUED,
                actor=request.actor,
                trigger=request.trigger,
                created_s=tx.now_s,
            )
            return Started(run=run, created=True)

        return start


class _Written:
    def __init__(self, specs: list[ScheduleSpec]) -> None:
        self._specs = specs

    def get(self, _section: Any) -> Any:
        return self._specs


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def _load(scheduler: Scheduler, specs: list[ScheduleSpec]) -> None:
    scheduler.prepare(_Written(specs)).swap()  # type: ignore[arg-type]
    while not all(entry.record is not None for entry in scheduler.entries.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def _precision(folder: Path, seconds: float) -> dict[str, float]:
    database = await open_sqlite(folder / "precision.db", (schedule_tables(), access_tables()), SystemClock())
    starts = _Starts()
    scheduler = Scheduler(database, starts, clock=SystemClock())  # type: ignore[arg-type]
    await _load(scheduler, [ScheduleSpec(name=f"s{n}", job="j", cron="* * * * * *") for n in range(10)])
    await asyncio.sleep(seconds)
    await scheduler.stop()
    await database.close()
    late = sorted(starts.late_s)
    return {
        "fires": len(late),
        "late_p50_ms": 1000 * statistics.median(late),
        "late_p99_ms": 1000 * late[int(len(late) * 0.99)],
        "late_max_ms": 1000 * late[-1],
    }


async def _many(folder: Path, idle_s: float) -> dict[str, float]:
    database = await open_sqlite(folder / "many.db", (schedule_tables(), access_tables()), SystemClock())
    starts = _Starts()
    scheduler = Scheduler(database, starts, clock=SystemClock())  # type: ignore[arg-type]
    far = [ScheduleSpec(name=f"s{n:05}", job="j", cron="~ ~ ~ 1 *", time_zone="Europe/Berlin") for n in range(MANY)]
    gc.collect()
    before, begun_s = _resident(), time.perf_counter()
    await _load(scheduler, far)
    loaded_s = time.perf_counter() - begun_s
    gc.collect()
    kept = _resident() - before
    await asyncio.sleep(1)
    cpu_s = time.process_time()
    await asyncio.sleep(idle_s)
    idle = (time.process_time() - cpu_s) / idle_s
    # The same schedules, all due in two seconds.
    soon = time.gmtime(time.time() + 4)
    cron = f"{soon.tm_sec} {soon.tm_min} {soon.tm_hour} * * *"
    await _load(scheduler, [ScheduleSpec(name=f"s{n:05}", job="j", cron=cron) for n in range(MANY)])
    while starts.count < MANY:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    last_s = max(starts.late_s)
    await scheduler.stop()
    await database.close()
    return {
        "load_s": loaded_s,
        "memory_per_schedule_bytes": kept / MANY,
        "idle_core_share": idle,
        "all_due_at_once_s": last_s,
        "claims_per_s": MANY / last_s,
    }


def run(quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        precision = uvloop.run(_precision(Path(folder), 5 if quick else 20))
        many = uvloop.run(_many(Path(folder), 3 if quick else 15))
    targets = [
        _target("lateness of a second's fire, p99, ms", "<= 50", precision["late_p99_ms"], 50),
        _target("idle with 10,000 schedules, share of a core", "<= 0.01", many["idle_core_share"], 0.01),
        _target("memory per schedule, bytes", "<= 6000", many["memory_per_schedule_bytes"], 6000),
    ]
    return {"name": NAME, "rows": [{"what": "precision"} | precision, {"what": "10,000"} | many], "targets": targets}


def _target(what: str, text: str, measured: float, most: float) -> dict[str, object]:
    return {"what": what, "target": text, "measured": round(measured, 4), "met": measured <= most}


if __name__ == "__main__":
    print(json.dumps(run(quick=True), indent=2))
