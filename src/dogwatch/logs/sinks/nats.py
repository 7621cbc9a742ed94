"""The `nats` sink: JetStream, with the record's id as the message's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from dogwatch.core.units import Seconds, Secret
from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import as_sent, pieces, with_ids
from dogwatch.logs.sink import Sink, Tools, Worker
from dogwatch.logs.tls import ClientTls

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

# Its id and its value.
Message = tuple[str, bytes]
_MSG_ID, _EXPECTED = "Nats-Msg-Id", "Nats-Expected-Stream"
# What stands before and behind the headers and between a name and its value; the server counts it as the message.
_AROUND, _BETWEEN = len(b"NATS/1.0\r\n\r\n"), len(b": \r\n")
_OVER_STREAM = 10054
_AT_ONCE = 1000
_CLOSE_S = 1.0


class NatsSink(Sink, frozen=True, kw_only=True):
    """Publishes to a JetStream stream. Each message has its record's id as `Nats-Msg-Id`: within the stream's duplicate
    window the server drops what comes twice after a crash.

    servers: `nats://host:4222` of some of them. subject: which a stream must listen to. stream: the stream that must
    answer; "" for any. format: of the message, json with ids, or lines as they were read; default json. user, password,
    token, credentials: of the account; credentials is the path of a .creds file. tls: where the server wants it, or its
    address begins with tls://. timeout: of an answer.
    """

    kind: ClassVar[str] = "nats"

    servers: tuple[str, ...]
    subject: str
    stream: str = ""
    format: Literal["json", "lines"] = "json"
    user: str = ""
    password: Secret = ""
    token: Secret = ""
    credentials: str = ""
    tls: ClientTls | None = None
    timeout: Seconds = 10.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.servers:
            yield ("servers",), "names no server", "servers: [nats://nats-1:4222]"
        for at, server in enumerate(self.servers):
            parts = urlsplit(server)
            if parts.scheme not in {"nats", "tls"} or not parts.hostname:
                yield ("servers", at), "is not a nats:// or tls:// address", "nats://nats-1:4222"
        if not self.subject or set(self.subject) & set(" \t\r\n*>") or "" in self.subject.split("."):
            yield ("subject",), "is not a subject one may publish to", "logs.shop"

    def takes_json(self) -> bool:
        return True

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        worker = _Nats(self, tools)
        await worker.connect()
        return worker


class _Nats:
    def __init__(self, options: NatsSink, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        self._client: Client | None = None
        self._answers: _Answers | None = None

    async def connect(self) -> None:
        from nats.aio.client import Client
        from nats.errors import Error

        options = self._options
        client = Client()
        wants_tls = options.tls is not None or any(one.startswith("tls:") for one in options.servers)
        try:
            async with asyncio.timeout(options.timeout):
                await client.connect(
                    list(options.servers),
                    name="dogwatch",
                    # A lost connection is a failed write: the outlet tries again, and nothing waits in two places.
                    allow_reconnect=False,
                    error_cb=_quiet,
                    tls=(options.tls or ClientTls()).context() if wants_tls else None,
                    user=options.user or None,
                    password=options.password or None,
                    token=options.token or None,
                    user_credentials=options.credentials or None,
                    connect_timeout=max(1, round(options.timeout)),
                )
                answers = _Answers(client.new_inbox())
                await client.subscribe(f"{answers.prefix}*", cb=answers.heard)
        except (Error, OSError, TimeoutError) as error:
            await _close(client)
            raise TransientError(f"cannot connect: {error or type(error).__name__}") from None
        except Exception as error:  # noqa: BLE001
            # Of a file that is no .creds file the libraries raise whatever they stumble over.
            await _close(client)
            raise TransientError(f"cannot connect with the credentials: {type(error).__name__}: {error}") from None
        self._client, self._answers = client, answers

    async def write(self, blocks: Sequence[Block]) -> None:
        found = await self._tools.thread(lambda: [one for block in blocks for one in self._messages(block)])
        if self._client is None or self._answers is None:
            await self.connect()
        try:
            await self._without_large(found, blocks)
        except TransientError:
            await self.close()
            raise

    def _messages(self, block: Block) -> Iterable[Message]:
        some = pieces(block)
        ids = b"\n".join(some.ids).decode().split("\n")
        return zip(ids, as_sent(block, some, json=self._options.format == "json"), strict=True)

    async def _without_large(self, found: Sequence[Message], blocks: Sequence[Block]) -> None:
        assert self._client is not None
        most = self._client.max_payload
        room = most - _AROUND - len(_MSG_ID) - _BETWEEN
        if self._options.stream:
            room -= len(_EXPECTED) + _BETWEEN + len(self._options.stream.encode())
        fits = [len(name.encode()) + len(value) <= room for name, value in found]
        small = list(compress(found, fits))
        large = {name.encode() for (name, _value), fit in zip(found, fits, strict=True) if not fit}
        over: set[bytes] = set()
        for at in range(0, len(small), _AT_ONCE):
            over |= await self._publish(small[at : at + _AT_ONCE])
        # When all others are taken: a batch that comes again must not make them twice.
        await self._dead(blocks, large, f"larger than the server's {most} bytes")
        await self._dead(blocks, over, "larger than the stream takes")

    async def _dead(self, blocks: Sequence[Block], names: set[bytes], reason: str) -> None:
        if names:
            await self._tools.dead(await self._tools.thread(lambda: with_ids(blocks, names)), reason)

    async def _publish(self, found: Sequence[Message]) -> set[bytes]:
        """Publish, and wait for all answers. The library's own way costs several times as much for each message.

        Return the ids of those that are too large for the stream.
        """
        from nats.errors import Error

        client, answers = self._client, self._answers
        assert client is not None
        assert answers is not None
        publish, subject = client.publish, self._options.subject
        headers = {_EXPECTED: self._options.stream} if self._options.stream else {}
        answers.expect(len(found))
        try:
            async with asyncio.timeout(self._options.timeout):
                for at, (name, value) in enumerate(found):
                    headers[_MSG_ID] = name
                    await publish(subject, value, f"{answers.prefix}{at}", headers)
                over = await answers.all()
        except (Error, OSError, TimeoutError) as error:
            raise TransientError(f"not taken: {error or type(error).__name__}") from None
        return {found[at][0].encode() for at in over}

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        self._answers = None
        if self._client is not None:
            client, self._client = self._client, None
            await _close(client)


class _Answers:
    """Hears what a stream says to each message of a batch."""

    def __init__(self, inbox: str) -> None:
        self.prefix = f"{inbox}."
        self._left: set[str] = set()
        self._wrong = ""
        self._over: list[int] = []
        self._done = asyncio.Event()

    def expect(self, count: int) -> None:
        self._left = {f"{self.prefix}{at}" for at in range(count)}
        self._wrong, self._over = "", []
        self._done.clear()

    async def heard(self, message: Msg) -> None:
        if message.subject not in self._left:
            return
        self._left.remove(message.subject)
        # What else it may be is an error, or with no data a header that nobody listens.
        if not message.data.startswith(b'{"stream":'):
            said, code = _said(message)
            if code == _OVER_STREAM:
                self._over.append(int(message.subject.removeprefix(self.prefix)))
            else:
                self._wrong = self._wrong or said
        if self._wrong or not self._left:
            self._done.set()

    async def all(self) -> list[int]:
        """Return once every message was taken, but for some that the stream never takes: these, by their places.

        Raises: TransientError.
        """
        if self._left:
            await self._done.wait()
        if self._wrong:
            raise TransientError(f"not taken: {self._wrong}")
        return self._over


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Answer(msgspec.Struct):
    error: _Error | None = None
    stream: str = ""


def _said(message: Msg) -> tuple[str, int]:
    """Return what is wrong, "" where nothing is, and the server's number of it, 0 where it has none."""
    if not message.data:
        return "no stream listens to this subject", 0
    try:
        answer = msgspec.json.decode(message.data, type=_Answer)
    except msgspec.MsgspecError:
        return "it answered something else", 0
    if answer.error is not None:
        return f"{answer.error.description} ({answer.error.err_code})", answer.error.err_code
    return "" if answer.stream else "it answered something else", 0


async def _close(client: Client) -> None:
    """After a failed TLS handshake the library waits for ever for the end of a connection that has ended."""
    from nats.errors import Error

    with contextlib.suppress(Error, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await client.close()


async def _quiet(_error: Exception) -> None:
    """What fails is raised where it was asked for."""
