"""The http kind against servers that behave."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from pathlib import Path

import pytest
from http_servers import Client, Writer, client, descriptors, serving

from dogwatch.probes.engine.resolver import ResolverFiles
from dogwatch.probes.http.plan import plan_of
from dogwatch.probes.kinds.http import BasicAuth, HttpProbe
from dogwatch.probes.probe import Attempt, ProbeResult

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


@pytest.fixture(autouse=True, params=["launch", "lane"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test by each of the two ways that an attempt may go."""
    monkeypatch.setattr(Client, "by_lane", request.param == "lane")
    return str(request.param)


async def test_values_phases_and_body_of_a_plain_answer() -> None:
    async with serving(OK) as server, client() as asker:
        result = await asker.ask(server.url, wants=("body", "json", "headers", "phases"))
    assert result.success, result
    values = result.values
    assert (values["status"], values["http_version"], values["redirects"], values["tls"]) == (200, 1.1, 0, False)
    assert values["body"] == '{"status":"ok"}'
    assert values["json"] == {"status": "ok"}
    assert values["headers"]["content-type"] == "application/json"
    assert (values["content_length"], values["body_bytes"]) == (15, 15)
    assert values["ip"] == "127.0.0.1"
    assert values["ip_version"] == 4
    phases = result.phases
    assert phases is not None
    assert phases.connect_s > 0
    assert phases.first_byte_s > 0
    assert phases.tls_s == 0
    assert result.duration_s >= phases.connect_s + phases.first_byte_s + phases.transfer_s
    assert values["phases"]["connect"] == phases.connect_s
    assert server.requests[0].startswith(b"GET / HTTP/1.1\r\nHost: localhost:")
    assert b"\r\nConnection: close\r\n" in server.requests[0]


async def test_heavy_values_are_left_out_unless_wanted() -> None:
    async with serving(OK) as server, client() as asker:
        result = await asker.ask(server.url, wants=())
    assert result.success
    assert not {"body", "json", "headers", "phases"} & set(result.values)
    assert result.evidence is not None
    assert result.evidence().body == '{"status":"ok"}'


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\nX-T: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabcdef",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\nContent-Length: 6\n\nabcdef",
        b"HTTP/1.1 200\r\nContent-Length: 6\r\nX-Folded: a\r\n  b\r\n\r\nabcdef",
    ],
    ids=["chunked", "until close", "interim", "bare line feeds", "folded"],
)
@pytest.mark.parametrize("pace", ["at once", "byte by byte"])
async def test_framings(content: bytes, pace: str) -> None:
    async def script(_request: bytes, writer: Writer) -> None:
        pieces = [content] if pace == "at once" else [content[i : i + 1] for i in range(len(content))]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pace != "at once":
                await asyncio.sleep(0)

    async with serving(script) as server, client() as asker:
        result = await asker.ask(server.url)
    assert result.success, result
    assert result.values["body"] == "abcdef"
    assert result.values["status"] == 200


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"hello" * 100)),
        ("deflate", zlib.compress(b"hello" * 100)),
        ("deflate", zlib.compress(b"hello" * 100)[2:-4]),
    ],
    ids=["gzip", "deflate", "raw deflate"],
)
async def test_compressed_bodies(encoding: str, packed: bytes) -> None:
    content = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        encoding.encode(),
        len(packed),
        packed,
    )
    async with serving(content) as server, client() as asker:
        result = await asker.ask(server.url, compression="any")
    assert result.success, result
    assert result.values["body"] == "hello" * 100
    assert result.values["body_bytes"] == 500
    assert result.values["content_length"] == len(packed)
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in server.requests[0]


async def test_no_body_is_waited_for_after_head_204_and_304() -> None:
    async with client() as asker:
        async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as server:
            assert (await asker.ask(server.url, method="HEAD", keep_alive=True)).success
        for line in (b"204 No Content", b"304 Not Modified"):
            async with serving(b"HTTP/1.1 " + line + b"\r\nContent-Length: 9\r\n\r\n") as server:
                result = await asker.ask(server.url, keep_alive=True, status=("2xx", 304))
                assert result.success, result


async def test_method_headers_body_and_credentials_are_sent() -> None:
    async with serving(OK) as server, client() as asker:
        await asker.ask(
            server.url,
            method="POST",
            body="größe=1",
            headers={"X-Trace": "7", "user-agent": "mine"},
            basic_auth=BasicAuth(username="anna", password="geheim"),
        )
        await asker.ask(server.url, bearer="token-1")
    first, second = server.requests
    assert first.startswith(b"POST / HTTP/1.1\r\n")
    assert b"\r\nX-Trace: 7\r\n" in first
    assert first.lower().count(b"user-agent:") == 1
    assert b"\r\nAuthorization: Basic YW5uYTpnZWhlaW0=\r\n" in first
    assert first.endswith("\r\n\r\ngröße=1".encode())
    assert b"\r\nAuthorization: Bearer token-1\r\n" in second


