"""How requests arrive on a connection: cut anywhere, several at once, by old clients, with what nobody asked for."""

from __future__ import annotations

import asyncio

from tests.web_server import Running, running

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def _pieces(server: Running, pieces: list[bytes]) -> bytes:
    """Send each piece by itself; return everything until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
            await asyncio.sleep(0.002)  # so that it is a read of its own, mostly; nothing rests on it
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


async def test_a_head_may_be_cut_anywhere() -> None:
    async with running() as server:
        for at in range(1, len(LAST)):
            answer = await _pieces(server, [LAST[:at], LAST[at:]])
            assert answer.startswith(b"HTTP/1.1 200"), (at, answer)
        assert (await _pieces(server, [LAST[at : at + 1] for at in range(len(LAST))])).startswith(b"HTTP/1.1 200")


async def test_requests_sent_at_once_are_answered_in_order_one_by_one() -> None:
    async with running() as server:
        many = [b"GET /nothing-%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % at for at in range(300)]
        answer = await _pieces(server, [b"".join(many) + LAST])
        assert answer.count(b"HTTP/1.1 404") == 300
        assert answer.rstrip().endswith(b"ok")


async def test_a_body_is_followed_by_the_next_request() -> None:
    async with running() as server:
        body = b"x" * 50_000
        ping = b"POST /ping/nightly-backup HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        chunks = b"".join(b"%x\r\n%s\r\n" % (1000, body[at : at + 1000]) for at in range(0, len(body), 1000))
        chunked = b"POST /ping/nightly-backup HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        trailed = chunked + chunks + b"0\r\nX-Late: 1\r\nAuthorization: Bearer nothing\r\n\r\n"
        answer = await _pieces(server, [ping + body + trailed + chunked + chunks + b"0\r\n\r\n" + LAST])
        assert answer.count(b"HTTP/1.1 200") == 4, answer
        assert [ping.body for ping in server.program.watch.pings] == [body.decode()] * 3


async def test_trailers_are_no_headers() -> None:
    """A trailer comes after the guard has looked; it must not become what a handler sees of the request."""
    async with running() as server:
        head = b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        answer = await _pieces(server, [head + b"\r\n", b"0\r\nIf-Match: nothing\r\nHost: evil\r\n\r\n"])
        assert answer.startswith(b"HTTP/1.1 200"), answer


async def test_an_old_client_gets_no_chunks() -> None:
    async with running() as server:
        assert (await server.raw(b"GET /healthz HTTP/1.0\r\n\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 4")
        assert (await server.raw(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        asked = asyncio.create_task(server.raw(b"GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n"))
        async with asyncio.timeout(60):
            while not server.streams:  # noqa: ASYNC110 of the server's own, which tells nobody
                await asyncio.sleep(0.005)
            server.stop.set()
            head, _, told = (await asked).partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert b"connection: close" in head.lower()
        assert told.startswith(b"retry: ")
        assert b"event: bye\n" in told


async def test_a_head_request_has_the_length_and_no_body() -> None:
    async with running() as server:
        ask = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await _pieces(server, [ask + LAST])
        first, _, rest = answer.partition(b"\r\n\r\n")
        assert b"content-length: 3" in first.lower()
        assert rest.startswith(b"HTTP/1.1 200")


async def test_who_asks_for_another_protocol_is_answered_in_this_one() -> None:
    async with running() as server:
        ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
        answer = await server.raw(ask)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()


async def test_empty_lines_without_end_are_not_parsed_for_ever() -> None:
    async with running(request_timeout=5.0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            async with asyncio.timeout(60):
                while not reader.at_eof():
                    writer.write(b"\r\n\r\n" * 4000)
                    await writer.drain()
                    await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            writer.close()
