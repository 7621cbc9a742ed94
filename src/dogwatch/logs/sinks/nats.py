"""The `nats` sink: JetStream, with the record's id as the message's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit

from dogwatch.core.units import Seconds, Secret
from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import Record
from dogwatch.logs.records import each
from dogwatch.logs.sink import Sink, Tools, Worker
from dogwatch.logs.tls import ClientTls

if TYPE_CHECKING:
    from nats.aio.client import Client

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

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        worker = _Nats(self, tools)
        await worker.connect()
        return worker


class _Nats:
    def __init__(self, options: NatsSink, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        self._client: Client | None = None

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
        except (Error, OSError, TimeoutError) as error:
            await _close(client)
            raise TransientError(f"cannot connect: {error or type(error).__name__}") from None
        except Exception as error:  # noqa: BLE001
            # Of a file that is no .creds file the libraries raise whatever they stumble over.
            await _close(client)
            raise TransientError(f"cannot connect with the credentials: {type(error).__name__}: {error}") from None
        self._client = client

    async def write(self, blocks: Sequence[Block]) -> None:
        json = self._options.format == "json"
        found = await self._tools.thread(lambda: [one for block in blocks for one in each(block, json=json)])
        if self._client is None:
            await self.connect()
        try:
            for at in range(0, len(found), _AT_ONCE):
                await self._publish(found[at : at + _AT_ONCE])
        except TransientError:
            await self.close()
            raise

    async def _publish(self, found: Sequence[tuple[Record, bytes]]) -> None:
        from nats.errors import Error
        from nats.js.api import Header

        assert self._client is not None
        context = self._client.jetstream(timeout=self._options.timeout)
        large = [record for record, value in found if len(value) > self._client.max_payload]
        if large:
            await self._tools.dead(large, f"larger than the server's {self._client.max_payload} bytes")
            found = [one for one in found if len(one[1]) <= self._client.max_payload]
        answers = []
        try:
            async with asyncio.timeout(self._options.timeout):
                for record, value in found:
                    headers = {Header.MSG_ID.value: str(record["id"])}
                    stream = self._options.stream or None
                    answers.append(
                        await context.publish_async(self._options.subject, value, stream=stream, headers=headers)
                    )
                await asyncio.gather(*answers)
        except (Error, OSError, TimeoutError) as error:
            for answer in answers:
                answer.cancel()
            raise TransientError(f"not taken: {error or type(error).__name__}") from None

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await _close(client)


async def _close(client: Client) -> None:
    """After a failed TLS handshake the library waits for ever for the end of a connection that has ended."""
    from nats.errors import Error

    with contextlib.suppress(Error, OSError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await client.close()


async def _quiet(_error: Exception) -> None:
    """What fails is raised where it was asked for."""
