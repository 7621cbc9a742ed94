"""The slow lane on libcurl: HTTP/2, proxies, Brotli; same limits, reasons and values as the fast lane."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from http_servers import Authority, Writer, client, descriptors, serving, until

from dogwatch.probes.kinds.http import TlsOptions

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
pytest.importorskip("pycurl", reason="pycurl is not installed")


@asynccontextmanager
async def proxying() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A proxy for plain requests and CONNECT; yields its port and the heads it was sent."""
    heads: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        heads.append(head)
        method, target, _ = head.split(b" ", 2)
        authority = target if method == b"CONNECT" else target.split(b"/")[2]
        port = int(authority.rpartition(b":")[2])
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            upstream.write(head)
        await asyncio.gather(pump(reader, upstream), pump(upstream_reader, writer))

    def accepted(reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], heads
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_http_2_falls_back_where_the_server_has_only_1_1(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
    async with serving(OK, authority.server(not_after=expires)) as server, client() as asker:
        tls = TlsOptions(ca_file=authority.file)
        result = await asker.ask(server.url, http_version="2", tls=tls, wants=("body", "headers", "phases"))
        assert result.success, result
        values = result.values
        assert (values["status"], values["http_version"], values["body"]) == (200, 1.1, "hello")
        assert values["content_length"] == 5
        assert values["ip"] == "127.0.0.1"
        assert values["tls_expires_s"] == int(expires.timestamp())
        assert result.phases is not None
        assert result.phases.connect_s > 0
        assert result.phases.tls_s > 0
        assert result.phases.first_byte_s > 0
        refused = await asker.ask(server.url, http_version="2", tls=tls, accept_versions=("HTTP/2",))
        assert refused.reason == "mismatch"


async def test_http_2_with_nginx(tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    authority = Authority(tmp_path)
    certificate = authority.ca.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    listener = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\n"
        "events {}\nhttp { access_log off;\n"
        + "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {tmp_path}/server.pem;\n"
        f"ssl_certificate_key {tmp_path}/server.pem;\n"
        'location / { return 200 "over two"; }\nlocation /away { return 302 /; } } }\n'
    )
    command = [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:  # noqa: ASYNC220
        try:
            async with client() as asker:
                tls = TlsOptions(ca_file=authority.file)
                url = f"https://localhost:{port}/away"
                await until((tmp_path / "pid").exists)
                result = await asker.ask(url, http_version=2, tls=tls)
                assert result.success, result
                assert (result.values["http_version"], result.values["redirects"]) == (2.0, 1)
                assert result.values["body"] == "over two"
                assert result.evidence is not None
                assert result.evidence().headers[0][1].startswith("HTTP/2 200")
        finally:
            process.terminate()


@pytest.mark.parametrize("secure", [False, True])
async def test_proxies_get_names_and_their_own_is_resolved_by_us(tmp_path: Path, secure: bool) -> None:
    authority = Authority(tmp_path)
    async with (
        proxying() as (port, heads),
        serving(OK, authority.server() if secure else None) as server,
        client() as asker,
    ):
        result = await asker.ask(
            server.url, proxy=f"http://user:pass-word@localhost:{port}", tls=TlsOptions(ca_file=authority.file)
        )
        assert result.success, result
        assert result.values["body"] == "hello"
        assert len(heads) == 1
        assert heads[0].startswith(b"CONNECT localhost:" if secure else b"GET http://localhost:")
        assert b"Proxy-Authorization: Basic" in heads[0]
        assert b"pass-word" not in server.requests[0]
        unknown = await asker.ask(server.url, proxy="http://no-such-proxy.invalid:3128", timeout_s=3)
        assert unknown.reason in {"resolve", "timeout"}, unknown


async def test_limits_reasons_and_deadline_are_those_of_the_fast_lane(tmp_path: Path) -> None:
    async def endless_body(_request: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"a" * 65536)
            await writer.drain()

    async def endless_header(_request: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X-Pad: " + b"a" * 1000 + b"\r\n")
            await writer.drain()

    async def silent(_request: bytes, _writer: Writer) -> None:
        await asyncio.Event().wait()

    async def reset(_request: bytes, writer: Writer) -> None:
        writer.transport.abort()

    before = descriptors()
    slow = {"compression": "br"}
    async with client() as asker:
        async with serving(endless_body) as server:
            assert (await asker.ask(server.url, **slow)).reason == "too_large"
            cut = await asker.ask(server.url, body_over="truncate", body_limit=1000, **slow)
            assert cut.success, cut
            assert cut.values["body_bytes"] == 1000
        async with serving(endless_header) as server:
            assert (await asker.ask(server.url, **slow)).reason == "too_large"
        async with serving(silent) as server:
            started_s = time.perf_counter()
            assert (await asker.ask(server.url, timeout_s=0.3, **slow)).reason == "timeout"
            assert time.perf_counter() - started_s < 3
        async with serving(reset) as server:
            assert (await asker.ask(server.url, **slow)).reason == "reset"
        async with serving(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n") as server:
            assert (await asker.ask(server.url, redirect_limit=3, **slow)).reason == "redirects"
            assert server.connections == 4
        assert (await asker.ask("http://127.0.0.1:9/", **slow)).reason == "refused"
        assert (await asker.ask("http://no-such-host.invalid/", timeout_s=3, **slow)).reason in {"resolve", "timeout"}
    await until(lambda: descriptors() <= before)


async def test_an_untrusted_certificate_is_described(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with serving(OK, authority.server()) as server, client() as asker:
        result = await asker.ask(server.url, http_version="2", tls=TlsOptions(ca_file=other.file), wants=("tls_names",))
        assert result.reason == "certificate", result
        assert "localhost" in result.values["tls_names"]


async def test_http_3_without_a_server_fails_cleanly(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(OK, authority.server()) as server, client() as asker:
        result = await asker.ask(server.url, http_version="3", timeout_s=1, tls=TlsOptions(ca_file=authority.file))
        assert not result.success
        assert result.reason in {"unreachable", "refused", "timeout", "tls"}, result


async def test_cancel_releases_a_transfer() -> None:
    from dogwatch.probes.kinds.http import HttpProbe
    from dogwatch.probes.probe import Attempt

    async def silent(_request: bytes, _writer: Writer) -> None:
        await asyncio.Event().wait()

    ended: list[object] = []
    before = descriptors()
    async with serving(silent) as server, client() as asker:
        probe = HttpProbe(url=server.url, compression="br")
        attempt = Attempt(target="t", timeout_s=5.0, env=asker.env, memory={})
        cancel = probe.launch(attempt, ended.append)
        await until(lambda: bool(server.requests))
        cancel()
        assert asker.engine.active == 0
    await until(lambda: descriptors() <= before)
    assert not ended
