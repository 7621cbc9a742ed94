"""The admin socket: questions about the running process, from this machine and this user only.

One JSON object a line in, one out: {"operation": …, "arguments": {…}} → {"result": …} or {"error": {…}}.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.errors import Conflict, DogwatchError

log = logging.getLogger(__name__)
Operation = Callable[..., Awaitable[object]]
# Is told who asks: the user id that the kernel vouches for.
PeerOperation = Callable[[int], Awaitable[object]]
_LINE_BYTES = 64 * 1024
_CLIENTS = 8
# A unix socket's path must fit sun_path.
_PATH_BYTES = 107


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks."""

    operation: str
    arguments: dict[str, Any] = {}


class AdminServer:
    """Answers operations on a unix socket that only its owner may open. by_peer: those that depend on who asks."""

    def __init__(
        self, path: Path, operations: Mapping[str, Operation], by_peer: Mapping[str, PeerOperation] | None = None
    ) -> None:
        self.path = path
        self._by_peer = by_peer or {}
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Bind the socket; one that nobody listens on any more is replaced.

        Raises: Conflict when another daemon listens there, DogwatchError when the path cannot be used.
        """
        if len(os.fsencode(self.path)) > _PATH_BYTES:
            raise DogwatchError(
                f"the admin socket's path is longer than {_PATH_BYTES} bytes: {self.path}",
                hint="choose a shorter data folder with --data",
            )
        self._clear_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(self.path))
        except OSError as error:
            listener.close()
            raise DogwatchError(
                f"cannot make the admin socket {self.path}: {(error.strerror or str(error)).lower()}"
            ) from None
        finally:
            os.umask(before)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_BYTES)

    def _clear_stale(self) -> None:
        try:
            is_socket = stat.S_ISSOCK(self.path.lstat().st_mode)
        except OSError:
            return
        if not is_socket:
            raise DogwatchError(f"{self.path} is in the way: it is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(1.0)
            try:
                knock.connect(str(self.path))
            except OSError:
                self.path.unlink(missing_ok=True)
                return
        raise Conflict(f"another daemon listens on {self.path}", hint="stop it first, or use another --data folder")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > _CLIENTS:
                return
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await self._answer(line, _peer(writer))) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            return  # the client went away, or sent a line without end
        except asyncio.CancelledError:
            return  # closing; asyncio's stream server would log the cancellation as an error
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, line: bytes, peer: int) -> dict[str, object]:
        try:
            question = msgspec.json.decode(line, type=Question)
            if question.operation in self._by_peer:
                return {"result": await self._by_peer[question.operation](peer)}
            operation = self._operations.get(question.operation)
            if operation is None:
                known = ", ".join(sorted(self._operations))
                return _error("usage", f"unknown operation '{question.operation}'", f"known: {known}")
            return {"result": await operation(**question.arguments)}
        except msgspec.DecodeError as error:
            return _error("usage", f"not a question: {error}", "")
        except DogwatchError as error:
            return _error(error.code, str(error), error.hint)
        except Exception as error:
            log.exception("admin operation failed")
            return _error("failed", f"internal error: {error!r}", "")

    async def close(self) -> None:
        """Stop answering; the path is removed only while it is still ours."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except OSError:
            log.debug("admin socket was gone already")


def _peer(writer: asyncio.StreamWriter) -> int:
    """Return the user id of the process at the other end."""
    end = writer.get_extra_info("socket")
    credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _error(code: str, message: str, hint: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "hint": hint}}
