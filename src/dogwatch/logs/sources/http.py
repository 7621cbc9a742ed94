"""The `http` source: lines by POST, answered once they are safe."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import io
import itertools
import logging
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from dogwatch.core.units import Bytes, Seconds, Secret
from dogwatch.errors import TransientError, reason_of
from dogwatch.logs.block import Block
from dogwatch.logs.gathering import new_stream
from dogwatch.logs.multiline import INNER
from dogwatch.logs.source import Intake, Source
from dogwatch.logs.sources.syslog import address
from dogwatch.logs.tls import ServerTls

if TYPE_CHECKING:
    import h11

_log = logging.getLogger(__name__)
_AGAIN_S = 5.0
_HEAD_S = 30.0
_READ_BYTES = 256 * 1024


class HttpSource(Source, frozen=True, kw_only=True):
    """Takes lines by POST, in the body: JSON lines, a JSON array, or text. A 200 says that every sink has accepted
    them, or that they are in its disk buffer, and that the checkpoint is written. Without that, 503 with `Retry-After`.

    With an `Idempotency-Key` records have the same ids whenever the same body is sent again under it. Bodies may be
    gzip or zstd.

    listen: `address:port`. tls: certificate of the server. token: that `Authorization: Bearer` must bring; "" for none.
    max_body: of one request, unpacked. max_connections: more are refused. timeout: how long sinks may take.
    """

    kind: ClassVar[str] = "http"
    short: ClassVar[str] = "listen"

    listen: str
    tls: ServerTls | None = None
    token: Secret = ""
    max_body: Bytes = 16 * 1024 * 1024
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 200
    timeout: Seconds = 30.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        where = address(self.listen)
        if where is None:
            yield ("listen",), "is not address:port", "127.0.0.1:8088"
        elif not self.token and not where[0].startswith("127.") and where[0] != "::1":
            yield ("token",), "is needed where other machines can send", "token: ${file:/run/secrets/logs}"

    async def run(self, intake: Intake) -> None:
        while True:
            try:
                await _Server(self, intake).run()
            except (TransientError, OSError) as error:
                intake.trouble(f"cannot listen at {self.listen}: {reason_of(error)}")
                await asyncio.sleep(_AGAIN_S)


class Refused(Exception):
    """What a request is answered instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Server:
    def __init__(self, options: HttpSource, intake: Intake) -> None:
        self._options = options
        self._intake = intake
        self._connections: set[asyncio.Task[None]] = set()
        self._streams = itertools.count()
        self._own = new_stream("http")
        self._saving: asyncio.Task[bool] | None = None
        self._next: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        host, port = address(self._options.listen) or ("", 0)
        context = (
            self._options.tls.context(lambda _why: self._intake.count("refused"))
            if self._options.tls is not None
            else None
        )
        server = await asyncio.start_server(self._connected, host, port, ssl=context, limit=_READ_BYTES)
        self._intake.trouble("")
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            for saving in (self._saving, self._next):
                if saving is not None:
                    await asyncio.wait([saving])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._options.max_connections:
            self._intake.count("refused")
            writer.close()
            return
        self._connections.add(task)
        try:
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
            with contextlib.suppress(OSError, h11.ProtocolError, TimeoutError):
                while await self._request(connection, reader, writer):
                    connection.start_next_cycle()
        except asyncio.CancelledError:
            pass  # the source ends; asyncio would log it as an error
        finally:
            self._connections.discard(task)
            writer.close()

    async def _request(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; return whether another may follow."""
        import h11

        async with asyncio.timeout(_HEAD_S):
            request = await _event(connection, reader)
            if not isinstance(request, h11.Request):
                return False
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
            try:
                self._admit(request.method.decode(), headers)
                body = await self._body(connection, reader, writer, headers)
                lines = await self._intake.thread(lambda: _lines(body, headers, self._options.max_body))
            except Refused as refused:
                self._intake.count("refused")
                return await _answer(connection, writer, refused.status, str(refused))
        try:
            await self._take(lines, headers.get("idempotency-key", ""))
        except Refused as refused:
            return await _answer(connection, writer, refused.status, str(refused))
        count = lines.count(b"\n")
        return await _answer(connection, writer, 200, f'{{"accepted":{count}}}')

    def _admit(self, method: str, headers: dict[str, str]) -> None:
        if self._options.token:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._options.token.encode()):
                raise Refused(401, "the token is missing or wrong")
        if method not in {"POST", "PUT"}:
            raise Refused(405, "lines come by POST")

    async def _body(
        self,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        headers: dict[str, str],
    ) -> bytes:
        import h11

        size = headers.get("content-length", "")
        if size.isdigit() and int(size) > self._options.max_body:
            raise Refused(413, f"a body may have {self._options.max_body} bytes")
        if connection.they_are_waiting_for_100_continue:
            go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            writer.write(go_on or b"")
        parts: list[bytes] = []
        held = 0
        while True:
            event = await _event(connection, reader)
            if isinstance(event, h11.Data):
                held += len(event.data)
                if held > self._options.max_body:
                    raise Refused(413, f"a body may have {self._options.max_body} bytes")
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            else:
                raise ConnectionResetError("the body did not come whole")

    async def _take(self, lines: bytes, key: str) -> None:
        """Return once they are safe.

        Raises: Refused.
        """
        if not lines:
            return
        if self._intake.ready() != frozenset(self._intake.lanes):
            raise Refused(503, "there is no room")
        stream = f"{self._own}.{next(self._streams)}"
        if key:
            stream = "http." + hashlib.sha256(key.encode()).hexdigest()[:24]
        block = Block(
            source=self._intake.source,
            stream=stream,
            path="-",
            begin=0,
            end=len(lines),
            data=lines,
            count=lines.count(b"\n"),
        )
        try:
            async with asyncio.timeout(self._options.timeout):
                await self._intake.deliver(block)
                if not await self._saved():
                    raise Refused(503, "the checkpoint cannot be written")
        except TimeoutError:
            raise Refused(503, "the sinks take too long") from None

    async def _saved(self) -> bool:
        """Write the checkpoint: one that begins after now, for all that wait for it."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._save(self._saving))
        return await asyncio.shield(self._next)

    async def _save(self, before: asyncio.Task[bool] | None) -> bool:
        if before is not None:
            await asyncio.wait([before])
        self._saving, self._next = self._next, None
        return await self._intake.save()


async def _event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    import h11

    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(await reader.read(_READ_BYTES))


async def _answer(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, text: str) -> bool:
    import h11

    body = text.encode() if status == 200 else msgspec.json.encode({"error": text})
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if status == 503:
        headers.append(("Retry-After", "1"))
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    # What is left of a body that was refused is not read.
    over = connection.their_state is not h11.DONE
    if over:
        headers.append(("Connection", "close"))
    for event in (
        h11.Response(status_code=status, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    return not over and connection.our_state is h11.DONE


def _lines(body: bytes, headers: dict[str, str], most: int) -> bytes:
    """Return the body as lines.

    Raises: Refused.
    """
    body = _unpacked(body, headers.get("content-encoding", "").lower(), most)
    if headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        found = body.strip()
        if found.startswith(b"["):
            try:
                items = msgspec.json.decode(found, type=list[msgspec.Raw])
            except msgspec.MsgspecError as error:
                raise Refused(400, f"is no JSON: {error}") from None
            # In JSON a newline is only space between values.
            return b"".join(bytes(one).replace(b"\n", b" ") + b"\n" for one in items)
        try:
            return msgspec.json.format(found, indent=-1) + b"\n" if found else b""
        except msgspec.MsgspecError:
            pass  # JSON lines that are called JSON
    if body and not body.endswith(b"\n"):
        body += b"\n"
    return body.replace(INNER, b" ")


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    if encoding in {"", "identity"}:
        return body
    try:
        if encoding == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                found = file.read(most + 1)
        elif encoding == "zstd":
            found = _unpack_zstd(body, most + 1)
        else:
            raise Refused(415, "is neither gzip nor zstd")
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(400, f"cannot be unpacked: {error}") from None
    if len(found) > most:
        raise Refused(413, f"a body may have {most} bytes")
    return found


def _unpack_zstd(body: bytes, most: int) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read(most)
    except zstandard.ZstdError as error:
        raise Refused(400, f"cannot be unpacked: {error}") from None
