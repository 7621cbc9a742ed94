"""What strangers, other sites' pages and broken clients send."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest
from tests.fakes import FakeProgram
from tests.fakes_watch import view
from tests.web_server import Running, running

from dogwatch.web.assets import load_assets

EVIL = "<script>alert('x')</script>\"'&`{{7*7}}"


PAGES = ("/", "/targets/shop", "/nope", "/api/v1/status", "/api/v1/nope", "/metrics", "/badge/shop.svg", "/ping/x")


@pytest.mark.parametrize("path", PAGES)
async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path, headers={"accept": "text/html"})).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8410", "", "[::2]", "10.0.0.1"]
)
async def test_a_name_pointed_at_loopback_is_refused(client: httpx.AsyncClient, host: str) -> None:
    for method in ("GET", "POST"):
        answer = await client.request(method, "/api/v1/reload", headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "misdirected")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.2", "[::1]:99", "watch.example", "x.watch.example:443"])
async def test_own_names_are_answered(host: str) -> None:
    names = {"external_url": "https://watch.example", "allowed_hosts": ("x.watch.example",)}
    async with running(**names) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
async def test_writes_from_other_sites_are_refused(
    client: httpx.AsyncClient, server: Running, headers: dict[str, str]
) -> None:
    answer = await client.post("/api/v1/targets/shop/pause", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert server.program.watch.target("shop").status == "up"


@pytest.mark.parametrize(
    "path",
    [
        "/ping/../api/v1/reload",
        "/ping/%2e%2e/api/v1/reload",
        "/ping//../api/v1/reload",
        "//api/v1/reload",
        "/api//v1/reload",
    ],
)
async def test_no_way_of_writing_an_address_goes_round_the_guard(server: Running, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n"
    answer = await server.raw(head.encode())
    assert answer.split()[1] in (b"403", b"404")
    assert len(server.program.reload.history()) == 1


async def test_writes_from_our_own_page_are_taken(client: httpx.AsyncClient, server: Running) -> None:
    headers = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert (await client.post("/api/v1/targets/shop/pause", headers=headers)).status_code == 200


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
async def test_writes_through_a_proxy_are_not_local(client: httpx.AsyncClient, header: str) -> None:
    assert (await client.post("/api/v1/reload", headers={header: "127.0.0.1"})).status_code == 403


async def test_writes_can_be_given_to_nobody_or_anyone() -> None:
    async with running(writes="nobody") as server, httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.post("/api/v1/reload")
        assert (answer.status_code, "nobody" in answer.json()["hint"]) == (403, True)
    async with running(writes="anyone") as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.post("/api/v1/reload", headers={"x-forwarded-for": "10.1.1.1"})).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/x/../../application.py",
        "/static/x/..%2f..%2fapplication.py",
        "/static/x/%2e%2e/%2e%2e/application.py",
        "/static/x/%2e%2e%2f%2e%2e%2fapplication.py",
        "/static/x//etc/passwd",
        "/static/x/%2fetc%2fpasswd",
        "/static/x/vendor/",
        "/static/x/style.css%00",
        "/static/x/..\\application.py",
    ],
)
async def test_static_files_are_only_those(server: Running, path: str) -> None:
    answer = await server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b"create_web" not in answer
    assert b"root:" not in answer


async def test_static_files_are_kept_for_good_by_their_content(client: httpx.AsyncClient) -> None:
    url = load_assets().url("style.css")
    answer = await client.get(url)
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-encoding"] == "gzip"
    old = await client.get("/static/older/style.css", headers={"accept-encoding": "identity"})
    assert (old.headers["cache-control"], old.text) == ("no-cache", answer.text)


async def test_names_messages_and_bodies_never_become_markup() -> None:
    program = FakeProgram([view(EVIL, "http", f"https://{EVIL}/", EVIL, "down", 0.1, EVIL, 1_800_000_000.0)])
    program.reload.problems = (EVIL,)
    await program.reload.reload("api")
    program.store.trouble_text = EVIL
    program.finding_list = [{"key": EVIL, "symptom": EVIL, "cause": EVIL, "evidence": [{"what": EVIL}]}]
    path = quote(EVIL, safe="")
    async with running(program) as server, httpx.AsyncClient(base_url=server.url) as client:
        for url in (
            "/",
            f"/targets/{path}",
            f"/?q={path}",
            f"/badge/{path}.svg",
            f"/targets/{path}x",
            "/fragments/now",
        ):
            answer = await client.get(url, headers={"accept": "text/html"})
            assert answer.status_code in (200, 404), url
            assert "<script>alert" not in answer.text, url
            assert "alert" in answer.text, url
            assert "49" not in answer.text.split("alert", 1)[1][:60], url
        # The evidence holds a script of its own: shown, not run.
        assert "&lt;script&gt;alert(1)" in (await client.get(f"/targets/{path}")).text


@pytest.mark.parametrize("name", ["a\r\nset-cookie: x=1", "\u202egnp.exe", "😀" * 50, " ", "a" * 499, "\x00"])
async def test_weird_names(name: str) -> None:
    program = FakeProgram([view(name, "tcp", "x:1", "g", "up", 0.01, name, 0.0)])
    path = quote(name, safe="")
    async with running(program) as server, httpx.AsyncClient(base_url=server.url) as client:
        for url in ("/", f"/targets/{path}", f"/badge/{path}.svg", f"/api/v1/targets/{path}", "/api/v1/targets"):
            answer = await client.get(url)
            assert answer.status_code in (200, 400, 404), (url, answer.status_code)
            assert "set-cookie" not in answer.headers


async def test_huge_query_and_head_and_body() -> None:
    async with running(header_limit=40_000, body_limit=1000) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/?q=" + "x" * 20_000)).status_code == 414
            assert (await client.get("/?q=" + "x" * 501)).status_code == 400
            assert (await client.post("/api/v1/reload", content=b"x" * 900)).status_code == 200
        answer = await server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 50_000 + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431")
        answer = await server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 500_000)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b: folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb: c\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT evil:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_malformed_requests_end_in_a_refusal(server: Running, request_bytes: bytes) -> None:
    answer = await server.raw(request_bytes)
    assert answer == b"" or answer.split()[1].startswith(b"4"), answer[:200]


async def test_a_client_that_never_finishes_its_head_is_dropped() -> None:
    async with running(request_timeout=0.2) as server:
        async with asyncio.timeout(15):
            assert await server.raw(b"GET / HTTP/1.1\r\nHost: local") == b""
            assert await server.raw(b"") == b""


async def test_a_kept_connection_may_not_dawdle_over_its_next_head() -> None:
    async with running(request_timeout=0.3) as server, asyncio.timeout(15):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /healthz HT")
        assert await reader.read() == b""
        writer.close()


async def test_a_stream_outlives_the_request_timeout() -> None:
    async with (
        running(request_timeout=0.2) as server,
        httpx.AsyncClient(base_url=server.url) as client,
        client.stream("GET", "/api/v1/events") as answer,
    ):
        lines = answer.aiter_lines()
        async for line in lines:
            if line == ": hello":
                break
        await asyncio.sleep(0.5)  # the timeout is by the event loop's own clock
        server.program.publish_result("shop")
        async with asyncio.timeout(15):
            async for line in lines:
                if line == "event: result":
                    break


async def test_a_body_that_trickles_is_given_up() -> None:
    async with running(request_timeout=0.3) as server:
        head = b"POST /ping/nightly-backup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
        async with asyncio.timeout(15):
            answer = await server.raw(head)
        assert answer.startswith(b"HTTP/1.1 408")
        assert server.program.watch.pings == []
