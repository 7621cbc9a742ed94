"""Sends what is in the outbox: claims, tries, writes how it ended. As many processes as like may do so."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait, woken
from dogwatch.core.metrics import Counter
from dogwatch.core.retry import backoff
from dogwatch.core.units import format_duration
from dogwatch.errors import DogwatchError, TransientError
from dogwatch.notify import outbox
from dogwatch.notify.channel import Held, Receipt, Tools
from dogwatch.notify.message import Message, MessageState, OutboxRow, Parcel
from dogwatch.notify.outbox import Ending, Pause, Want
from dogwatch.notify.section import Destination, Patience
from dogwatch.notify.templates import TemplateError, compile_template, cut, variables
from dogwatch.notify.window import Window
from dogwatch.store.database import Database
from dogwatch.words import SOURCE, words

log = logging.getLogger(__name__)

# A lease outlives the attempt by this: it is over well before somebody else may begin.
LEASE_MORE_S = 10.0
# A look without a notice, should one be lost.
POLL_S = 5.0
# A destination that is down is tried at least so often: it should not stay silent long after it is back.
PAUSE_CAP_S = 60.0
_WRITE_AGAIN_S = 0.5
_STOP_S = 5.0
# Types of messages that this program composes.
_OURS = ("incident.", "notify.")

Fill = Callable[[Mapping[str, Any]], str]


class Route:
    """A destination of the configuration in force, made ready."""

    def __init__(self, name: str, spec: Destination) -> None:
        self.name, self.spec = name, spec
        self._title = compile_template(spec.title) if spec.title is not None else None
        self._text = compile_template(spec.text) if spec.text is not None else None
        rate = spec.rate
        self.window = Window(rate.max, rate.per) if rate else None
        self.running = 0

    def want(self, now_s: float) -> tuple[Want | None, float | None]:
        """Return what to claim now, and how long until more may be."""
        slots = self.spec.concurrency - self.running
        wait_s = None
        if self.window is not None and slots > 0:
            slots = min(slots, self.window.available(now_s))
            wait_s = self.window.wait_s(now_s) if slots < 1 else None
        if slots <= 0:
            return None, wait_s
        return (
            Want(
                destination=self.name,
                slots=slots,
                concurrency=self.spec.concurrency,
                lease_s=self.spec.timeout + LEASE_MORE_S,
            ),
            wait_s,
        )

    def parcel(self, row: OutboxRow, now_s: float) -> Parcel:
        language = row.message.language or self.spec.language
        message = in_language(row.message, language)
        values = variables(row.message_id, message, row.created_s)
        return Parcel(
            message_id=row.message_id,
            destination=self.name,
            message=message,
            title=_filled(self._title, values, message.title, self.name),
            text=_filled(self._text, values, message.text, self.name),
            created_s=row.created_s,
            now_s=now_s,
            attempt=row.attempts,
            timeout_s=self.spec.timeout,
            language=language,
        )


def in_language(message: Message, language: str) -> Message:
    """Return a message with its sentences said in a language; what jobs and people wrote stays as they wrote it."""
    if message.language or language == SOURCE or not message.type.startswith(_OURS):
        return message
    spoken = words(language)
    return msgspec.structs.replace(message, title=str(spoken.tell(message.title)), text=spoken.tell_lines(message.text))


def _filled(fill: Fill | None, values: Mapping[str, Any], plain: str, name: str) -> str:
    """Return the filled template; where it fails the message's own text: it must be heard all the same."""
    if fill is None:
        return cut(plain)
    try:
        return fill(values)
    except TemplateError as error:
        log.warning("notify.%s: a template failed, the message's own text is sent: %s", name, error)
        return cut(plain)


def ending_of(error: DogwatchError | Receipt, row: OutboxRow, patience: Patience, age_s: float, share: float) -> Ending:
    """Decide what becomes of a message after an attempt. Pure. share: a random number in [0, 1)."""
    if isinstance(error, Receipt):
        return Ending(state=MessageState.DELIVERED, reason=error.detail)
    reason = str(error)
    least_s = (error.retry_after_s or 0.0) if isinstance(error, TransientError) else 0.0
    old = age_s >= patience.max_age
    if old and isinstance(error, TransientError):
        reason = f"given up after {format_duration(patience.max_age)}: {reason}"
    if isinstance(error, Held):
        cap_s = min(patience.cap, PAUSE_CAP_S)
        pause = Pause(reason=reason, share=share, base_s=patience.base, cap_s=cap_s, least_s=least_s)
        return Ending(state=MessageState.DEAD if old else MessageState.QUEUED, reason=reason, pause=pause)
    if not isinstance(error, TransientError):
        return Ending(state=MessageState.DEAD, reason=reason, failed=True)
    failures = row.failures + 1
    if old or failures >= patience.attempts:
        told = reason if old else f"given up after {failures} attempts: {reason}"
        return Ending(state=MessageState.DEAD, reason=told, failed=True)
    wait_s = least_s + backoff(failures, base_s=patience.base, cap_s=patience.cap, random=lambda: share)
    return Ending(state=MessageState.QUEUED, reason=reason, wait_s=wait_s, failed=True)


