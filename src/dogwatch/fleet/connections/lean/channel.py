"""A session on a connection: one command with its streams (RFC 4254)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from dogwatch.fleet.connections.commands import Process
from dogwatch.fleet.connections.lean import wire
from dogwatch.fleet.connections.lean.wire import Broken, Reader, boolean, string, uint32

_WINDOW_BYTES = 2 * 1024 * 1024
_PACKET_BYTES = 32768
_STDERR = 1


class ChannelRefused(Exception):
    """The server opens no session, or starts nothing in it."""


class Carrier(Protocol):
    """What a channel asks of its connection."""

    lost: bool
    writable: asyncio.Event

    def send(self, message: bytes) -> None: ...

    def forget(self, number: int) -> None: ...


class _Stream:
    """What came and was not read yet."""

    __slots__ = ("arrived", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.arrived = asyncio.Event()


class LeanChannel(Process):
    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier = carrier
        self._number = number
        self._there = b""  # the other side's number of it
        # Done when the session is open, and again when the command was started.
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._streams = {"stdout": _Stream(), "stderr": _Stream()}
        self._left, self._used = _WINDOW_BYTES, 0
        self._room, self._most = 0, _PACKET_BYTES
        self._more_room = asyncio.Event()
        self._code: int | None = None
        self._signal = ""
        self._said_end = self._said_close = False

    # -- for the connection -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._carrier.send(
            bytes((wire.CHANNEL_OPEN,))
            + string(b"session")
            + uint32(self._number)
            + uint32(_WINDOW_BYTES)
            + uint32(_PACKET_BYTES)
        )

    def take(self, kind: int, read: Reader) -> None:
        """Take a message. Raises: Broken."""
        if kind == wire.CHANNEL_DATA:
            self._took("stdout", read.string())
        elif kind == wire.CHANNEL_EXTENDED_DATA:
            which = read.uint32()
            self._took("stderr" if which == _STDERR else "", read.string())
        elif kind == wire.CHANNEL_WINDOW_ADJUST:
            self._room += read.uint32()
            self._more_room.set()
        elif kind == wire.CHANNEL_REQUEST:
            self._asked(read)
        elif kind == wire.CHANNEL_OPEN_CONFIRMATION:
            self._there = uint32(read.uint32())
            self._room, self._most = read.uint32(), min(max(read.uint32(), 1), _PACKET_BYTES)
            self._answered(None)
        elif kind == wire.CHANNEL_OPEN_FAILURE:
            read.uint32()
            self._carrier.forget(self._number)
            self._answered(ChannelRefused(read.text()[:300]))
        elif kind == wire.CHANNEL_SUCCESS:
            self._answered(None)
        elif kind == wire.CHANNEL_FAILURE:
            self._answered(ChannelRefused("Session request failed"))
        elif kind == wire.CHANNEL_CLOSE:
            self._close()
            self._carrier.forget(self._number)
            self.end()

    def end(self) -> None:
        """Nothing more comes: it was closed, or the connection is gone."""
        self._over.set()
        self._more_room.set()
        for stream in self._streams.values():
            stream.arrived.set()
        self._answered(ChannelRefused("it was closed"))

    def _took(self, name: str, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise Broken("it sends more than it may")
        stream = self._streams.get(name)
        if stream is None:
            self._consumed(len(data))
        elif data:
            stream.pieces.append(data)
            stream.arrived.set()

    def _consumed(self, count: int) -> None:
        self._used += count
        if self._used >= _WINDOW_BYTES // 4 and not self._said_close:
            self._carrier.send(bytes((wire.CHANNEL_WINDOW_ADJUST,)) + self._there + uint32(self._used))
            self._left += self._used
            self._used = 0

    def _asked(self, read: Reader) -> None:
        name, answer = read.text(), read.boolean()
        if name == "exit-status":
            self._code = read.uint32()
        elif name == "exit-signal":
            self._signal = read.text()
        elif answer:
            self._carrier.send(bytes((wire.CHANNEL_FAILURE,)) + self._there)

    def _answered(self, error: ChannelRefused | None) -> None:
        if self._answer.done():
            return
        if error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(error)
            self._answer.exception()  # nobody may be waiting for it any more

    # -- for the command --------------------------------------------------------------------------------------------

    async def start(self, line: str) -> None:
        """Start the command once the session is open. Raises: ChannelRefused."""
        await self._answer
        self._answer = asyncio.get_running_loop().create_future()
        command = string(line.encode(errors="surrogateescape"))
        self._request("exec", command, answer=True)
        await self._answer

    def _request(self, name: str, data: bytes, *, answer: bool = False) -> None:
        self._carrier.send(
            bytes((wire.CHANNEL_REQUEST,)) + self._there + string(name.encode()) + boolean(answer) + data
        )

    async def read(self, stream: str) -> bytes:
        found = self._streams[stream]
        while not found.pieces:
            if self._over.is_set():
                return b""
            found.arrived.clear()
            await found.arrived.wait()
        data = b"".join(found.pieces)
        found.pieces.clear()
        if not self._over.is_set():
            self._consumed(len(data))
        return data

    async def write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._over.is_set() or self._said_close or self._said_end or self._carrier.lost:
                raise OSError("nobody reads it")
            if not self._room:
                self._more_room.clear()
                await self._more_room.wait()
                continue
            piece = data[at : at + min(self._room, self._most)]
            self._room -= len(piece)
            at += len(piece)
            self._carrier.send(bytes((wire.CHANNEL_DATA,)) + self._there + string(piece))
            if not self._carrier.writable.is_set():
                await self._carrier.writable.wait()

    def end_input(self) -> None:
        if not (self._said_end or self._said_close or self._over.is_set()):
            self._said_end = True
            self._carrier.send(bytes((wire.CHANNEL_EOF,)) + self._there)

    async def ended(self) -> tuple[int | None, str]:
        await self._over.wait()
        return self._code, self._signal

    def send_signal(self, name: str) -> None:
        if not (self._said_close or self._over.is_set()):
            self._request("signal", string(name.encode()))

    async def close(self) -> None:
        self._close()
        await self._over.wait()

    def _close(self) -> None:
        if self._there and not self._said_close and not self._carrier.lost:
            self._said_close = True
            self._carrier.send(bytes((wire.CHANNEL_CLOSE,)) + self._there)
