"""The `docker` source: containers' output through the Engine API of Docker or podman."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import random
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from dogwatch.core.retry import backoff
from dogwatch.core.units import Seconds
from dogwatch.errors import TransientError, reason_of
from dogwatch.logs.block import Block, Position
from dogwatch.logs.gathering import WAIT_S
from dogwatch.logs.source import Intake, Source
from dogwatch.logs.tail.identity import Identity, Saved

if TYPE_CHECKING:
    import httpx

_HEAD = 8
# A time with nanoseconds, and room.
_STAMP_BYTES = 64
_NAMES = {1: "stdout", 2: "stderr"}
_ENCODER = msgspec.json.Encoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DockerSource(Source, frozen=True, kw_only=True):
    """Reads what containers write, through the Engine API: for engines whose log files cannot be read. Each line is a
    JSON line with message, timestamp, stream, container, container_id and image; `do: [json]` makes columns of them.
    The checkpoint holds the time of the last line of each container.

    What the engine's log driver does not keep cannot be read: `json-file`, `local` and `journald` do.

    socket: of the engine. only, exclude: names of containers, with * and ?. start_all: at the very first start, read
    what is there of running containers; default no. search: how often to look for new containers. max_line: longer
    lines are cut.
    """

    kind: ClassVar[str] = "docker"

    socket: str = "/var/run/docker.sock"
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    start_all: bool = False
    search: Seconds = 5.0
    max_line: Annotated[int, Meta(ge=256, le=64 * 1024 * 1024, extra={"unit": "size"})] = 256 * 1024

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.socket.startswith("/"):
            yield ("socket",), "is not an absolute path", "/var/run/docker.sock"

    async def run(self, intake: Intake) -> None:
        await _Engine(self, intake).run()


class _Listed(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry of /containers/json."""

    id: str
    names: list[str] | None = None
    image: str = ""
    state: str = ""
    created: int = 0


class _Engine:
    """Looks which containers there are; one task for each container and lane."""

    def __init__(self, options: DockerSource, intake: Intake) -> None:
        self._options = options
        self._intake = intake
        self._first = intake.horizon_s() is None
        self._horizon_s = intake.horizon_s()
        self._streams: dict[str, Saved] = {one.stream: one for one in intake.saved()}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # How far each lane has read of each container, whether or not it was accepted.
        self._reached: dict[str, Position] = {}
        # Of containers that had stopped when they were read to their end.
        self._ended: set[str] = set()

    async def run(self) -> None:
        import httpx

        self._intake.describe(lambda: list(self._streams.values()), lambda: self._horizon_s)
        for stream, saved in self._streams.items():
            for lane, position in saved.lanes.items():
                self._intake.begin(stream, lane, position)
        transport = httpx.AsyncHTTPTransport(uds=self._options.socket)
        timeout = httpx.Timeout(10.0, read=None)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=timeout) as client:
            attempt = 0
            try:
                while True:
                    try:
                        await self._look(client)
                        attempt = 0
                        self._intake.trouble("")
                        await asyncio.sleep(self._options.search)
                    except (httpx.HTTPError, OSError, TransientError) as error:
                        attempt += 1
                        self._intake.trouble(
                            f"the engine at {self._options.socket} does not answer: {reason_of(error)}"
                        )
                        await asyncio.sleep(backoff(attempt, base_s=1.0, cap_s=30.0, random=random.random))
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _look(self, client: httpx.AsyncClient) -> None:
        now_s = self._intake.clock.now_s()
        answer = await client.get("/containers/json", params={"all": "1"}, timeout=10.0)
        if answer.status_code != 200:
            raise TransientError(f"answered {answer.status_code}")
        found = msgspec.json.decode(answer.content, type=list[_Listed])
        for one in found:
            if self._wanted(one):
                self._take(client, one)
        there = {f"docker.{one.id}" for one in found}
        for stream in list(self._streams):
            running = any(name.startswith(stream) for name in self._tasks)
            if stream not in there and not running and self._intake.accepted(stream):
                # Removed with all that it wrote.
                del self._streams[stream]
                self._intake.forget(stream)
        self._first, self._horizon_s = False, now_s

    def _wanted(self, one: _Listed) -> bool:
        names = [name.lstrip("/") for name in one.names or ()] or [one.id[:12]]
        chosen = not self._options.only or any(fnmatch.fnmatch(n, p) for n in names for p in self._options.only)
        return chosen and not any(fnmatch.fnmatch(n, p) for n in names for p in self._options.exclude)

    def _take(self, client: httpx.AsyncClient, one: _Listed) -> None:
        stream = f"docker.{one.id}"
        if stream not in self._streams:
            if self._first and one.state != "running":
                return
            begin = (
                _since_now(self._intake.clock.now_s()) if self._first and not self._options.start_all else Position()
            )
            name = (one.names or [one.id[:12]])[0].lstrip("/")
            lanes = dict.fromkeys(self._intake.lanes, begin)
            self._streams[stream] = Saved(
                source=self._intake.source, stream=stream, identity=Identity(0, 0, 0, 0), path=name, lanes=lanes
            )
            for lane in self._intake.lanes:
                self._intake.begin(stream, lane, begin)
            self._intake.count("containers")
        saved = self._streams[stream]
        for lane in self._intake.lanes:
            key = f"{stream} {lane}"
            task = self._tasks.get(key)
            if one.state == "running":
                self._ended.discard(key)
            if (task is not None and not task.done()) or key in self._ended:
                continue
            self._reached.setdefault(key, saved.lanes.get(lane, Position()))
            self._tasks[key] = asyncio.create_task(self._follow(client, one, saved.path, key, lane), name=key)

    async def _follow(self, client: httpx.AsyncClient, one: _Listed, name: str, key: str, lane: str) -> None:
        import httpx

        follow = _Following(self._options, self._intake, one, name, lane, self._reached[key])
        with contextlib.suppress(httpx.HTTPError, OSError, TransientError):
            try:
                await follow.run(client)
                if one.state != "running":
                    self._ended.add(key)
            finally:
                self._reached[key] = follow.reached


