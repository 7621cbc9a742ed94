"""The least of HTTP that a container engine's unix socket needs: one GET, one answer, bounded."""

from __future__ import annotations

import asyncio

from dogwatch.errors import TransientError

_MAX_BODY_BYTES = 32 << 20
_MAX_HEAD_BYTES = 1 << 16


class EngineError(TransientError):
    """The engine answered with an error, or not as HTTP does. status: of the answer, 0 without one."""

    code = "engine"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


async def get(socket: str, path: str) -> bytes:
    """Return the body of `GET path` over a unix socket. The caller bounds it in time.

    HTTP/1.0 on purpose: the answer then ends with the connection and is never chunked.
    Raises: EngineError; OSError where there is no socket, or no permission.
    """
    reader, writer = await asyncio.open_unix_connection(socket, limit=_MAX_HEAD_BYTES)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode("ascii"))
        status = await _head(reader, path)
        body = await _body(reader, path)
    finally:
        # Not waited for: a cancelled caller must not wait for a peer that hangs.
        writer.transport.abort()
    if status != 200:
        raise EngineError(f"{path} answered {status}: {body[:200].decode('utf-8', 'replace').strip()}", status=status)
    return body


async def _head(reader: asyncio.StreamReader, path: str) -> int:
    """Return the status; raises EngineError where it is not HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        version, status = head.split(maxsplit=2)[:2]
        if version.startswith(b"HTTP/1."):
            return int(status)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise EngineError(f"{path} did not answer as HTTP does") from error
    raise EngineError(f"{path} did not answer as HTTP does")


async def _body(reader: asyncio.StreamReader, path: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY_BYTES:
            raise EngineError(f"{path} answered with more than {_MAX_BODY_BYTES >> 20} MiB")
    return b"".join(parts)
