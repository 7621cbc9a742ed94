"""Runs as somebody with restricted rights sees them: what may not be seen does not appear."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.core.metrics import Family
from dogwatch.engine.port import Runs, Starter
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Chunk, Json, Page, Run, RunFilter, Started, StartRun, StepRun, Worker
from dogwatch.errors import NotFound

Sees = Callable[[Mapping[str, str]], bool]
# Pages of the list that are looked through for one page of what is seen.
_LOOKS = 20


class SeenRuns:
    """Implements Runs over all of them. jobs_seen, runs_seen: whether something with these labels may be seen."""

    def __init__(self, whole: Runs, jobs_seen: Sees, runs_seen: Sees) -> None:
        self._whole, self._jobs_seen, self._runs_seen = whole, jobs_seen, runs_seen

    def jobs(self) -> Sequence[JobSpec]:
        return [job for job in self._whole.jobs() if self._jobs_seen(job.labels)]

    async def start(self, request: StartRun) -> Started:
        return await self._whole.start(request)

    def starter(self, request: StartRun) -> Starter:
        return self._whole.starter(request)

    async def find(self, wanted: RunFilter) -> Page[Run]:
        """A page may hold fewer than were asked for, but is empty only at the end, or after many that are not seen."""
        found: list[Run] = []
        for _ in range(_LOOKS):
            left = wanted.limit - len(found)
            page = await self._whole.find(msgspec.structs.replace(wanted, limit=left))
            found += [run for run in page.items if self._runs_seen(run.labels)]
            wanted = msgspec.structs.replace(wanted, cursor=page.cursor, limit=wanted.limit)
            if not page.cursor or len(found) >= wanted.limit:
                break
        return Page(items=found, cursor=page.cursor)

    async def show(self, run_id: str) -> Run:
        run = await self._whole.show(run_id)
        if not self._runs_seen(run.labels):
            raise NotFound(f"no run is called '{run_id}'")
        return run

    async def steps(self, run_id: str) -> Sequence[StepRun]:
        return await self._whole.steps((await self.show(run_id)).run_id)

    async def cancel(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        return await self._whole.cancel((await self.show(run_id)).run_id, actor, reason=reason)

    async def pause(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        return await self._whole.pause((await self.show(run_id)).run_id, actor, reason=reason)

    async def resume(self, run_id: str, actor: Actor) -> Run:
        return await self._whole.resume((await self.show(run_id)).run_id, actor)

    async def rerun(self, run_id: str, actor: Actor, *, failed_only: bool = False, key: str = "") -> Started:
        whole = (await self.show(run_id)).run_id
        return await self._whole.rerun(whole, actor, failed_only=failed_only, key=key)

    async def decide(self, run_id: str, step: str, actor: Actor, *, approve: bool, comment: str = "") -> Run:
        whole = (await self.show(run_id)).run_id
        return await self._whole.decide(whole, step, actor, approve=approve, comment=comment)

    async def signal(self, run_id: str, step: str, payload: Json) -> None:
        await self._whole.signal((await self.show(run_id)).run_id, step, payload)

    async def output(
        self, run_id: str, *, step: str = "", after: int = 0, limit: int = 1000, search: str = ""
    ) -> Sequence[Chunk]:
        whole = (await self.show(run_id)).run_id
        return await self._whole.output(whole, step=step, after=after, limit=limit, search=search)

    async def follow(self, run_id: str, *, step: str = "", after: int = 0) -> AsyncIterator[Chunk]:
        whole = (await self.show(run_id)).run_id
        async for chunk in self._whole.follow(whole, step=step, after=after):
            yield chunk

    async def wait(self, run_id: str) -> Run:
        return await self._whole.wait((await self.show(run_id)).run_id)

    async def workers(self) -> Sequence[Worker]:
        return await self._whole.workers()

    async def drain(self, worker_id: str, actor: Actor) -> Worker:
        return await self._whole.drain(worker_id, actor)

    def metrics(self) -> Iterable[Family]:
        return self._whole.metrics()
