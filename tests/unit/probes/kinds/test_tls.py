"""The tls kind says what is wrong with a certificate, and describes it all the same."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from tests.probing import Trust, ask, peer, server_context

from dogwatch.core.clock import ManualClock
from dogwatch.probes.kinds.tls import TlsProbe

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


async def idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def test_a_good_certificate_is_described(trust: Trust) -> None:
    middle = trust.ca.create_child_ca()
    leaf = middle.issue_cert("localhost", "127.0.0.1", not_after=NOW + datetime.timedelta(days=20))
    context = server_context(leaf)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with peer(idle, context) as port:
        result = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file, min_days=15, alpn=("h2",)))
        soon = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file, min_days=30))
    assert result.success, result.message
    values = result.values
    assert 19 < values["tls_days_left"] < 20.01
    assert values["tls_names"] == ["localhost", "127.0.0.1"]
    assert (values["tls_alpn"], values["tls_verified"], values["failed_check"]) == ("h2", True, "")
    assert len(values["chain"]) == 3
    assert values["tls_expiry_s"] == min(item["expiry_s"] for item in values["chain"])
    assert (soon.reason, soon.values["failed_check"]) == ("certificate", "expiring")
    assert "expires in 20.0 days, wanted at least 30" in soon.message


async def test_days_are_counted_on_the_injected_clock(trust: Trust) -> None:
    leaf = trust.ca.issue_cert("localhost", not_after=datetime.datetime(2040, 1, 31, tzinfo=datetime.UTC))
    clock = ManualClock(now_s=datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC).timestamp())
    async with peer(idle, server_context(leaf)) as port:
        probe = TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file)
        result = await ask(probe, clock=clock)
    assert result.values["tls_chain_expiry_s"] > 0
    assert result.values["tls_days_left"] == pytest.approx(30)


async def test_an_expired_certificate_is_still_described(trust: Trust) -> None:
    leaf = trust.ca.issue_cert(
        "localhost", not_before=NOW - datetime.timedelta(days=9), not_after=NOW - datetime.timedelta(days=3)
    )
    async with peer(idle, server_context(leaf)) as port:
        result = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file))
        looked = await ask(TlsProbe(host=f"localhost:{port}", verify=False))
        judged = await ask(TlsProbe(host=f"localhost:{port}", verify=False, min_days=1))
    assert (result.reason, result.values["failed_check"]) == ("certificate", "expired")
    assert "expired" in result.message
    assert -3.1 < result.values["tls_days_left"] < -2.9
    assert result.values["tls_verified"] is False
    assert looked.success
    assert looked.values["tls_verified"] is False
    assert judged.values["failed_check"] == "expired"
    assert "expired 3.0 days ago" in judged.message


async def test_a_wrong_name(trust: Trust) -> None:
    async with peer(idle, trust.server("other.example")) as port:
        result = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file))
        right = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file, server_name="other.example"))
    assert (result.reason, result.values["failed_check"]) == ("certificate", "name")
    assert result.values["tls_names"] == ["other.example"]
    assert right.success


async def test_an_unknown_authority(trust: Trust, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with peer(idle, Trust(other).server()) as port:
        result = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file))
    assert (result.reason, result.values["failed_check"]) == ("certificate", "untrusted")
    assert result.values["tls_days_left"] > 0


async def test_a_self_signed_certificate(trust: Trust) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = authority.cert_pem.bytes() + authority.private_key_pem.bytes()
    both = Path(trust.ca_file).with_name("self.pem")
    both.write_bytes(pem)
    context.load_cert_chain(both)
    async with peer(idle, context) as port:
        result = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file))
    assert (result.reason, result.values["failed_check"]) == ("certificate", "self_signed")
    assert result.values["tls_subject"] == result.values["tls_issuer"]


async def test_versions(trust: Trust) -> None:
    context = trust.server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with peer(idle, context) as port:
        old = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file))
        refused = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file, min_version="1.3"))
    assert old.values["tls_version"] == "TLS 1.2"
    assert refused.reason == "tls"


async def test_a_client_certificate(trust: Trust, tmp_path: Path) -> None:
    context = trust.server()
    context.verify_mode = ssl.CERT_REQUIRED
    trust.ca.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the refusal only comes with the first answer
    ours = tmp_path / "ours.pem"
    trust.ca.issue_cert("dogwatch@example.org").private_key_and_cert_chain_pem.write_to_path(str(ours))
    async with peer(idle, context) as port:
        with_it = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file, cert_file=str(ours)))
        without = await ask(TlsProbe(host=f"localhost:{port}", ca_file=trust.ca_file))
    assert with_it.success, with_it.message
    assert without.reason in ("tls", "reset")


async def test_files_that_cannot_be_used(trust: Trust, tmp_path: Path) -> None:
    async with peer(idle, trust.server()) as port:
        missing = await ask(TlsProbe(host=f"localhost:{port}", ca_file="/nowhere/ca.pem"))
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("x")
        bad = await ask(TlsProbe(host=f"localhost:{port}", ca_file=str(garbage)))
    assert missing.reason == bad.reason == "local"
    assert "/nowhere/ca.pem" in missing.message


async def test_a_plain_server(trust: Trust) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    async with peer(plain) as port:
        result = await ask(TlsProbe(host=f"localhost:{port}"))
    assert result.reason == "tls"
    assert "handshake" in result.message
