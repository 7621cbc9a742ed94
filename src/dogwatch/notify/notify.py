"""The part that owns destinations, outbox and sender."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dogwatch.access import audit
from dogwatch.access.actor import Actor, Subject
from dogwatch.config.part import Configuration, Exchange, Prepared
from dogwatch.config.section import Section
from dogwatch.core.clock import Clock
from dogwatch.core.component import nearest
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import Family, series
from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.engine.launch.command import Command, ExitStatus, Output
from dogwatch.engine.read_check import actions_of
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Page
from dogwatch.errors import ConfigError, Conflict, NotFound, Problem, TransientError
from dogwatch.notify import outbox
from dogwatch.notify.action import NotifyAction
from dogwatch.notify.channels.answers import veiled
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Enqueued, Message, MessageState, OutboxRow, masked
from dogwatch.notify.section import NOTIFY
from dogwatch.notify.sender import Route, Sender
from dogwatch.notify.view import DestinationView, Preview
from dogwatch.store.database import Database, Tx
from dogwatch.words import Language

if TYPE_CHECKING:
    from dogwatch.engine.http_client import HttpClient
    from dogwatch.engine.launch.launcher import Launcher

log = logging.getLogger(__name__)

Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[Any]"]
HOUSEKEEPING_S = 60.0
# Messages to a destination that nobody configures any more wait so long for it to come back.
_ORPHANS_S = 86400.0
_MOST_AT_ONCE = 1000
# Programs of channels that run at the same time.
_PROGRAMS = 16


# Options of channels whose values are never shown.
_SECRETS = ("webhook", "routing_key", "topic", "token", "password", "key", "secret", "secrets", "urls", "url")
_EXAMPLE = Message(
    to=(),
    type="incident.opened",
    title="#42 opened: db-1 is down: timeout; explains 3 more",
    text="#42 opened: db-1 is down: timeout; explains 3 more\ntimeout\nsince 2026-01-05T03:10:00Z",
    severity="critical",
    data={"number": 42, "kind": "opened", "root": "db-1", "rule": "target-down", "state": "open", "explains": 3},
    labels={"team": "shop"},
)


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, tuple) else (value,)
    return [one for one in values if isinstance(one, str) and len(one) > 3]


class HandyTools:
    """Makes HTTP client and guard at the first use: most programs that load this never send."""

    def __init__(self) -> None:
        self._client: HttpClient | None = None
        self._launcher: Launcher | None = None
        self._opening = asyncio.Lock()

    async def request(self, request: HttpRequest) -> HttpResponse:
        if self._client is None:
            from dogwatch.engine.http_client import HttpClient

            self._client = HttpClient()
        return await self._client.request(request)

    async def run(self, command: Command, output: Output) -> ExitStatus:
        async with self._opening:
            if self._launcher is None:
                from dogwatch.engine.launch.launcher import Launcher

                launcher = Launcher(limit=_PROGRAMS)
                await launcher.open()
                self._launcher = launcher
        return await self._launcher.run(command, output)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._launcher is not None:
            await self._launcher.close()
            self._launcher = None


class Notify:
    """Implements config.part.Part and notify.view.Outbox.

    spawn: starts named tasks (a supervisor's `start`). sends: False in a program that only puts messages in; it takes
    any destination, since those who send know which there are. jobs: the section of jobs, so that a step that tells
    somebody who does not exist is a configuration error; None to do without.
    """

    name = "notify"

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        spawn: Spawn,
        sends: bool = True,
        jobs: Section[list[JobSpec]] | None = None,
    ) -> None:
        self._database, self._clock, self._spawn, self._sends, self._jobs = database, clock, spawn, sends, jobs
        self._ids = Ids("msg")
        self._tools = HandyTools()
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.sender = Sender(database, self._tools, owner=owner, clock=clock)
        self._tasks: list[asyncio.Task[Any]] = []
        # As of the last housekeeping: a scrape asks no database.
        self._counts: Mapping[tuple[str, str], int] = {}
        self._troubles: Mapping[str, outbox.Trouble] = {}

    # -- Part -----------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        destinations = configuration.get(NOTIFY)
        if self._jobs is not None:
            jobs: list[JobSpec] = configuration.get(self._jobs)
            problems = list(_job_problems(jobs, list(destinations)))
            if problems:
                raise ConfigError(problems)
        routes = {name: Route(name, spec) for name, spec in destinations.items()}
        return Exchange(partial(self.put_in_force, routes))

    def put_in_force(self, routes: Mapping[str, Route]) -> None:
        self.sender.use(routes)
        if self._sends and not self._tasks:
            self._tasks = [
                self._spawn("notify sender", self.sender.run()),
                self._spawn("notify housekeeping", self._keep_house()),
            ]

    async def stop(self) -> None:
        await cancel_and_wait(self._tasks)
        self._tasks = []
        await self._tools.close()

    # -- Outbox ---------------------------------------------------------------------------------------------------

    def enqueue(self, tx: Tx, message: Message) -> list[Enqueued]:
        return outbox.enqueue(tx, self._ids, message)

    async def send(self, message: Message) -> list[Enqueued]:
        for name in message.to if self._sends else ():
            self._known(name)
        return await self._database.write(lambda tx: self.enqueue(tx, message))

    async def destinations(self) -> Sequence[DestinationView]:
        counts, troubles = await self._database.read(lambda tx: (outbox.counts(tx), outbox.troubles(tx)))
        names = [*self.sender.routes, *sorted({name for name, _ in counts} - set(self.sender.routes))]
        found = []
        for name in names:
            route, trouble = self.sender.routes.get(name), troubles.get(name)
            found.append(
                DestinationView(
                    name=name,
                    kind=route.spec.channel.kind if route else "",
                    address=route.spec.channel.address() if route else "",
                    known=route is not None,
                    **{state.value: counts.get((name, state.value), 0) for state in MessageState},
                    trouble=trouble.reason if trouble else "",
                    trouble_since_s=trouble.since_s if trouble else None,
                    retry_s=trouble.retry_s if trouble else None,
                )
            )
        return found

    async def find(
        self, *, destination: str = "", state: str = "", limit: int = 50, cursor: str = "", count: bool = False
    ) -> Page[OutboxRow]:
        return await self._database.read(
            lambda tx: outbox.find(tx, destination=destination, state=state, limit=limit, cursor=cursor, count=count)
        )

    async def show(self, message_id: str) -> OutboxRow:
        return await self._database.read(lambda tx: outbox.show(tx, message_id))

    async def redeliver(self, message_id: str, actor: Actor) -> OutboxRow:
        def work(tx: Tx) -> OutboxRow:
            before = outbox.show(tx, message_id)
            if before.state not in (MessageState.DELIVERED, MessageState.DEAD):
                raise Conflict(f"message {before.message_id} is {before.state.value}; it will be sent by itself")
            row = outbox.redeliver(tx, before.message_id)
            subject = Subject(noun="message", name=row.message_id)
            told = {"destination": row.destination, "type": row.message.type}
            _ = audit.record(tx, actor, "redeliver", subject, before={"state": before.state.value}, after=told)
            return row

        return await self._database.write(work)

    async def redeliver_dead(self, destination: str, actor: Actor) -> int:
        def work(tx: Tx) -> int:
            rows = outbox.find(tx, destination=destination, state="dead", limit=_MOST_AT_ONCE).items
            for row in rows:
                _ = outbox.redeliver(tx, row.message_id)
            if rows:
                subject = Subject(noun="destination", name=destination)
                _ = audit.record(tx, actor, "redeliver", subject, after={"messages": len(rows)})
            return len(rows)

        total = 0
        while (count := await self._database.write(work)) > 0:
            total += count
            if count < _MOST_AT_ONCE:
                break
        return total

    async def test(self, destination: str, actor: Actor) -> Enqueued:
        self._known(destination)
        message = Message(
            to=(destination,),
            type="notify.test",
            title="Test from Dogwatch",
            text=f"Notifications to {destination} arrive. This test was asked for by {actor}.",
            data={"destination": destination},
        )

        def work(tx: Tx) -> Enqueued:
            _ = audit.record(tx, actor, "test", Subject(noun="destination", name=destination))
            return self.enqueue(tx, message)[0]

        return await self._database.write(work)

    def preview(self, destination: str, message: Message | None = None) -> Preview:
        self._known(destination)
        route, now_s = self.sender.routes[destination], self._clock.now_s()
        row = OutboxRow(
            message_id="msg_preview",
            destination=destination,
            message=message or _EXAMPLE,
            state=MessageState.QUEUED,
            attempts=1,
            created_s=now_s,
            since_s=now_s,
            due_s=now_s,
        )
        channel, parcel = route.spec.channel, route.parcel(row, now_s)
        hidden = [text for name in _SECRETS for text in _texts(getattr(channel, name, ""))]
        return Preview(
            destination=destination,
            kind=channel.kind,
            address=channel.address(),
            title=parcel.title,
            text=parcel.text,
            content=masked(channel.content(parcel), lambda text: veiled(text, hidden)),
        )

    def language_of(self, destination: str) -> Language:
        route = self.sender.routes.get(destination)
        return route.spec.language if route is not None else "en"

    def _known(self, name: str) -> None:
        if name not in self.sender.routes:
            hint = nearest(name, list(self.sender.routes)) if self.sender.routes else "the section 'notify' is empty"
            raise NotFound(f"no destination is called '{name}'", hint=hint)

    # -- housekeeping ---------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            try:
                await self.keep_house()
            except TransientError as error:
                log.warning("the outbox cannot be cleaned up: %s", error)
            await asyncio.sleep(HOUSEKEEPING_S)

    async def keep_house(self) -> None:
        """Bury what waited too long or is too much, and forget what ended long ago: each destination by itself."""
        counts = await self._database.read(outbox.counts)
        for name in sorted({name for name, _ in counts} | set(self.sender.routes)):
            clean_up = partial(_clean_up, name=name, route=self.sender.routes.get(name))
            while await self._database.write(clean_up):
                continue
        self._counts, self._troubles = await self._database.read(lambda tx: (outbox.counts(tx), outbox.troubles(tx)))

    def metrics(self) -> Iterable[Family]:
        yield Family(
            "dogwatch_notify_attempts_total",
            "counter",
            "Attempts to send a message, by how they ended.",
            [
                (
                    series("dogwatch_notify_attempts_total", {"destination": name, "outcome": outcome}),
                    float(count.value),
                )
                for (name, outcome), count in sorted(self.sender.counters.by.items())
            ],
        )
        yield Family(
            "dogwatch_notify_messages",
            "gauge",
            "Messages in the outbox by state, as of the last minute.",
            [
                (series("dogwatch_notify_messages", {"destination": name, "state": state}), float(count))
                for (name, state), count in sorted(self._counts.items())
            ],
        )
        yield Family(
            "dogwatch_notify_down",
            "gauge",
            "1 where a destination does not answer, as of the last minute.",
            [
                (series("dogwatch_notify_down", {"destination": name}), float(name in self._troubles))
                for name in self.sender.routes
            ],
        )
        yield Family(
            "dogwatch_notify_sending",
            "gauge",
            "Messages that this process is sending.",
            [("dogwatch_notify_sending", float(self.sender.running))],
        )


def _clean_up(tx: Tx, *, name: str, route: Route | None) -> int:
    """Return how many rows were removed; more may be left."""
    if route is None:
        reason = "no destination is called so any more"
        _ = outbox.bury(tx, name, older_than_s=_ORPHANS_S, most=_MOST_AT_ONCE, reason=reason)
        keep_s = keep_dead_s = 7 * _ORPHANS_S
    else:
        spec = route.spec
        _ = outbox.bury(tx, name, older_than_s=spec.retry.max_age, most=spec.queue, reason="waited too long")
        keep_s, keep_dead_s = spec.keep, spec.keep_dead
    return outbox.forget(tx, name, MessageState.DELIVERED, older_than_s=keep_s) + outbox.forget(
        tx, name, MessageState.DEAD, older_than_s=keep_dead_s
    )


def _job_problems(jobs: list[JobSpec], names: list[str]) -> Iterator[Problem]:
    """Find steps that tell somebody who does not exist; a name that is a template is known only when it runs."""
    for at, job in enumerate(jobs):
        for number, step in enumerate(job.steps):
            for below, action in actions_of(step):
                for index, name in enumerate(action.to if isinstance(action, NotifyAction) else ()):
                    if "{{" not in name and name not in names:
                        path = f"jobs[{at}].steps[{number}].{'.'.join(map(str, below))}.to[{index}]"
                        hint = nearest(name, names) if names else "the section 'notify' is empty"
                        yield Problem(f"no destination is called '{name}'", path=path, hint=hint)
