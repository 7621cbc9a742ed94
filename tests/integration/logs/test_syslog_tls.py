"""Syslog over TLS with the daemons that other machines run, both ways, and what happens to those who may not."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.integration.logs.test_real_sinks import LINES, block, deliver
from tests.integration.logs.test_sources import connect, running
from tests.log_peers import free_port
from tests.log_peers import running as peer_running
from tests.log_peers_syslog import WAYS, Other, known

from dogwatch.errors import TransientError
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.sinks.syslog import SyslogSink
from dogwatch.logs.tls import ClientTls

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


@pytest.fixture(params=WAYS)
def other(request: pytest.FixtureRequest) -> Iterator[Other]:
    peer = Other(request.param)
    try:
        yield peer
    finally:
        peer.stop()


def source_of(other: Other, port: int) -> str:
    files = other.certificates
    tls = f"{{cert_file: {files.server}, client_ca_file: {files.ca}}}"
    return f"syslog: {{tcp: '127.0.0.1:{port}', tls: {tls}}}"


async def test_they_send_to_us(other: Other, tmp_path: Path) -> None:
    port, files = free_port(), other.certificates
    (tmp_path / "in.log").write_text("".join(f"line {number} ✓\n" for number in range(500)))
    async with running(tmp_path, source_of(other, port), do="[syslog]") as one:
        async with asyncio.timeout(60):
            while not listens(port):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        other.forward(tmp_path / "in.log", port, certificate=files.client, ca=files.ca)
        await asyncio.to_thread(other.start)
        await one.until(lambda: len(one.records()) >= 500, 60)
    found = one.records()
    assert [record["message"] for record in found] == [f"line {number} ✓" for number in range(500)]
    assert {record["app"] for record in found} == {"app"}


async def asked(port: int, context: ssl.SSLContext) -> None:
    """Send something, and read until one is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(b"5 <14>x")
        await reader.readexactly(1)
    finally:
        writer.transport.abort()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_who_has_no_certificate_of_ours_sends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's certificate, none, no TLS at all: refused, counted, without a word of Python's; others go on."""
    other = Other("gnutls")
    port, files = free_port(), other.certificates
    strange, trust = ssl.create_default_context(cafile=files.ca), ssl.create_default_context(cafile=files.ca)
    trustme.CA().issue_cert("agent@logs.example").configure_cert(strange)
    known_one = ssl.create_default_context(cafile=files.ca)
    known_one.load_cert_chain(files.client)
    async with running(tmp_path, source_of(other, port)) as one:
        (await connect(port)).close()
        for context in (strange, trust):
            # In TLS 1.3 a client learns of its refusal when it reads.
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await asked(port, context)
        plain = await connect(port)
        plain.write(b"5 <14>x" * 100)
        await plain.drain()
        plain.close()
        await one.until(lambda: one.counts().get("refused", 0) >= 3)
        writer = await connect(port, known_one)
        writer.write(b"7 <14>yes")
        await writer.drain()
        await one.until(lambda: bool(one.records()))
        writer.close()
        await writer.wait_closed()
    assert one.messages() == ["<14>yes"]
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    said = [record.message for record in caplog.records if "not let in" in record.message]
    # The third one does not even speak TLS.
    assert len(said) == 3, said
    assert "_ssl.c" not in str(said)


async def test_we_send_to_them(other: Other, tmp_path: Path) -> None:
    other.receive()
    await asyncio.to_thread(other.start)
    sink = SyslogSink(url=f"tls://localhost:{other.port}", tls=ClientTls(**known(other)))
    await deliver(sink, tmp_path, block(*LINES, *(f"more {number}" for number in range(500))))
    wanted = [*LINES, *(f"more {number}" for number in range(500))]
    async with asyncio.timeout(60):
        while len(other.received()) < len(wanted):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert other.received() == list(zip(block(*wanted).ids(), wanted, strict=True))


async def test_it_is_said_why_they_do_not_let_us_in(other: Other, tmp_path: Path) -> None:
    """Above all: what a server refuses, after a handshake that for the client is over, does not count as delivered."""
    other.receive()
    await asyncio.to_thread(other.start)
    authority = trustme.CA()
    authority.issue_cert("agent@logs.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "strange.pem")

    async def refused(reason: str, **options: str) -> None:
        sink = SyslogSink(url=f"tls://localhost:{other.port}", tls=ClientTls(**known(other, **options)), timeout=5)
        with pytest.raises(TransientError, match=re.compile(reason, re.IGNORECASE)) as raised:
            await deliver(sink, tmp_path, block(*LINES))
        assert "_ssl.c" not in str(raised.value)

    await refused("certificate verify failed", ca_file=str(other.certificates.stranger))
    closed = "alert|closed|reset|certificate"
    await refused(closed, cert_file="", key_file="")
    strange = str(tmp_path / "strange.pem")
    await refused(closed, cert_file=strange, key_file=strange)
    assert other.received() == []


async def test_a_server_that_begins_again_gets_what_it_did_not_have(tmp_path: Path) -> None:
    """What was sent after the old one had closed the connection is sent to the new one."""
    with peer_running(lambda: _receiver("gnutls")) as other:
        assert isinstance(other, Other)
        sink = SyslogSink(url=f"tls://localhost:{other.port}", tls=ClientTls(**known(other)), timeout=5)
        from dogwatch.logs.tools import SinkTools

        async def nothing(*_given: object) -> None: ...

        kit = SinkTools("out", tmp_path, save=nothing, sleep=nothing)
        worker = await sink.open(kit, None)
        try:
            await worker.write([block("before")])
            await asyncio.to_thread(other.stop)
            with pytest.raises(TransientError):
                await worker.write([block("between")])
            await asyncio.to_thread(other.start)
            await worker.write([block("between")])
        finally:
            await worker.close()
            await kit.close()
        async with asyncio.timeout(60):
            while "between" not in [message for _id, message in other.received()]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def _receiver(way: str) -> Other:
    other = Other(way)
    other.receive()
    return other
