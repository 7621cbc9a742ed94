"""Pings, badges, streams of events, and the end of the server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.fakes import FakeProgram
from tests.web_server import Running, running

from dogwatch.core.values import Event
from dogwatch.errors import TransientError
from dogwatch.probes.view import TargetView
from dogwatch.web.application import create_web
from dogwatch.web.server import serve

PING = "/ping/nightly-backup"


@pytest.mark.parametrize(
    ("path", "signal", "exit_status"),
    [
        ("", "success", None),
        ("/start", "start", None),
        ("/fail", "fail", None),
        ("/log", "log", None),
        ("/0", "exit", 0),
        ("/255", "exit", 255),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_ping(
    client: httpx.AsyncClient, server: Running, method: str, path: str, signal: str, exit_status: int | None
) -> None:
    answer = await client.request(method, PING + path, params={"rid": "3F0A2F6E5C4F4A4B9A550A8F3C1F2B11"})
    assert answer.status_code == 200
    assert answer.text == ("" if method == "HEAD" else "OK")
    taken = server.program.watch.pings
    assert [(one.signal, one.exit_status, one.remote) for one in taken] == [(signal, exit_status, "127.0.0.1")]
    assert taken[0].rid == "3f0a2f6e-5c4f-4a4b-9a55-0a8f3c1f2b11"


@pytest.mark.parametrize("path", ["/ping/nobody", "/ping/shop"])
async def test_ping_of_what_is_no_heartbeat(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path)
    assert (answer.status_code, answer.text) == (404, "not found\n")


@pytest.mark.parametrize("path", ["/256", "/-1", "/stop", "/٣", "?rid=nonsense"])
async def test_malformed_ping(client: httpx.AsyncClient, server: Running, path: str) -> None:
    assert (await client.get(PING + path)).status_code == 400
    assert server.program.watch.pings == []


async def test_ping_body_is_kept_and_cut() -> None:
    async with running(ping_body_limit=1000) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.post(PING, content=b"a\0b\xff")).text == "OK"
        answer = await client.post(PING, content=b"x" * 5000)
        assert (answer.text, answer.headers["ping-body-limit"]) == ("OK", "1000")
        # A job that failed with much to say has failed all the same.
        assert (await client.post(f"{PING}/fail", content=b"y" * 5_000_000)).text == "OK"
        assert [one.body for one in server.program.watch.pings] == ["a\ufffdb\ufffd", "x" * 1000, "y" * 1000]


async def test_ping_that_cannot_be_kept_is_not_acknowledged(client: httpx.AsyncClient, server: Running) -> None:
    server.program.watch.ping_error = TransientError("no space left on device")
    answer = await client.post(PING)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_ping_answers_only_once_it_is_on_disk(client: httpx.AsyncClient, server: Running) -> None:
    written = asyncio.Event()
    asked = asyncio.Event()

    async def slow(_name: str, **_values: object) -> None:
        asked.set()
        await written.wait()

    server.program.watch.ping = slow  # type: ignore[method-assign]
    task = asyncio.create_task(client.post(PING))
    await asked.wait()
    await client.get("/healthz")  # whatever else the server would do, it has done
    assert not task.done()
    written.set()
    assert (await task).text == "OK"


async def test_ping_from_another_site_is_taken(client: httpx.AsyncClient) -> None:
    headers = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
    assert (await client.post(PING, headers=headers)).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/badge/shop.svg", "shop: up"),
        ("/badge/shop%2Fcheckout.svg", "shop/checkout: down"),
        ("/badge/shop/uptime/30d.svg", "shop 30d: 97.3"),
        ("/badge/shop/latency/24h.svg", "ms"),
        ("/badge.svg", "Dogwatch: 1 of 12 down"),
        ("/group-badge/web.svg", "web: 1 of 4 down"),
        ("/group-badge/data/uptime/7d.svg", "data 7d: 99."),
    ],
)
async def test_badges(client: httpx.AsyncClient, path: str, said: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert said in answer.text
    assert "no-cache" in answer.headers["cache-control"]
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    again = await client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/badge/nobody.svg", "/badge/shop", "/badge/shop/uptime/2d.svg", "/badge/no/latency/1h.svg", "/group-badge/x.svg"],
)
async def test_unknown_badges_are_pictures_too(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.text.startswith("<svg")


async def test_badge_tag_changes_with_the_status(client: httpx.AsyncClient, server: Running) -> None:
    before = (await client.get("/badge/shop.svg")).headers["etag"]
    server.program.watch.replace("shop", status="down")
    answer = await client.get("/badge/shop.svg", headers={"if-none-match": before})
    assert answer.status_code == 200
    assert "shop: down" in answer.text


@asynccontextmanager
async def stream(server: Running, query: str = "") -> AsyncIterator[Callable[[], Awaitable[tuple[str, object]]]]:
    """Give a function that returns the next event's name and data; it waits until the stream is subscribed."""
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        client.stream("GET", f"/api/v1/events{query}") as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.aiter_lines()

        async def following() -> tuple[str, object]:
            name = ""
            async with asyncio.timeout(60):
                async for line in lines:
                    if line.startswith("event: "):
                        name = line[7:]
                    elif line.startswith("data: "):
                        return name, json.loads(line[6:])
            return "end", None

        async with asyncio.timeout(60):
            async for line in lines:
                if line == ": hello":
                    break
            while not server.program.bus.subscribers:  # noqa: ASYNC110 - a bus announces no subscribers
                await asyncio.sleep(0)
        yield following


