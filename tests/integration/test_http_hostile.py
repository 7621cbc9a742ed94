"""The http kind against servers that misbehave: each ends by a limit or the deadline, with its reason; no leaks."""

from __future__ import annotations

import asyncio
import gzip
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from http_servers import Client, Writer, client, descriptors, serving, until

from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.probe import EVIDENCE_BYTES, Attempt, ProbeResult

TIMEOUT_S = 0.3


@pytest.fixture(autouse=True, params=["launch", "lane"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test by each of the two ways that an attempt may go."""
    monkeypatch.setattr(Client, "by_lane", request.param == "lane")
    return str(request.param)


async def endless(writer: Writer, piece: bytes, pause_s: float = 0.0) -> None:
    while not writer.is_closing():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause_s)


async def endless_header(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await endless(writer, b"X-Pad: " + b"a" * 1000 + b"\r\n")


async def endless_header_line(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Pad: ")
    await endless(writer, b"a" * 1000)


async def endless_body(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await endless(writer, b"a" * 65536)


async def endless_chunks(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await endless(writer, b"1000\r\n" + b"a" * 4096 + b"\r\n")


async def endless_interim(_request: bytes, writer: Writer) -> None:
    await endless(writer, b"HTTP/1.1 100 Continue\r\n\r\n")


async def endless_chunk_line(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    await endless(writer, b"a" * 1000)


async def endless_trailers(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    await endless(writer, b"X-Trailer: " + b"a" * 1000 + b"\r\n")


async def bomb(_request: bytes, writer: Writer) -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(packed), packed))


async def slow_head(_request: bytes, writer: Writer) -> None:
    await endless(writer, b"H", 0.05)


async def slow_body(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    await endless(writer, b"a", 0.05)


async def silent(_request: bytes, _writer: Writer) -> None:
    await asyncio.Event().wait()


async def reset(_request: bytes, writer: Writer) -> None:
    writer.transport.abort()


async def reset_in_body(_request: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    await writer.drain()
    await asyncio.sleep(0.02)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset instead of an end
    writer.transport.abort()


SCRIPTS = [
    (endless_header, "too_large"),
    (endless_header_line, "too_large"),
    (endless_body, "too_large"),
    (endless_chunks, "too_large"),
    (endless_interim, "protocol"),
    (endless_chunk_line, "protocol"),
    (endless_trailers, "too_large"),
    (bomb, "too_large"),
    (slow_head, "timeout"),
    (slow_body, "timeout"),
    (silent, "timeout"),
    (reset, "reset"),
    (reset_in_body, "reset"),
]


@pytest.mark.parametrize(("script", "reason"), SCRIPTS, ids=[script.__name__ for script, _ in SCRIPTS])
async def test_misbehaviour_ends_with_its_reason(script: object, reason: str) -> None:
    before = descriptors()
    async with serving(script) as server, client() as asker:  # type: ignore[arg-type]
        started_s = time.perf_counter()
        # Limits are reached well within the longer deadline; what never ends gets a short one.
        timeout_s = TIMEOUT_S if reason == "timeout" else 20.0
        result = await asker.ask(server.url, timeout_s=timeout_s)
        took_s = time.perf_counter() - started_s
        assert (result.success, result.reason) == (False, reason), result
        assert result.message
        if reason == "timeout":
            assert TIMEOUT_S <= took_s < TIMEOUT_S + 5
        if result.evidence is not None:
            shown = result.evidence()
            assert sum(len(name) + len(value) for name, value in shown.headers) + len(shown.body) <= EVIDENCE_BYTES
    await until(lambda: descriptors() == before)


ANSWERS = [
    (b"", "reset"),
    (b"garbage\r\n\r\n", "protocol"),
    (b"\x00" * 300 + b"\r\n\r\n", "protocol"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", "protocol"),
    (b"HTTP/1.1 OK\r\n\r\n", "protocol"),
    (b"HTTP/1.1 99 Low\r\n\r\n", "protocol"),
    (b"HTTP/1.1 2000 Odd\r\n\r\n", "protocol"),
    (b"HTTP/3.7 200 OK\r\n\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\nabc", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\nabc", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nabc", "too_large"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "protocol"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", "protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 999)[:-9], "protocol"),
    (b"HTTP/1.1 302 Found\r\nLocation: ftp://elsewhere/\r\nContent-Length: 0\r\n\r\n", "redirects"),
    (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n", "redirects"),
    (b"HTTP/1.1 302 Found\r\nLocation: http://x:99999/\r\nContent-Length: 0\r\n\r\n", "redirects"),
]


@pytest.mark.parametrize(("answer", "reason"), ANSWERS, ids=[str(number) for number in range(len(ANSWERS))])
async def test_broken_answers(answer: bytes, reason: str) -> None:
    async with serving(answer) as server, client() as asker:
        result = await asker.ask(server.url)
    assert (result.success, result.reason) == (False, reason), result


async def test_a_body_over_the_limit_can_be_cut_instead() -> None:
    async with serving(endless_body) as server, client() as asker:
        result = await asker.ask(server.url, body_limit=1000, body_over="truncate")
        assert result.success, result
        assert result.values["body"] == "a" * 1000
    async with serving(bomb) as server, client() as asker:
        result = await asker.ask(server.url, body_limit=100_000, body_over="truncate")
        assert result.success, result
        assert result.values["body_bytes"] == 100_000


async def test_an_early_answer_to_a_large_request_is_read() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        writer.write_eof()
        await asyncio.sleep(0.2)
        writer.close()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=2**16)
    async with listener, client() as asker:
        port = listener.sockets[0].getsockname()[1]
        result = await asker.ask(f"http://127.0.0.1:{port}/", method="POST", body="x" * 30_000_000, timeout_s=10)
    assert (result.reason, result.values.get("status")) == ("status", 413), result


async def test_unconnectable_address_times_out_cleanly() -> None:
    # A listener whose queue is full drops further connections.

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with client() as asker:
            result = await asker.ask(f"http://127.0.0.1:{full.getsockname()[1]}/", timeout_s=TIMEOUT_S)
            assert len(asker.engine._table) == 0
        for filler in fillers:
            filler.close()
        assert result.reason == "timeout", result
        # Depending on the kernel's mood the last handshake is completed, and nobody is there to accept it.
        assert "connecting" in result.message or "first byte" in result.message


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = descriptors() + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_descriptors_running_out_is_a_result_and_passes(few_descriptors: int) -> None:
    ended: list[ProbeResult] = []
    async with serving(silent) as server, client(limit=1000) as asker:
        before = descriptors()
        probe = HttpProbe(url=server.url)
        attempts = [Attempt(target="t", timeout_s=TIMEOUT_S, env=asker.env, memory={}) for _ in range(100)]
        for attempt in attempts:
            probe.launch(attempt, ended.append)
        await until(lambda: len(ended) == 100)
        reasons = [result.reason for result in ended]
        assert reasons.count("local") >= 50
        assert set(reasons) <= {"local", "timeout"}
        message = next(result.message for result in ended if result.reason == "local")
        assert "no free file descriptors" in message
        assert asker.engine.local_errors_total == reasons.count("local")
    await until(lambda: descriptors() <= before)


async def test_more_than_the_limit_wait_for_a_slot_and_their_deadline_counts() -> None:
    ended: list[ProbeResult] = []
    async with serving(silent) as server, client(limit=2, queue_limit=3) as asker:
        probe = HttpProbe(url=server.url)
        timeout_s = 2.0
        for _ in range(7):
            attempt = Attempt(target="t", timeout_s=timeout_s, env=asker.env, memory={})
            probe.launch(attempt, ended.append)
        await asyncio.sleep(0.01)
        assert (asker.engine.active, len(asker.engine._waiting)) == (2, 3)
        # Two run, three wait, two are refused at once.
        assert [result.reason for result in ended] == ["local", "local"]
        started_s = time.perf_counter()
        await until(lambda: len(ended) == 7)
        # All were launched together, so that all deadlines pass together, whoever had a slot.
        assert time.perf_counter() - started_s < 1.8 * timeout_s
        assert all(result.reason == "timeout" for result in ended[2:])


async def test_a_bug_in_one_attempt_is_its_own_result() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as server, client() as asker:

        class Broken:
            def ready(self, _events: int) -> None:
                raise RuntimeError("a bug")

            error: Exception | None = None

            def broken(self, error: Exception) -> None:
                self.error = error

        found: list[object] = []
        broken = Broken()

        def dialed(sock: object, _address: object, _error: object) -> None:
            asker.engine.hand_over(sock, broken)  # type: ignore[arg-type]
            found.append(sock)

        asker.engine.dial(((2, "127.0.0.1"),), server.port, dialed)
        await until(lambda: bool(found))
        found[0].send(b"GET / HTTP/1.1\r\n\r\n")  # type: ignore[attr-defined]
        await until(lambda: broken.error is not None)
        asker.engine.drop(found[0])  # type: ignore[arg-type]
        assert (await asker.ask(server.url)).success


@pytest.mark.serial
async def test_500_probes_at_a_silent_listener_end_in_time_and_return_every_descriptor() -> None:
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:  # connected by the kernel, never answered
        await _ends_in_time(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    await until(lambda: descriptors() <= before)


async def _ends_in_time(url: str) -> None:
    async with client() as asker:
        ends: list[float] = []
        probe = HttpProbe(url=url)
        started_s = time.perf_counter()
        for _ in range(500):
            attempt = Attempt(target="t", timeout_s=1.0, env=asker.env, memory={})
            probe.launch(attempt, lambda result: ends.append(time.perf_counter() - started_s))
        await until(lambda: len(ends) == 500)
        assert min(ends) >= 1.0
        assert max(ends) <= 3.0  # how close it comes to 1 s is measured by bench/http_probes.py
        assert asker.engine.active == 0
        assert len(asker.engine._table) == 0
