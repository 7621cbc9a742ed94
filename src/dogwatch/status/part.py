"""The part behind the status page: draws it up, keeps subscribers, and tells them."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.config.part import Configuration, Exchange, Prepared
from dogwatch.config.section import Section
from dogwatch.core.bucket import TokenBucket
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.errors import ConfigError, DogwatchError, NotFound, Problem, TransientError, UsageError
from dogwatch.notify.message import Message
from dogwatch.notify.section import Destination
from dogwatch.rules.part import Incidents
from dogwatch.rules.planned.part import MaintenancePart
from dogwatch.status import book
from dogwatch.status.book import Subscriber
from dogwatch.status.public import (
    Day,
    Known,
    PublicIncident,
    PublicPage,
    PublicWork,
    chosen,
    groups_of,
    key_of,
    public_incident,
    public_work,
    worst,
)
from dogwatch.status.section import STATUS_PAGE, StatusOptions
from dogwatch.store.database import Database, Tx
from dogwatch.store.protocol import Availability
from dogwatch.words import Language, Phrase, words

log = logging.getLogger(__name__)
Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[Any]"]
_DAY_S = 86_400.0
FRESH_S = 5.0
# Days that are over change only where somebody plans work in the past.
_DAYS_FRESH_S = 600.0
LOOK_S = 30.0
TURN_S = 2.0
_INCIDENTS_READ = 200
_WORK_AHEAD_S = 14 * _DAY_S
_TOLD_BACK_S = _DAY_S
_MAIL = re.compile(r"[^@\s<>,;:\"\\]{1,64}@[A-Za-z0-9.-]{1,250}\.[A-Za-z0-9-]{2,63}")


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What the part is given. targets: what is watched now. enqueue: puts a message in the outbox."""

    database: Database
    clock: Clock
    bus: Bus
    spawn: Spawn
    enqueue: Callable[[Tx, Message], object]
    targets: Callable[[], Sequence[Known]]
    incidents: Incidents
    maintenance: MaintenancePart
    destinations: Section[dict[str, Destination]]


