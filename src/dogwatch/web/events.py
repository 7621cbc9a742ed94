"""Live events over HTTP (server-sent events): bounded, losses told, ended when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from litestar import Response

from dogwatch.access.identity import Identity
from dogwatch.core.bus import Subscription
from dogwatch.core.values import Event, Status, Transition
from dogwatch.errors import DogwatchError
from dogwatch.rules.incident import Note
from dogwatch.store.protocol import ResultRow
from dogwatch.web.context import WebContext
from dogwatch.web.encoding import encode_json
from dogwatch.web.guard import Application, Receive, Scope, Send
from dogwatch.web.permissions import AGAIN
from dogwatch.web.problems import WebRefusal

TOPICS = ("result", "transition", "sample", "reload", "finding", "target", "run", "incident")
HEARTBEAT_S = 10.0
# Events are sent together: a client is told at most this often, however many there are.
GATHER_S = 0.1
# Of a brief stream's events of one gathering, so many changes of status are told one by one; beyond it, their number.
TOLD_AT_ONCE = 20
MISSED_AT_MOST = 500
RETRY_MS = 2000


def shown(data: object) -> object:
    """Return an event's data as it goes out: rows by name, statuses as words."""
    if isinstance(data, ResultRow):
        return {
            "target": data.target,
            "time_s": data.time_s,
            "success": data.success,
            "status": Status(data.status).word,
            "duration_s": data.duration_s,
            "reason": data.reason,
        }
    if isinstance(data, Transition):
        return {
            "target": data.target,
            "time_s": data.time_s,
            "before": data.before.word,
            "after": data.after.word,
            "reason": data.reason,
        }
    if isinstance(data, Note):
        return {"number": data.number, "kind": data.kind}
    return data


def _name(data: object) -> str:
    """Return the target that an event is about, or ""."""
    return _of(data, "target") or _of(data, "name")


def _of(data: object, field: str) -> str:
    value = data.get(field) if isinstance(data, Mapping) else getattr(data, field, None)
    return str(value or "")


def encode(event: Event, number: int, *, brief: bool = False) -> bytes:
    """Return an event as it goes out. brief: of samples only the host and the time, not its hundreds of values."""
    data = event.data
    if brief and event.topic == "sample":
        data = {"host": _of(data, "host"), "time_s": event.time_s}
    # JSON holds no line feed, so that an event's data cannot begin a field of its own.
    content = encode_json(shown(data))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, event.topic.encode(), content)


class EventStream:
    """One client's stream; an ASGI application that ends when the client leaves or the server stops."""

    def __init__(
        self,
        ctx: WebContext,
        topics: frozenset[str],
        targets: frozenset[str],
        *,
        brief: bool = False,
        since_s: float | None = None,
    ) -> None:
        if ctx.streams.open >= ctx.streams.limit:
            raise WebRefusal(429, f"{ctx.streams.limit} streams are open", hint="raise server.streams, or poll")
        self._ctx = ctx
        self._topics = topics
        self._targets = targets
        self._brief = brief
        self._since_s = since_s
        self._sees = ctx.event_filter()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        streams = self._ctx.streams
        streams.open += 1
        self._ctx.meter.open += 1
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._write(send, b"retry: %d\n: hello\n\n" % RETRY_MS)
            with self._ctx.services.bus.subscribe(*self._topics, capacity=self._ctx.options.stream_buffer) as events:
                missed = b"".join(self._missed())
                if missed:
                    await self._write(send, missed)
                await first_of(
                    self._pump(events, send),
                    self._beat(send),
                    left(receive),
                    streams.closing.wait(),
                )
            last = b"event: bye\ndata: {}\n\n" if streams.closing.is_set() else b""
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            streams.open -= 1
            self._ctx.meter.open -= 1

    async def _write(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})

    def _missed(self) -> Iterator[bytes]:
        """Yield the newest result of each target since the page was drawn: nobody listened for it then."""
        if self._since_s is None or "result" not in self._topics:
            return
        left = MISSED_AT_MOST
        for view in self._ctx.targets_now():
            if view.last_time_s is None or view.last_time_s < self._since_s:
                continue
            if self._targets and view.name not in self._targets:
                continue
            left -= 1
            if left < 0:
                return
            data = {
                "target": view.name,
                "time_s": view.last_time_s,
                "success": view.last_success,
                "status": view.status,
                "duration_s": view.last_duration_s,
                "reason": view.last_reason,
            }
            yield encode(Event(topic="result", time_s=view.last_time_s, data=data), 0)

    async def _pump(self, events: Subscription, send: Send) -> None:
        told = 0
        number = 0
        async for first in events:
            await asyncio.sleep(GATHER_S)
            gathered = [first, *events.take()]
            if self._sees is not None:
                gathered = [event for event in gathered if self._sees(event)]
            out = []
            if events.dropped > told:
                self._ctx.meter.events_dropped += events.dropped - told
                told = events.dropped
                out.append(b'event: dropped\ndata: {"dropped":%d}\n\n' % told)
            if self._brief:
                gathered, crowd = _without_crowd(gathered)
                if crowd:
                    out.append(b'event: many\ndata: {"transitions":%d}\n\n' % crowd)
            for event in gathered:
                number += 1
                if not self._targets or event.topic not in ("result", "target") or _name(event.data) in self._targets:
                    out.append(encode(event, number, brief=self._brief))
            if out:
                self._ctx.meter.events += len(out)
                await self._write(send, b"".join(out))

    async def _beat(self, send: Send) -> None:
        while await beaten(self._ctx):
            body = b": beat\nevent: beat\ndata: %s\n\n" % msgspec.json.encode(
                {"time_s": self._ctx.services.clock.now_s()}
            )
            await self._write(send, body)


class EventStreamResponse(Response[None]):
    """Hands Litestar a stream that writes itself."""

    def __init__(self, stream: Application) -> None:
        super().__init__(None, media_type="text/event-stream")
        self._stream = stream

    def to_asgi_response(self, *_args: Any, **_kwargs: Any) -> Any:
        return self._stream


def _without_crowd(events: list[Event]) -> tuple[list[Event], int]:
    """Return the events without the transitions, and how many those were, where they are too many to tell each."""
    crowd = sum(event.topic == "transition" for event in events)
    if crowd <= TOLD_AT_ONCE:
        return events, 0
    return [event for event in events if event.topic != "transition"], crowd


async def beaten(ctx: WebContext) -> bool:
    """Wait for the next beat, and return whether the stream may go on."""
    await asyncio.sleep(HEARTBEAT_S)
    return await goes_on(ctx)


async def goes_on(ctx: WebContext) -> bool:
    """Return whether a stream may go on: whoever was logged out since, or may see something else now, asks anew."""
    scope: Any = ctx.asked.scope if ctx.asked is not None else {}
    again: Any = scope.get(AGAIN)
    # This machine's own tokens are for a few minutes, and for commands that may take longer. Who needed none, before
    # there were users, is asked.
    if again is None or (ctx.identity.how == "local" and b"authorization" in dict(scope["headers"])):
        return True
    try:
        now: Identity = await again()
    except DogwatchError:
        return True  # who that is cannot be told while the database is gone
    before = ctx.identity
    return (now.actor, now.how) == (before.actor, before.how) and now.rights.table() == before.rights.table()


async def left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def first_of(*coroutines: Any) -> None:
    """Run all until one ends, end the others, and wait until they are gone."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for one in ended:
        if isinstance(one, Exception):
            raise one
