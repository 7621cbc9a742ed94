"""The websocket kind against the websockets library's server, and against hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.probing import Trust, ask, peer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from dogwatch.probes.kinds.websocket import WebsocketProbe
from dogwatch.probes.trust import TlsOptions

Handler = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(handler: Handler, context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[str]:
    async def quiet(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await handler(connection)

    async with serve(quiet, "127.0.0.1", 0, ssl=context, **options) as running:
        port = running.sockets[0].getsockname()[1]
        yield f"{'wss' if context else 'ws'}://127.0.0.1:{port}"


async def echo(connection: ServerConnection) -> None:
    await connection.send("welcome")
    async for message in connection:
        await connection.send(message)


async def test_a_conversation() -> None:
    requests: list[Any] = []

    async def handler(connection: ServerConnection) -> None:
        requests.append(connection.request)
        await echo(connection)

    async with server(handler, subprotocols=["chat.v2"]) as url:
        probe = WebsocketProbe(
            url=f"{url}/live?x=1",
            headers={"X-Team": "shop"},
            subprotocols=("chat.v3", "chat.v2"),
            send="hello dog",
            expect_message="^hello (dog|cat)$",
            ping=True,
            close_code=1000,
        )
        result = await ask(probe)
    assert result.success, result.message
    assert requests[0].path == "/live?x=1"
    assert requests[0].headers["X-Team"] == "shop"
    values = result.values
    assert (values["status"], values["subprotocol"], values["message"]) == (101, "chat.v2", "hello dog")
    assert (values["close_code"], values["failed_regex"]) == (1000, False)
    assert 0 < values["ping_s"] < 1
    assert result.phases is not None
    assert result.phases.first_byte_s > 0


async def test_large_and_binary_messages() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send([b"\xff" * 20_000, b" needle ", b"\xfe" * 20_000])
        await connection.wait_closed()

    async with server(handler, compression=None) as url:
        found = await ask(WebsocketProbe(url=url, expect_message="needle"))
        bounded = await ask(WebsocketProbe(url=url, expect_message="needle", max_message=10_000))
    assert found.success, found.message
    assert bounded.reason == "too_large"


async def test_the_wrong_message_is_shown() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send("maintenance tonight")
        await connection.close(1013)

    async with server(handler) as url:
        result = await ask(WebsocketProbe(url=url, expect_message="ready"))
    assert (result.reason, result.values["close_code"], result.values["failed_regex"]) == ("reset", 1013, True)
    assert result.evidence is not None
    assert "maintenance tonight" in result.evidence().body


async def test_a_refused_handshake_keeps_the_answer() -> None:
    def refuse(connection: ServerConnection, _: Any) -> Any:
        return connection.respond(403, "not for you")

    async with server(echo, process_request=refuse) as url:
        result = await ask(WebsocketProbe(url=url))
    assert (result.reason, result.values["status"]) == ("status", 403)
    assert result.evidence is not None
    assert "not for you" in result.evidence().body
    assert result.evidence().headers


async def test_a_subprotocol_that_is_not_taken() -> None:
    async with server(echo) as url:
        result = await ask(WebsocketProbe(url=url, subprotocols=("mqtt",)))
    assert result.reason == "mismatch"


async def test_tls(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    async with server(echo, trust.server()) as url:
        good = await ask(WebsocketProbe(url=url, tls=TlsOptions(ca_file=trust.ca_file), expect_message="welcome"))
        untrusted = await ask(WebsocketProbe(url=url))
    assert good.success, good.message
    assert good.values["tls_days_left"] > 0
    assert untrusted.reason == "certificate"


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""])
async def test_what_is_no_websocket(answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)

    async with peer(other) as port:
        result = await ask(WebsocketProbe(url=f"ws://127.0.0.1:{port}/"))
    assert result.reason in {"protocol", "status", "reset"}, result


async def test_an_endless_header_is_bounded() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            writer.write(b"X: " + b"y" * 1000 + b"\r\n")
            await writer.drain()

    async with peer(other) as port:
        result = await ask(WebsocketProbe(url=f"ws://127.0.0.1:{port}/"), 5.0)
    assert result.reason in {"protocol", "too_large"}