async def test_a_large_request_is_written_in_parts() -> None:
    body = "x" * 8_000_000
    async with serving(OK) as server, client() as asker:
        result = await asker.ask(server.url, method="PUT", body=body)
    assert result.success, result
    assert server.requests[0].endswith(body.encode())


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "PUT", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "GET", "GET"),
        (303, "HEAD", "HEAD"),
    ],
)
async def test_redirects_change_the_method_as_browsers_do(status: int, method: str, then: str) -> None:
    async def script(request: bytes, writer: Writer) -> None:
        if request.split()[1] == b"/":
            writer.write(b"HTTP/1.1 %d Moved\r\nLocation: next?q=1\r\nContent-Length: 3\r\n\r\nabc" % status)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    body = "data" if method in {"POST", "PUT"} else ""
    async with serving(script) as server, client() as asker:
        result = await asker.ask(server.url, method=method, body=body)
    assert result.success, result
    assert result.values["redirects"] == 1
    assert result.values["final_url"] == server.url + "next?q=1"
    assert server.requests[1].split()[:2] == [then.encode(), b"/next?q=1"]
    assert server.requests[1].endswith(b"data") == (then == "POST")


async def test_credentials_are_not_carried_to_another_origin() -> None:
    async with serving(OK) as other, client() as asker:

        async def script(_request: bytes, writer: Writer) -> None:
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n".encode())

        async with serving(script) as server:
            result = await asker.ask(server.url, bearer="secret-1", headers={"Cookie": "a=b", "X-Kept": "1"})
    assert result.success
    assert b"Authorization: Bearer secret-1" in server.requests[0]
    assert b"secret-1" not in other.requests[0]
    assert b"Cookie" not in other.requests[0]
    assert b"X-Kept: 1" in other.requests[0]


async def test_redirects_are_counted_and_can_be_refused() -> None:
    loop = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
    async with serving(loop) as server, client() as asker:
        result = await asker.ask(server.url, redirect_limit=4)
        assert (result.success, result.reason) == (False, "redirects")
        assert server.connections == 5
        stayed = await asker.ask(server.url, follow_redirects=False)
        assert (stayed.reason, stayed.values["status"]) == ("status", 302)
        assert (await asker.ask(server.url, follow_redirects=False, status=("3xx",))).success