class _Following:
    """One container for one lane. reached: what was handed on; its token: a time, how many lines have it."""

    def __init__(
        self, options: DockerSource, intake: Intake, one: _Listed, name: str, lane: str, reached: Position
    ) -> None:
        self._options = options
        self._intake = intake
        self._one = one
        self._name = name
        self._lane = lane
        self.reached = reached
        self._at_ns, self._same = _place(reached)
        # Lines of the last nanosecond come again; so many of them are known.
        self._skip_ns, self._skip = self._at_ns, self._same
        self._partial: dict[str, bytes] = {}
        self._lines: list[tuple[int, bytes]] = []

    async def run(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/containers/{self._one.id}/json", timeout=10.0)
        if answer.status_code != 200:
            raise TransientError(f"answered {answer.status_code}")
        tty = bool(msgspec.json.decode(answer.content)["Config"].get("Tty"))
        seconds, nanos = divmod(self._at_ns, 1_000_000_000)
        parameters = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1", "since": f"{seconds}.{nanos:09d}"}
        async with client.stream("GET", f"/containers/{self._one.id}/logs", params=parameters) as stream:
            if stream.status_code != 200:
                raise TransientError(f"answered {stream.status_code}")
            ended = asyncio.Event()
            flushing = asyncio.create_task(self._flush_until(ended))
            try:
                async for name, data in _frames(stream, tty=tty, most=self._options.max_line + _STAMP_BYTES):
                    self._add(name, data)
                    while self._lane not in self._intake.ready():
                        await self._intake.room()
            finally:
                # Not cancelled: what it is handing on must arrive whole.
                ended.set()
                await flushing

    async def _flush_until(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await ended.wait()
            await self._flush()

    def _add(self, name: str, data: bytes) -> None:
        stamp, _, text = data.partition(b" ")
        if name in self._partial:
            # The engine splits long lines; every part has a time of its own, the first one's counts.
            first, _, before = self._partial.pop(name).partition(b" ")
            stamp, text = first, before + text
        if not text.endswith(b"\n") and len(text) < self._options.max_line:
            self._partial[name] = stamp + b" " + text
            return
        at_ns = _nanoseconds(stamp.decode("ascii", "replace"))
        if at_ns < self._skip_ns:
            return
        if at_ns == self._skip_ns and self._skip > 0:
            self._skip -= 1
            return
        text = text.removesuffix(b"\n").removesuffix(b"\r")
        if len(text) > self._options.max_line:
            self._intake.count("cut_bytes", len(text) - self._options.max_line)
        record = {
            "message": text[: self._options.max_line].decode("utf-8", "replace"),
            "timestamp": stamp.decode("ascii", "replace"),
            "stream": name,
            "container": self._name,
            "container_id": self._one.id[:12],
            "image": self._one.image,
        }
        self._lines.append((at_ns, _ENCODER.encode(record)))

    async def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        starts = []
        for at_ns, _line in lines:
            self._same = self._same + 1 if at_ns == self._at_ns else 1
            self._at_ns = at_ns
            starts.append(at_ns + self._same - 1)
        self.reached = Position(self._at_ns, f"{self._at_ns}:{self._same}")
        block = Block(
            source=self._intake.source,
            stream=f"docker.{self._one.id}",
            path=self._name,
            begin=starts[0],
            end=starts[-1] + 1,
            data=b"".join(line + b"\n" for _at, line in lines),
            count=len(lines),
            starts=tuple(starts),
        )
        await self._intake.put(block, (self._lane,), self.reached)


async def _frames(stream: httpx.Response, *, tty: bool, most: int) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (name, line or part of one) of what the engine multiplexes; a terminal has one stream, as it is.

    most: so much of a terminal's line is kept while it has no end.
    """
    held = b""
    async for data in stream.aiter_raw():
        held += data
        while True:
            if tty:
                end = held.find(b"\n") + 1
                if not end:
                    held = held[:most]
                    break
                yield "stdout", held[:end]
            else:
                if len(held) < _HEAD:
                    break
                end = _HEAD + int.from_bytes(held[4:_HEAD], "big")
                if len(held) < end:
                    break
                yield _NAMES.get(held[0], "stdout"), held[_HEAD:end]
            held = held[end:]


def _nanoseconds(stamp: str) -> int:
    """Return an RFC 3339 time with up to nine digits in nanoseconds; 0 where it is none."""
    text, _, zone = stamp.removesuffix("Z").partition("+")
    whole, _, fraction = text.partition(".")
    try:
        at = datetime.fromisoformat(f"{whole}+{zone or '00:00'}")
    except ValueError:
        return 0
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)


def _place(position: Position) -> tuple[int, int]:
    at_ns, _, same = position.token.partition(":")
    return (int(at_ns), int(same)) if at_ns.isdigit() and same.isdigit() else (0, 0)


def _since_now(now_s: float) -> Position:
    at_ns = int(now_s * 1e9)
    return Position(at_ns, f"{at_ns}:0")