class StatusPart:
    """Implements config.part.Part."""

    name = "status page"

    def __init__(self, around: Around) -> None:
        self._around = around
        self.options = StatusOptions()
        self._task: asyncio.Task[Any] | None = None
        self._kept: tuple[float, PublicPage] | None = None
        self._days: dict[tuple[float, str], tuple[float, Day]] = {}
        self._drawing = asyncio.Lock()
        # Subscriptions that are taken, whoever asks: each sends a message to somebody.
        self._asks = TokenBucket(rate_per_s=20 / 3600, burst=20)

    # -- Part -----------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        options = configuration.get(STATUS_PAGE)
        destinations = configuration.get(self._around.destinations)
        for kind in ("email", "webhook"):
            name = options.subscriptions.destination(kind)
            if name and (name not in destinations or destinations[name].channel.kind != kind):
                where = f"status_page.subscriptions.{kind}"
                raise ConfigError([Problem(message=f"notify has no {kind} destination '{name}'", path=where)])
        return Exchange(partial(self.put_in_force, options))

    def put_in_force(self, options: StatusOptions) -> None:
        self.options, self._kept = options, None
        self._days.clear()
        wanted = bool(options.groups and (options.subscriptions.email or options.subscriptions.webhook))
        if wanted and self._task is None:
            self._task = self._around.spawn("status page", self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])

    # -- The page -------------------------------------------------------------------------------------------------

    async def page(self) -> PublicPage:
        """Return the page, at most a few seconds old, however many ask. Raises: NotFound where there is none."""
        if not self.options.groups:
            raise NotFound("there is no status page here")
        now_s = self._around.clock.monotonic_s()
        if self._kept is None or now_s - self._kept[0] >= FRESH_S:
            async with self._drawing:
                if self._kept is None or now_s - self._kept[0] >= FRESH_S:
                    self._kept = (self._around.clock.monotonic_s(), await self._draw())
        return self._kept[1]

    async def _draw(self) -> PublicPage:
        around, options = self._around, self.options
        now_s = around.clock.now_s()
        targets = around.targets()
        names = chosen(options, targets)
        shown = {view.name: view.labels for view in targets if view.name in names}
        since_s = now_s - options.days * _DAY_S
        whole = await around.maintenance.availability(shown, since_s=since_s, until_s=now_s) if shown else ()
        days = await self._history(shown, now_s)
        groups = groups_of(options, targets, {one.target: one.ratio for one in whole}, days)
        incidents = await self.incidents(names, now_s - options.incidents)
        return PublicPage(
            title=options.title,
            text=options.text,
            status=worst(group.status for group in groups),
            groups=groups,
            open=[one for one in incidents if one.ended_s is None],
            past=[one for one in incidents if one.ended_s is not None],
            work=self.work(targets, names),
            time_s=now_s,
        )

    async def incidents(self, names: Mapping[str, str], since_s: float) -> list[PublicIncident]:
        """Return what was public since a time, the newest first."""
        part, found = self._around.incidents, []
        page = await part.find(limit=_INCIDENTS_READ)
        for incident in page.items:
            if incident.ended_s is not None and incident.ended_s < since_s:
                continue
            public = public_incident(incident, await part.timeline(incident.number), names)
            if public is not None:
                found.append(public)
        return found

    def work(self, targets: Sequence[Known], names: Mapping[str, str]) -> list[PublicWork]:
        until_s = self._around.clock.now_s() + _WORK_AHEAD_S
        found = [public_work(one, targets, names) for one in self._around.maintenance.windows()]
        shown = [one for one in found if one is not None and (one.begin_s or 0.0) <= until_s]
        return sorted(shown, key=lambda one: one.begin_s or 0.0)

    async def _history(self, shown: Mapping[str, Mapping[str, str]], now_s: float) -> dict[str, list[Day]]:
        """Return each target's days, the oldest first; the last is today so far."""
        today_s = now_s // _DAY_S * _DAY_S
        clock_s = self._around.clock.monotonic_s()
        found: dict[str, list[Day]] = {name: [] for name in shown}
        for back in range(self.options.days - 1, -1, -1):
            since_s = today_s - back * _DAY_S
            kept = [self._days.get((since_s, name)) for name in shown]
            fresh = all(one is not None and clock_s - one[0] < _DAYS_FRESH_S for one in kept) and back
            if not fresh and shown:
                rows = await self._around.maintenance.availability(
                    shown, since_s=since_s, until_s=min(now_s, since_s + _DAY_S)
                )
                self._days.update({(since_s, row.target): (clock_s, _day(row)) for row in rows})
            for name, days in found.items():
                entry = self._days.get((since_s, name))
                days.append(entry[1] if entry else Day(since_s=since_s, ratio=None, down_s=0.0))
        oldest_s = today_s - self.options.days * _DAY_S
        self._days = {key: value for key, value in self._days.items() if key[0] > oldest_s}
        return found

    # -- Subscribers ----------------------------------------------------------------------------------------------

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the ways in which one can be told."""
        return tuple(kind for kind in ("email", "webhook") if self.options.subscriptions.destination(kind))

    async def subscribe(self, kind: str, address: str, actor: Actor, language: Language = "en") -> None:
        """Send a link to whoever is to be told; nothing more is sent until it is followed.

        What is answered does not say whether the address is known.

        Raises: UsageError, NotFound, Conflict, TransientError.
        """
        destination = self.options.subscriptions.destination(kind)
        if not self.options.groups or not destination:
            raise NotFound("this status page takes no such subscriptions")
        address = checked(kind, address)
        if wait_s := self._asks.take(self._around.clock.monotonic_s()):
            raise TransientError("too many ask for subscriptions just now", retry_after_s=wait_s)
        wanted = Subscriber(
            subscriber_id=f"sub_{secrets.token_hex(6)}",
            kind=kind,
            address=address,
            token=secrets.token_urlsafe(24),
            made_s=0.0,
            language=language,
        )

        def work(tx: Tx) -> None:
            kept = book.subscribe(tx, wanted, actor, self.options.subscriptions.most)
            if kept is not None:
                self._around.enqueue(tx, self._asking(kept, destination))

        await self._around.database.write(work)

    async def confirm(self, token: str, actor: Actor) -> Subscriber:
        """Raises: NotFound."""
        return await self._around.database.write(lambda tx: book.confirm(tx, token, actor))

    async def unsubscribe(self, token: str, actor: Actor) -> None:
        """Raises: NotFound."""
        await self._around.database.write(lambda tx: book.unsubscribe(tx, token, actor))

    def _link(self, what: str, token: str) -> str:
        return f"{self.options.url.rstrip('/')}/status/{what}?token={token}"

    def _asking(self, one: Subscriber, destination: str) -> Message:
        spoken = words(one.language)
        text = (
            spoken.say("Somebody, we hope you, wants this address to be told about {0}.", self.options.title),
            spoken.say("To confirm it, open: {0}", self._link("confirm", one.token)),
            spoken.say("Whoever does nothing is told nothing."),
        )
        return Message(
            to=(destination,),
            recipients=(one.address,),
            type="status.confirm",
            title=spoken.say("{0}: confirm your subscription", self.options.title),
            text="\n".join(text),
            language=one.language,
            data={"confirm": self._link("confirm", one.token)},
            dedupe=f"status-confirm:{one.subscriber_id}",
        )

    # -- Telling --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        with self._around.bus.subscribe("incident", capacity=1000) as heard:
            waited_s = LOOK_S
            while True:
                if heard.take() or waited_s >= LOOK_S:
                    waited_s = 0.0
                    try:
                        await self.tell()
                    except DogwatchError as error:
                        log.warning("subscribers of the status page cannot be told: %s", error)
                await asyncio.sleep(TURN_S)
                waited_s += TURN_S

    async def tell(self) -> int:
        """Put in the outbox what subscribers were not told yet, and return how many messages that were.

        Each is known by what it says, so that looking twice, or after a crash, tells nobody twice.
        """
        options, around = self.options, self._around
        if not options.groups:
            return 0
        people = await around.database.read(book.confirmed)
        if not people:
            return 0
        now_s, targets = around.clock.now_s(), around.targets()
        names = chosen(options, targets)
        news = [
            *(one for incident in await self.incidents(names, now_s - _TOLD_BACK_S) for one in _news(incident)),
            *(_notice(work) for work in self.work(targets, names) if (work.begin_s or now_s) < now_s + _DAY_S),
        ]
        messages = [
            self._told(one, subject, key, text)
            for one in people
            for key, time_s, subject, text in news
            if one.confirmed_s is not None and time_s >= max(one.confirmed_s, now_s - _TOLD_BACK_S)
        ]
        if not messages:
            return 0

        def work(tx: Tx) -> int:
            made = 0
            for message in messages:
                rows: Any = around.enqueue(tx, message)
                made += sum(row.created for row in rows)
            return made

        return await around.database.write(work)

    def _told(self, one: Subscriber, subject: str, key: str, text: str) -> Message:
        link, spoken = self._link("unsubscribe", one.token), words(one.language)
        told = spoken.say(text.text, *text.values) if isinstance(text, Phrase) else text
        end = spoken.say("To hear no more: {0}", link)
        return Message(
            to=(self.options.subscriptions.destination(one.kind),),
            recipients=(one.address,),
            type="status.update",
            title=f"{self.options.title}: {spoken.said(subject)}",
            text=f"{told}\n{self.options.url.rstrip('/')}/status\n\n{end}",
            language=one.language,
            data={"unsubscribe": link},
            dedupe=f"status:{one.subscriber_id}:{key}",
        )


def _day(row: Availability) -> Day:
    return Day(since_s=row.since_s, ratio=row.ratio, down_s=row.down_s)


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _news(one: PublicIncident) -> list[tuple[str, float, str, str]]:
    """Return (key, time, subject, text) of what there is to tell about an incident."""
    what = ", ".join(one.affects)
    began = Phrase("{0}: trouble since {1}.", what, _clock(one.began_s))
    found: list[tuple[str, float, str, str]] = [(f"{one.key}:open", one.began_s, Phrase("{0}: trouble", what), began)]
    found += [
        (
            key_of(one.key, update.time_s, update.text),
            update.time_s,
            Phrase("{0}: update", what),
            update.text,
        )
        for update in reversed(one.updates)
    ]
    if one.ended_s is not None:
        text = Phrase("{0}: well again since {1}; it began {2}.", what, _clock(one.ended_s), _clock(one.began_s))
        found.append((f"{one.key}:end", one.ended_s, Phrase("{0}: well again", what), text))
    return found


def _notice(one: PublicWork) -> tuple[str, float, str, str]:
    what = ", ".join(one.affects)
    begins = _clock(one.begin_s) if one.begin_s is not None else ""
    ends = _clock(one.end_s) if one.end_s is not None else ""
    if begins and ends:
        text = Phrase("{0}: planned work from {1} until {2}. {3}", what, begins, ends, one.text)
    elif begins:
        text = Phrase("{0}: planned work from {1}. {2}", what, begins, one.text)
    elif ends:
        text = Phrase("{0}: planned work now, until {1}. {2}", what, ends, one.text)
    else:
        text = Phrase("{0}: planned work now. {1}", what, one.text)
    return f"{one.key}:work", 1e12, Phrase("{0}: planned work", what), text


def checked(kind: str, address: str) -> str:
    """Return an address as it is kept. Raises: UsageError."""
    address = address.strip()
    if len(address) > 320 or not address.isprintable():
        raise UsageError("the address is too long, or not of plain characters")
    if kind == "email" and _MAIL.fullmatch(address):
        return address.lower()
    if kind == "webhook":
        parts = urlsplit(address)
        if parts.scheme == "https" and parts.hostname and "@" not in parts.netloc:
            return address
        raise UsageError("a webhook's address begins with https://")
    raise UsageError("this is not a mail address")