async def test_the_status_is_judged_unless_the_expectation_does() -> None:
    async with serving(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope") as server, client() as asker:
        failed = await asker.ask(server.url)
        assert (failed.reason, failed.message) == ("status", "HTTP status 404")
        assert failed.evidence is not None
        evidence = failed.evidence()
        assert evidence.body == "nope"
        assert ("", "HTTP/1.1 404 Not Found") in evidence.headers
        assert (await asker.ask(server.url, expect="status == 404")).success
        assert (await asker.ask(server.url, status=(404,))).success
        assert (await asker.ask(server.url, expect="status == 404", status=(200,))).reason == "status"


async def test_version_and_tls_demands() -> None:
    async with serving(b"HTTP/1.0 200 OK\r\n\r\nx") as server, client() as asker:
        assert (await asker.ask(server.url, accept_versions=("HTTP/1.1", "HTTP/2.0"))).reason == "mismatch"
        assert (await asker.ask(server.url, accept_versions=("HTTP/1.0",))).success
        assert (await asker.ask(server.url, fail_if_not_tls=True)).reason == "mismatch"


async def test_keep_alive_reuses_the_connection_and_recovers_when_it_died() -> None:
    async with serving(OK) as server, client() as asker:
        results = [await asker.ask(server.url, keep_alive=True) for _ in range(3)]
        assert [result.values["reused"] for result in results] == [False, True, True]
        assert server.connections == 1
        phases = results[2].phases
        assert phases is not None
        assert phases.connect_s == 0
    answers = 0

    async def once(_request: bytes, writer: Writer) -> None:
        nonlocal answers
        answers += 1
        if answers % 2:
            writer.write(OK)
        else:
            writer.transport.abort()  # the second request on a connection finds it dead

    async with serving(once) as server, client() as asker:
        assert (await asker.ask(server.url, keep_alive=True)).success
        second = await asker.ask(server.url, keep_alive=True)
        assert second.success, second
        assert second.values["reused"] is False
        assert server.connections == 2


async def test_secrets_are_blanked_in_evidence_and_messages() -> None:
    async def echo(request: bytes, writer: Writer) -> None:
        writer.write(
            b"HTTP/1.1 500 Oops\r\nSet-Cookie: sid=12345\r\nX-Echo: hunter22\r\nContent-Length: %d\r\n\r\n"
            % len(request)
        )
        writer.write(request)

    async with serving(echo) as server, client() as asker:
        for options in (
            {"basic_auth": BasicAuth(username="anna", password="hunter22")},
            {"bearer": "hunter22"},
            {"headers": {"X-Api-Key": "hunter22", "Cookie": "sid=hunter22"}},
        ):
            result = await asker.ask(server.url, **options)
            assert result.evidence is not None
            shown = repr(result.evidence()) + result.message
            assert "hunter22" not in shown
            assert "YW5uYTpodW50ZXIyMg" not in shown
            assert "12345" not in shown
            assert "***" in shown


async def test_resolve_override_and_source_address() -> None:
    peers: list[str] = []

    async def script(_request: bytes, writer: Writer) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        writer.write(OK)

    async with serving(script) as server, client() as asker:
        url = f"http://shop.example:{server.port}/"
        result = await asker.ask(url, resolve="127.0.0.1", source_address="127.0.0.9")
        assert result.success, result
        assert b"\r\nHost: shop.example:" in server.requests[0]
        assert peers == ["127.0.0.9"]
        assert (await asker.ask(url, resolve="127.0.0.1", source_address="192.0.2.1")).reason == "local"


async def test_ipv6_and_literals(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 both.test\n::1 both.test\n")
    try:
        listener = await asyncio.start_server(lambda _r, w: (w.write(OK), w.close()), "::1", 0)
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    async with client(resolver=ResolverFiles(hosts=str(hosts))) as asker, listener:
        port = listener.sockets[0].getsockname()[1]
        result = await asker.ask(f"http://[::1]:{port}/")
        assert result.success, result
        assert result.values["ip_version"] == 6
        raced = await asker.ask(f"http://both.test:{port}/")  # 127.0.0.1 refuses, ::1 answers
        assert raced.success, raced
        assert (await asker.ask(f"http://both.test:{port}/", ip_version=4)).reason == "refused"


async def test_refused_and_unresolvable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with client() as asker:
        result = await asker.ask(f"http://127.0.0.1:{port}/")
        assert (result.reason, result.message) == (
            "refused",
            f"cannot connect to 127.0.0.1:{port}: connection refused",
        )


async def test_cancel_releases_everything_at_once_and_done_is_not_called() -> None:
    async def never(_request: bytes, _writer: Writer) -> None:
        await asyncio.Event().wait()

    ended: list[ProbeResult] = []
    async with serving(never) as server, client() as asker:
        before = descriptors()
        probe = HttpProbe(url=server.url.replace("localhost", "127.0.0.1"))
        attempt = Attempt(target="t", timeout_s=5.0, env=asker.env, memory={})
        cancels = [probe.launch(attempt, ended.append) for _ in range(20)]
        assert asker.engine.active == 20
        for cancel in cancels:
            cancel()
            cancel()
        assert asker.engine.active == 0
        assert descriptors() == before
        await asyncio.sleep(0)
    assert not ended


async def test_done_is_never_called_from_inside_launch() -> None:
    ended: list[ProbeResult] = []
    async with client() as asker:
        probe = HttpProbe(url="http://127.0.0.1:9/", source_address="192.0.2.1")
        attempt = Attempt(target="t", timeout_s=5.0, env=asker.env, memory={})
        probe.launch(attempt, ended.append)
        assert not ended
        cancel = probe.launch(attempt, ended.append)
        cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [result.reason for result in ended] == ["local"]


async def test_a_request_larger_than_the_socket_takes_is_sent_to_its_end() -> None:
    seen: list[int] = []

    async def count(request: bytes, writer: Writer) -> None:
        seen.append(len(request))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    body = "x" * 6_000_000
    async with serving(count) as server, client() as asker:
        results = [await asker.ask(server.url, method="POST", body=body, keep_alive=True) for _ in range(2)]
    assert [result.success for result in results] == [True, True], results
    assert results[1].values["reused"]  # where the socket was watched for reading only


async def test_a_target_that_is_not_near_is_waited_for() -> None:
    probe: HttpProbe
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
        first.connect(listener.getsockname())  # the queue is full: further connections stay half open
        with socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(listener.getsockname())
            probe = HttpProbe(url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
            async with client() as asker:
                ended: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
                attempt = Attempt(target="t", timeout_s=0.1, env=asker.env, memory={})
                probe.launch(attempt, ended.set_result)
                assert not attempt.memory["http"].near
                result = await ended
    assert result.reason == "timeout"
    assert "connecting" in result.message


async def test_a_zone_is_read_as_a_url_has_it_and_not_sent() -> None:
    probe = HttpProbe(url="http://[fe80::1%25nowhere]:81/")
    hop = plan_of(probe, {}).first
    assert hop.address == (socket.AF_INET6, "fe80::1%nowhere")
    assert b"\r\nHost: [fe80::1]:81\r\n" in hop.request
    async with client() as asker:
        result = await asker.ask(probe.url)
    assert (result.reason, "success" in result.message) == ("unreachable", False), result
