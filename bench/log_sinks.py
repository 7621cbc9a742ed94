"""What the agents of the benchmark of logs send to: it takes everything, forgets nothing, and counts lines later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import zlib

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
# What Elasticsearch says when all went well; agents look at no more of it then.
_SAID = b'{"took":1,"errors":false,"items":[]}'
_BULK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_SAID), _SAID)


class Counting:
    """An HTTP server (`port`) and a raw TCP server (`raw_port`) on loopback; `bytes` is what came so far."""

    def __init__(self) -> None:
        self.bytes = 0
        self.port = self.raw_port = 0
        self._parts: list[tuple[str, bytes]] = []
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()

    def _serve(self, ready: threading.Event) -> None:
        run = self._loop.run_until_complete
        self.port = _port(run(asyncio.start_server(self._http, "127.0.0.1", 0, limit=1 << 20)))
        self.raw_port = _port(run(asyncio.start_server(self._raw, "127.0.0.1", 0, limit=1 << 20)))
        ready.set()
        self._loop.run_forever()

    def reset(self) -> None:
        self.bytes, self._parts = 0, []

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                encoding = (
                    head.split(b"content-encoding:")[1].split(b"\r\n")[0] if b"content-encoding:" in head else b""
                )
                if b"expect: 100-continue" in head:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                sized = b"content-length:" in head
                body = await reader.readexactly(
                    int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if sized else 0
                )
                self.bytes += len(body)
                if body:
                    self._parts.append((encoding.strip().decode(), body))
                writer.write(_BULK if b"/_bulk" in head.split(b"\r\n")[0] else _OK)
        writer.close()

    async def _raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(1 << 20):
                self.bytes += len(part)
                parts.append(part)
        self._parts.append(("stream", b"".join(parts)))
        writer.close()

    def count(self, needle: bytes) -> int:
        """Return how often it came since the reset."""
        return sum(_plain(encoding, body).count(needle) for encoding, body in self._parts)


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def _plain(encoding: str, body: bytes) -> bytes:
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if encoding == "":
        return body
    # rsyslog's stream is zlib's; a header of either kind is recognised.
    return zlib.decompressobj(47).decompress(body)