class Counters(msgspec.Struct, kw_only=True):
    """delivered, retried, dead: attempts that ended so, by destination. lost: messages taken over by another."""

    by: dict[tuple[str, str], Counter] = msgspec.field(default_factory=dict)

    def count(self, destination: str, outcome: str) -> None:
        self.by.setdefault((destination, outcome), Counter()).inc()


class Sender:
    """Runs until cancelled. owner: unique for each start of a process."""

    def __init__(
        self,
        database: Database,
        tools: Tools,
        *,
        owner: str,
        clock: Clock,
        random: Callable[[], float] = random_module.random,
        poll_s: float = POLL_S,
    ) -> None:
        self._database, self._tools, self._owner = database, tools, owner
        self._clock, self._random, self._poll_s = clock, random, poll_s
        self.routes: Mapping[str, Route] = {}
        self.counters = Counters()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        return len(self._tasks)

    def use(self, routes: Mapping[str, Route]) -> None:
        """Send by these from now on. A route that did not change keeps its rate."""
        for name, route in routes.items():
            before = self.routes.get(name)
            if before is not None and before.spec.rate == route.spec.rate:
                route.window = before.window
        self.routes = routes
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Send for ever. Cancelled: what is on its way gets a moment, then is given back."""
        forget = self._database.listen(outbox.TOPIC, self.wake)
        failures = 0
        try:
            while True:
                self._wake.clear()
                try:
                    wait_s = await self._round()
                    failures = 0
                except TransientError as error:
                    failures += 1
                    wait_s = backoff(failures, base_s=1.0, cap_s=30.0, random=self._random)
                    log.warning("the outbox cannot be read: %s", error)
                await woken(self._wake, wait_s)
        finally:
            forget()
            await self._stop()

    async def _round(self) -> float:
        """Claim what there is room for; return how long until there may be more, unless something wakes us."""
        wants, waits = [], [self._poll_s]
        now_s = self._clock.monotonic_s()
        for route in self.routes.values():
            want, wait_s = route.want(now_s)
            if want is not None:
                wants.append(want)
            if wait_s is not None:
                waits.append(wait_s)
        if not wants:
            return min(waits)
        owner = self._owner
        claims = await self._database.write(lambda tx: outbox.claim(tx, owner, wants))
        for row in claims.rows:
            self._begin(row)
        if claims.next_s is not None:
            waits.append(max(0.0, claims.next_s))
        return min(waits)

    def _begin(self, row: OutboxRow) -> None:
        route = self.routes.get(row.destination)
        if route is None:
            return  # removed by a reload meanwhile: the lease ends, and housekeeping sees to it
        route.running += 1
        if route.window is not None:
            _ = route.window.take(self._clock.monotonic_s())
        task = asyncio.get_running_loop().create_task(self._deliver(route, row), name=f"notify {row.destination}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sending failed: %s", error, exc_info=error)
        self.wake()

    async def _deliver(self, route: Route, row: OutboxRow) -> None:
        try:
            result = await self._attempt(route, row)
            age_s = self._clock.now_s() - row.since_s
            ending = ending_of(result, row, route.spec.retry, age_s, self._random())
            mine = await self._write(row, ending, route.spec.timeout + LEASE_MORE_S)
        finally:
            route.running -= 1
        outcome = ending.state.value if mine else "lost"
        self.counters.count(route.name, "retried" if outcome == "queued" else outcome)
        if ending.state is MessageState.DEAD:
            log.error("notify.%s: message %s is a dead letter: %s", route.name, row.message_id, ending.reason)

    async def _attempt(self, route: Route, row: OutboxRow) -> DogwatchError | Receipt:
        timeout_s = route.spec.timeout
        try:
            parcel = route.parcel(row, self._clock.now_s())
            async with asyncio.timeout(timeout_s):
                return await route.spec.channel.send(parcel, self._tools)
        except TimeoutError:
            return Held(f"no answer within {format_duration(timeout_s)}")
        except DogwatchError as error:
            return error
        except Exception as error:
            # A channel's own mistake: it costs this message an attempt, and the others go on.
            log.exception("notify.%s: the channel failed", route.name)
            return TransientError(f"{type(error).__name__} in the channel; the log says more")

    async def _write(self, row: OutboxRow, ending: Ending, lease_s: float) -> bool:
        """Write until it is written or the lease is over: else what was delivered would be sent again."""
        owner = self._owner
        until_s = self._clock.monotonic_s() + lease_s
        while True:
            try:
                return await self._database.write(lambda tx: outbox.finish(tx, owner, row, ending))
            except TransientError as error:
                if self._clock.monotonic_s() >= until_s:
                    log.warning("message %s: how it ended cannot be written: %s", row.message_id, error)
                    return False
            await asyncio.sleep(_WRITE_AGAIN_S)

    async def _stop(self) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_STOP_S)
        await cancel_and_wait(list(self._tasks))
        owner = self._owner
        try:
            await self._database.write(lambda tx: outbox.release(tx, owner))
        except DogwatchError as error:
            log.warning("messages on their way were not given back, and wait for their lease to end: %s", error)
