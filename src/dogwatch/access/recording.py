"""What is recorded beside the changes in the state database: refusals, changes elsewhere, reloads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import TypeVar

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.access.keeper import AuditKeeper
from dogwatch.config.status import ReloadRecord
from dogwatch.core.bucket import TokenBucket
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.metrics import Family
from dogwatch.errors import DogwatchError
from dogwatch.store.database import Database, Tx

log = logging.getLogger(__name__)
T = TypeVar("T")
# What was recorded as refused while one request is answered: the guard of the server records what nobody else has.
NOTED: ContextVar[list[str] | None] = ContextVar("refusals noted", default=None)


class Recorder:
    """keeper: signs what is recorded."""

    def __init__(self, database: Database, clock: Clock, keeper: AuditKeeper) -> None:
        self.database = database
        self.clock = clock
        self.keeper = keeper
        self._strangers = TokenBucket(rate_per_s=1.0, burst=60)
        self.unrecorded = 0
        self.refused = 0

    async def note_refusal(self, actor: Actor, verb: str, subject: Subject, reason: str) -> None:
        """Record that somebody was refused. Of strangers' tries one a second is kept in the long run, the others are
        counted: nobody may fill the trail from outside.
        """
        self.refused += 1
        noted = NOTED.get()
        if noted is not None:
            noted.append(verb)
        if actor.kind == "anonymous" and self._strangers.take(self.clock.monotonic_s()) > 0:
            self.unrecorded += 1
            return
        await self.database.write(lambda tx: record(tx, actor, verb, subject, outcome="refused", reason=reason))

    async def carry_out(
        self,
        actor: Actor,
        verb: str,
        subject: Subject,
        work: Callable[[], Awaitable[T]],
        *,
        failed: Callable[[T], str] = lambda _result: "",
    ) -> T:
        """Do something that is not in the state database, between two events: begun, and done or failed.

        Where the first cannot be written nothing is done. failed: why the result is a failure, or "".
        """
        await self.database.write(lambda tx: record(tx, actor, verb, subject, outcome="begun"))
        why, outcome = "cut off", "failed"
        try:
            result = await work()
            why = failed(result)
            outcome = "failed" if why else "done"
        except Exception as error:
            why = str(error) or type(error).__name__
            raise
        finally:
            note = self.database.write(lambda tx: record(tx, actor, verb, subject, outcome=outcome, reason=why))
            await asyncio.shield(asyncio.ensure_future(note))
        return result

    async def note_reloads(self, bus: Bus) -> None:
        """Record what changed the configuration though nobody asked over the API: its files, a signal."""
        with bus.subscribe("reload") as events:
            async for event in events:
                reload = event.data
                if not isinstance(reload, ReloadRecord) or reload.trigger not in ("file", "signal"):
                    continue
                if reload.outcome in ("applied", "failed"):
                    try:
                        await self.database.write(_reloaded(reload))
                    except DogwatchError as error:
                        log.error("a reload is not in the audit trail: %s", error)

    def metrics(self) -> Iterable[Family]:
        yield from self.keeper.metrics()
        for name, text, value in (
            ("dogwatch_access_refused_total", "Logins and changes that were refused.", self.refused),
            (
                "dogwatch_access_unrecorded_total",
                "Refused attempts of strangers that were counted, and not written to the audit trail.",
                self.unrecorded,
            ),
        ):
            yield Family(name, "counter", text, [(name, float(value))])


def _reloaded(reload: ReloadRecord) -> Callable[[Tx], int]:
    actor = Actor(kind="system", name=f"reload by {reload.trigger}")
    subject = Subject(noun="program", name="configuration")
    outcome = "done" if reload.outcome == "applied" else "failed"
    reason, after = "; ".join(reload.problems[:20]), {"changed": list(reload.changed)}
    return lambda tx: record(tx, actor, "reload", subject, outcome=outcome, reason=reason, after=after)
