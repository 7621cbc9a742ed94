"""Jobs and runs as one person may see and change them: see sight.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.identity import Identity
from dogwatch.access.permissions import Filter
from dogwatch.access.service import Access
from dogwatch.engine.port import Runs
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Chunk, Page, Run, RunFilter, Started, StartRun, StepRun
from dogwatch.errors import Conflict, NotAllowed, NotFound

# Pages that are looked through for one page of what is seen.
_LOOKED_THROUGH = 40
# What is refused whole is refused by the route.
_WHOLE = (
    *(("run", verb) for verb in ("read", "run", "change", "cancel", "approve")),
    *(("job", verb) for verb in ("read", "run")),
)


class SeenRuns:
    """See Runs. What is refused is recorded; the engine records what is done."""

    def __init__(self, inner: Runs, identity: Identity, access: Access) -> None:
        self._inner = inner
        self._identity = identity
        self._access = access
        self._sees: Filter = identity.rights.filter("run")
        self._jobs: Filter = identity.rights.filter("job")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def jobs(self) -> Sequence[JobSpec]:
        return [job for job in self._inner.jobs() if self._jobs(job.labels)]

    async def find(self, wanted: RunFilter) -> Page[Run]:
        """Look on until the page is full: the cursor stays the engine's own."""
        found: list[Run] = []
        cursor = wanted.cursor
        for _ in range(_LOOKED_THROUGH):
            left = wanted.limit - len(found)
            # How many there are would tell of those that are not seen.
            page = await self._inner.find(msgspec.structs.replace(wanted, cursor=cursor, limit=left, count=False))
            found += [run for run in page.items if self._sees(run.labels)]
            cursor = page.cursor
            if not cursor or len(found) >= wanted.limit:
                break
        return Page(items=found, cursor=cursor)

    async def show(self, run_id: str) -> Run:
        absent = NotFound(f"there is no run '{run_id}'")
        try:
            run = await self._inner.show(run_id)
        except (NotFound, Conflict):
            # Neither which runs there are nor that several begin so is theirs to know.
            raise absent from None
        if not self._sees(run.labels):
            raise absent
        return run

    async def steps(self, run_id: str) -> Sequence[StepRun]:
        return await self._inner.steps((await self.show(run_id)).run_id)

    async def output(
        self, run_id: str, *, step: str = "", after: int = 0, limit: int = 1000, search: str = ""
    ) -> Sequence[Chunk]:
        run = await self.show(run_id)
        return await self._inner.output(run.run_id, step=step, after=after, limit=limit, search=search)

    async def follow(self, run_id: str, *, step: str = "", after: int = 0) -> AsyncIterator[Chunk]:
        run = await self.show(run_id)
        async for chunk in self._inner.follow(run.run_id, step=step, after=after):
            yield chunk

    async def wait(self, run_id: str) -> Run:
        return await self._inner.wait((await self.show(run_id)).run_id)

    async def _allowed(self, run_id: str, verb: str) -> str:
        run = await self.show(run_id)
        if not self._identity.rights.filter("run", verb)(run.labels):
            subject = Subject(noun="run", name=run.run_id, labels=run.labels)
            await self._access.note_refusal(self._identity.actor, verb, subject, f"needs run:{verb}")
            raise NotAllowed("you may not do that to this run", hint=f"it needs the permission run:{verb}")
        return run.run_id

    async def start(self, request: StartRun) -> Started:
        job = next((one for one in self._inner.jobs() if one.name == request.job), None)
        if job is None or not self._jobs(job.labels):
            raise NotFound(f"no job is called '{request.job}'")
        if not self._identity.rights.filter("job", "run")(job.labels):
            subject = Subject(noun="job", name=job.name, labels=job.labels)
            await self._access.note_refusal(self._identity.actor, "run", subject, "needs job:run")
            raise NotAllowed(f"you may not run {job.name}", hint="it needs the permission job:run")
        return await self._inner.start(request)

    async def cancel(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        return await self._inner.cancel(await self._allowed(run_id, "cancel"), actor, reason=reason)

    async def pause(self, run_id: str, actor: Actor, *, reason: str = "") -> Run:
        return await self._inner.pause(await self._allowed(run_id, "change"), actor, reason=reason)

    async def resume(self, run_id: str, actor: Actor) -> Run:
        return await self._inner.resume(await self._allowed(run_id, "change"), actor)

    async def rerun(
        self, run_id: str, actor: Actor, *, failed_only: bool = False, key: str = "", again: str = ""
    ) -> Started:
        known = await self._allowed(run_id, "run")
        return await self._inner.rerun(known, actor, failed_only=failed_only, key=key, again=again)

    async def decide(self, run_id: str, step: str, actor: Actor, *, approve: bool, comment: str = "") -> Run:
        known = await self._allowed(run_id, "approve")
        return await self._inner.decide(known, step, actor, approve=approve, comment=comment)


def seen_plan(plan: Callable[[StartRun], Any], runs: SeenRuns) -> Callable[[StartRun], Any]:
    """Return the planner for the jobs that are seen."""

    def planned(request: StartRun) -> Any:
        if request.job not in {job.name for job in runs.jobs()}:
            raise NotFound(f"no job is called '{request.job}'")
        return plan(request)

    return planned


def sees_all_runs(identity: Identity) -> bool:
    """Return whether nothing of jobs and runs is out of this one's sight or reach."""
    return identity.rights.whole(_WHOLE)
