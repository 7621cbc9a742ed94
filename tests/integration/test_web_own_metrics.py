"""What the web part tells of itself, and where a stream begins."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.web_server import Running, running

from dogwatch.core.values import Event


async def counters(server: Running) -> dict[tuple[str, ...], float]:
    """Return every sample of dogwatch_web_* by its name and label values."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        text = (await client.get("/metrics")).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("dogwatch_web_")
    }


async def test_requests_refusals_and_bytes_are_counted() -> None:
    async with running() as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            page = await client.get("/", headers={"accept-encoding": "identity"})
            await client.get("/api/v1/targets/nobody")
            await client.get("/", headers={"host": "evil.example"})
            await client.post("/api/v1/reload", headers={"sec-fetch-site": "cross-site"})
        await server.raw(b"GET / HTTP/1.1\r\n: bad\r\n\r\n")
        found = await counters(server)
    name = "dogwatch_web_requests_total"
    assert found[name, "page", "GET", "200"] == 1
    assert found[name, "api", "GET", "404"] == 1
    assert found[name, "page", "GET", "421"] == 1
    assert found[name, "api", "POST", "403"] == 1
    assert found["dogwatch_web_refused_total", "wrong name"] == 1
    assert found["dogwatch_web_refused_total", "not allowed"] == 1
    assert found["dogwatch_web_refused_total", "malformed"] == 1
    assert found["dogwatch_web_sent_bytes_total", "page"] > len(page.content)
    assert found["dogwatch_web_request_duration_seconds_count", "page"] == 2


async def test_connections_beyond_the_limit_are_counted() -> None:
    async with running(connections=2, streams=1) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        assert b" 503 " in await server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for _reader, writer in idle:
            writer.close()
            await writer.wait_closed()
        found = await counters(server)
    assert found["dogwatch_web_refused_total", "busy"] == 1


async def test_stream_begins_with_what_came_since_the_page_was_drawn() -> None:
    async with running() as server:
        before_s = server.program.clock.now_s() - 4.5
        for since_s, first in ((before_s, b"event: result"), (before_s + 4, b"event: finding")):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            path = f"/api/v1/events?topics=result,finding&target=shop&since_s={since_s}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            async with asyncio.timeout(60):
                await reader.readuntil(b": hello\n\n")
                publish = asyncio.get_running_loop().call_later(0.3, _finding, server)
                heard = await reader.readuntil(b"data: ")
                publish.cancel()
            assert first in heard
            if first == b"event: result":
                assert b'"target":"shop"' in await reader.readuntil(b"\n\n")
                open_streams = (await counters(server))["dogwatch_web_streams",]
                assert open_streams >= 1
            writer.close()
            await writer.wait_closed()


def _finding(server: Running) -> None:
    server.program.bus.publish(Event(topic="finding", time_s=0.0, data={"key": "k"}))
