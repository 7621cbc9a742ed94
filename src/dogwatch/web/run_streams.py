"""A run, live (server-sent events): its state, its steps, its output, until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from dogwatch.core.deadline import woken
from dogwatch.engine.values import Run
from dogwatch.errors import DogwatchError
from dogwatch.web import problems
from dogwatch.web.api import run_models as models
from dogwatch.web.context import WebContext
from dogwatch.web.encoding import encode_json
from dogwatch.web.events import RETRY_MS, beaten, first_of, left
from dogwatch.web.guard import Receive, Scope, Send
from dogwatch.web.problems import WebRefusal

# Looked at so often where no notice comes: another process works, or a notice was lost.
POLL_S = 1.0
# After a notice, so that a burst of changes is told as one.
GATHER_S = 0.05
_CHUNKS_TOGETHER = 100

Frames = Callable[[], AsyncIterator[bytes]]


def frame(event: str, data: object, number: int | None = None) -> bytes:
    """Return one event. number: where a client that comes back goes on."""
    # JSON holds no line feed, so that an event's data cannot begin a field of its own.
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: %s\ndata: %s\n\n" % (event.encode(), encode_json(data))


class RunStream:
    """One client's stream; an ASGI application that ends with its frames, with the client, or with the server."""

    def __init__(self, ctx: WebContext, frames: Frames) -> None:
        if ctx.streams.open >= ctx.streams.limit:
            raise WebRefusal(429, f"{ctx.streams.limit} streams are open", hint="raise server.streams, or poll")
        self._ctx = ctx
        self._frames = frames

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        streams = self._ctx.streams
        streams.open += 1
        self._ctx.meter.open += 1
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _write(send, b"retry: %d\n: hello\n\n" % RETRY_MS)
            await first_of(self._pump(send), self._beat(send), left(receive), streams.closing.wait())
            last = b"event: bye\ndata: {}\n\n" if streams.closing.is_set() else b""
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            streams.open -= 1
            self._ctx.meter.open -= 1

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._frames()) as frames:  # type: ignore[type-var]
            try:
                async for body in frames:
                    self._ctx.meter.events += 1
                    await _write(send, body)
            except DogwatchError as error:
                await _write(send, frame("problem", problems.from_error(error)))

    async def _beat(self, send: Send) -> None:
        while await beaten(self._ctx):
            await _write(send, frame("beat", {"time_s": self._ctx.services.clock.now_s()}))


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def output_frames(ctx: WebContext, run_id: str, *, step: str, after: int) -> AsyncIterator[bytes]:
    """Yield what was kept of the output, then what comes; `end` with the run as it ended."""
    runs = ctx.services.runs
    async with aclosing(runs.follow(run_id, step=step, after=after)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            yield frame("output", models.chunk_out(chunk), chunk.sequence)
    yield frame("end", models.run_out(await runs.show(run_id)))


async def state_frames(ctx: WebContext, run_id: str, look: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield the run and its steps, then each again when it changes; ends with the run. look: set when it may have."""
    told_run: Run | None = None
    told_steps: dict[str, models.StepOut] = {}
    runs = ctx.services.runs
    while True:
        look.clear()
        run = await runs.show(run_id)
        for step in map(models.step_out, await runs.steps(run_id)):
            if told_steps.get(step.name) != step:
                told_steps[step.name] = step
                yield frame("step", step)
        if run != told_run:
            told_run = run
            yield frame("run", models.run_out(run))
        if run.state.ended:
            return
        if await woken(look, POLL_S):
            await asyncio.sleep(GATHER_S)


async def _notices(ctx: WebContext, look: asyncio.Event) -> None:
    with ctx.services.bus.subscribe("run", capacity=1) as notices:
        async for _ in notices:
            look.set()


async def whole_frames(ctx: WebContext, run_id: str, *, step: str, after: int) -> AsyncIterator[bytes]:
    """Yield state, steps and output as they come, and at last `end`."""
    queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_CHUNKS_TOGETHER)
    look = asyncio.Event()

    async def feed(frames: AsyncIterator[bytes], *, moves: bool) -> None:
        try:
            async for one in frames:
                if moves:
                    look.set()  # what writes may have begun or ended a step; and the end of output is the run's
                if not one.startswith(b"event: end"):
                    await queue.put(one)
        except DogwatchError as error:
            await queue.put(error)
        else:
            await queue.put(None)

    output = output_frames(ctx, run_id, step=step, after=after)
    state = state_frames(ctx, run_id, look)
    works = (feed(state, moves=False), feed(output, moves=True), _notices(ctx, look))
    tasks = [asyncio.create_task(work) for work in works]
    try:
        open_ = 2
        while open_:
            one = await queue.get()
            if isinstance(one, BaseException):
                raise one
            if one is None:
                open_ -= 1
            else:
                yield one
        yield frame("end", models.run_out(await ctx.services.runs.show(run_id)))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for frames in (output, state):
            await frames.aclose()  # type: ignore[attr-defined]
