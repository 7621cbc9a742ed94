"""The HTTP client of actions and channels, against a server that misbehaves on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dogwatch.engine.http_client import HttpClient, is_public
from dogwatch.engine.http_types import HttpFailed, HttpRequest
from dogwatch.errors import PermanentError

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")]
            body = await reader.readexactly(length[0]) if length else b""
            await answer(head + body, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient()
    yield made
    await made.close()


def plain(status: str, body: bytes = b"", *headers: str) -> Answer:
    async def answer(_request: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return answer


async def test_what_was_sent_arrives_and_the_answer_is_whole(client: HttpClient) -> None:
    seen: list[bytes] = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        await plain("201 Created", b"done", "X-One: 1", "X-One: 2")(request, writer)

    async with serving(answer) as url:
        response = await client.request(
            HttpRequest(url=f"{url}/a?b=c", method="POST", body=b"hello", headers=[("X-Evil", "a\r\nX-More: b")])
        )
    assert (response.status, response.body, response.headers["x-one"]) == (201, b"done", "1, 2")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert body == b"hello"
    assert head.startswith(b"POST /a?b=c HTTP/1.1")
    assert b"\r\nX-Evil: a X-More: b" in head
    assert b"Expect" not in head


async def test_many_at_once(client: HttpClient) -> None:
    async with serving(plain("200 OK", b"x")) as url:
        answers = await asyncio.gather(*(client.request(HttpRequest(url=url)) for _ in range(100)))
    assert {answer.status for answer in answers} == {200}
    assert client.running == 0


async def test_redirects_are_followed_only_when_asked(client: HttpClient) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if request.startswith(b"GET /there"):
            await plain("200 OK", b"there" + request)(request, writer)
        else:
            await plain("303 See Other", b"", "Location: /there")(request, writer)

    async with serving(answer) as url:
        request = HttpRequest(url=url, method="POST", body=b"x", headers=[("Authorization", "secret")])
        assert (await client.request(request)).status == 303
        followed = await client.request(HttpRequest(url=url, method="POST", body=b"x", redirects=1))
    assert followed.status == 200
    assert followed.body.startswith(b"thereGET /there")


async def test_credentials_do_not_follow_to_another_place(client: HttpClient) -> None:
    seen: list[bytes] = []

    async def other(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        await plain("200 OK")(request, writer)

    async with serving(other) as elsewhere, serving(plain("302 Found", b"", f"Location: {elsewhere}/x")) as url:
        await client.request(HttpRequest(url=url, headers=[("Authorization", "secret"), ("X-Kept", "1")], redirects=3))
    assert b"secret" not in seen[0]
    assert b"X-Kept: 1" in seen[0]


async def test_a_body_over_the_limit_is_cut(client: HttpClient) -> None:
    async with serving(plain("200 OK", b"x" * 5_000_000)) as url:
        answer = await client.request(HttpRequest(url=url, body_limit=1000))
    assert (len(answer.body), answer.truncated) == (1000, True)


async def test_nobody_there_is_worth_another_try(client: HttpClient) -> None:
    async with serving(plain("200 OK")) as url:
        pass
    with pytest.raises(HttpFailed, match=r"no answer from http://127\.0\.0\.1:\d+: (?!.*secret)"):
        await client.request(HttpRequest(url=f"{url}/secret-path"))


async def test_a_server_that_does_not_answer_is_left_in_time(client: HttpClient) -> None:
    arrived = asyncio.Event()

    async def silent(_request: bytes, _writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with serving(silent) as url:
        with pytest.raises(HttpFailed):
            await client.request(HttpRequest(url=url, timeout_s=0.2))
        arrived.clear()
        task = asyncio.create_task(client.request(HttpRequest(url=url)))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.running == 0


async def test_private_addresses_can_be_refused(client: HttpClient) -> None:
    for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "http://169.254.169.254/latest"):
        with pytest.raises(PermanentError, match="private address"):
            await client.request(HttpRequest(url=url, private=False))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_addresses_that_are_none(client: HttpClient) -> None:
    for url in ("ftp://x/", "nothing", "http://", "http://a:b/"):
        with pytest.raises(PermanentError):
            await client.request(HttpRequest(url=url))


async def test_a_name_that_does_not_resolve(client: HttpClient) -> None:
    with pytest.raises(HttpFailed, match="cannot resolve"):
        await client.request(HttpRequest(url="http://nothing.invalid/"))


async def test_closing_ends_what_runs() -> None:
    client = HttpClient()

    arrived = asyncio.Event()

    async def silent(_request: bytes, _writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with serving(silent) as url:
        task = asyncio.create_task(client.request(HttpRequest(url=url)))
        await arrived.wait()
        await client.close()
        with pytest.raises(HttpFailed):
            await task
        with pytest.raises(HttpFailed):
            await client.request(HttpRequest(url=url))