async def test_events_arrive_as_they_happen(server: Running) -> None:
    async with stream(server) as following:
        server.program.publish_result("shop", duration_s=0.25)
        server.program.watch.replace("shop", status="down", last_message="line\n\ndata: forged")
        name, data = await following()
        assert (name, data["target"], data["duration_s"], data["status"]) == ("result", "shop", 0.25, "up")
        name, data = await following()
        assert (name, data["before"], data["after"]) == ("transition", "up", "down")
        assert data["reason"] == "line\n\ndata: forged"


async def test_events_by_topic_and_target(server: Running) -> None:
    async with stream(server, "?topics=result,reload&target=blog") as following:
        server.program.watch.replace("shop", status="down")
        server.program.publish_result("shop")
        server.program.publish_result("blog")
        server.program.bus.publish(Event(topic="reload", time_s=0.0, data={"number": 2}))
        assert (await following())[1]["target"] == "blog"
        assert await following() == ("reload", {"number": 2})


async def test_slow_client_is_told_what_it_lost() -> None:
    async with running(stream_buffer=10) as server, stream(server, "?topics=result") as following:
        for _turn in range(50):  # at once: the stream cannot take any in between
            server.program.publish_result("shop")
        events = [await following() for _turn in range(11)]
        assert ("dropped", {"dropped": 40}) in events
        assert sum(name == "result" for name, _data in events) == 10


async def test_streams_are_limited_and_given_back() -> None:
    async with running(streams=1) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        async with stream(server):
            answer = await client.get("/api/v1/events")
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
        async with asyncio.timeout(60):
            while server.program.bus.subscribers:  # noqa: ASYNC110
                await asyncio.sleep(0)
        async with stream(server):
            pass


async def test_stop_ends_streams_and_finishes_requests() -> None:
    program = FakeProgram()
    async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        release, asked = asyncio.Event(), asyncio.Event()

        async def slow(name: str) -> TargetView:
            asked.set()
            await release.wait()
            return program.watch.target(name)

        program.watch.pause = slow  # type: ignore[method-assign]
        async with stream(server) as following:
            request = asyncio.create_task(client.post("/api/v1/targets/shop/pause"))
            await asked.wait()
            server.stop.set()
            assert (await following())[0] == "bye"
            assert (await following())[0] == "end"
            assert not request.done()
            release.set()
            assert (await request).status_code == 200
        await server.task


async def test_stop_does_not_wait_longer_than_the_grace() -> None:
    program = FakeProgram()
    cancelled = asyncio.Event()

    async def never(_name: str) -> TargetView:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    program.watch.pause = never  # type: ignore[method-assign]
    async with running(program, grace_s=1.0) as server:
        asking = asyncio.create_task(server.raw(b"POST /api/v1/targets/shop/pause HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        while not program.bus.subscribers and not asking.done():
            await asyncio.sleep(0.05)
            if len(asyncio.all_tasks()) > 3:
                break
        server.stop.set()
        async with asyncio.timeout(60):
            await server.task
            await asking
    assert cancelled.is_set()


async def test_cancelling_leaves_no_task_and_keeps_the_callers_socket() -> None:
    program = FakeProgram()
    app = create_web(program.services)
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready = asyncio.Event()
        task = asyncio.create_task(serve(app, [listener], stop=asyncio.Event(), ready=ready))
        await ready.wait()
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"hello")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert listener.fileno() >= 0
        assert listener.getsockname()[1]
        writer.close()
    assert asyncio.all_tasks() == before
    assert program.bus.subscribers == 0


async def test_a_second_server_takes_over_the_same_socket() -> None:
    """What a restart does: both accept on one listening socket, the first stops, no connection is refused."""
    program = FakeProgram()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stops = [asyncio.Event(), asyncio.Event()]
        readies = [asyncio.Event(), asyncio.Event()]
        tasks = [
            asyncio.create_task(serve(create_web(program.services), [listener], stop=stop, ready=ready))
            for stop, ready in zip(stops, readies, strict=True)
        ]
        for ready in readies:
            await ready.wait()
        statuses = []

        async def ask() -> None:
            while not stops[1].is_set():
                async with httpx.AsyncClient(timeout=60) as client:
                    statuses.append((await client.get(f"{url}/healthz")).status_code)

        asking = asyncio.create_task(ask())
        while len(statuses) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stops[0].set()
        await tasks[0]
        seen = len(statuses)
        while len(statuses) < seen + 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stops[1].set()
        await asking
        await tasks[1]
        assert set(statuses) == {200}


async def test_connection_limit_answers_503() -> None:
    async with running(connections=3, streams=2) as server, stream(server), stream(server):
        answer = await server.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
