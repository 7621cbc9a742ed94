"""HTTPS: trust, names, expiry, resumption, client certificates; with every provider that is installed."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from pathlib import Path

import pytest
from http_servers import Authority, Writer, client, serving

from dogwatch.core.clock import ManualClock
from dogwatch.probes.engine.tls import TlsFailed, TlsPolicy, choose_provider
from dogwatch.probes.kinds.http import TlsOptions

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PROVIDERS = ["standard", "pyopenssl"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    if request.param == "pyopenssl":
        pytest.importorskip("OpenSSL", reason="pyOpenSSL is not installed")
    name: str = request.param
    return name


async def test_a_verified_connection_says_what_it_saw(authority: Authority, provider: str) -> None:
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
    async with serving(OK, authority.server(not_after=expires)) as server, client(tls=provider) as asker:
        result = await asker.ask(
            server.url, tls=TlsOptions(ca_file=authority.file), wants=("tls_names", "body"), fail_if_not_tls=True
        )
        assert result.success, result
        values = result.values
        assert (values["tls"], values["tls_version"], values["tls_resumed"]) == (True, "TLS 1.3", False)
        assert values["tls_expires_s"] == int(expires.timestamp())
        assert 29.9 < values["tls_days_left"] < 30
        asker.env.extra["clock"] = ManualClock(now_s=expires.timestamp() + 86400)
        later = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file), full_handshake_every=0.0)
        assert later.values["tls_days_left"] == pytest.approx(-1, abs=0.01)
        assert "localhost" in values["tls_names"]
        assert result.phases is not None
        assert result.phases.tls_s > 0
        assert (
            await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file), fail_if_tls=True)
        ).reason == "mismatch"


@pytest.mark.parametrize("fault", ["authority", "name", "expired"])
async def test_untrusted_certificates_fail_and_their_expiry_is_still_reported(
    authority: Authority, provider: str, tmp_path: Path, fault: str
) -> None:
    names = ("other.example",) if fault == "name" else ("localhost",)
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=-2 if fault == "expired" else 20)
    context = authority.server(*names, not_after=expires, not_before=expires - datetime.timedelta(days=5))
    (tmp_path / "other").mkdir()
    trusted = Authority(tmp_path / "other").file if fault == "authority" else authority.file
    async with serving(OK, context) as server, client(tls=provider) as asker:
        result = await asker.ask(server.url, tls=TlsOptions(ca_file=trusted), wants=("tls_names",))
        assert (result.success, result.reason) == (False, "certificate"), result
        assert result.message.startswith("certificate of localhost: ")
        word = {"authority": "issuer", "name": "localhost", "expired": "expired"}[fault]
        assert word in result.message
        assert result.values["tls_expires_s"] == int(expires.timestamp())
        assert result.values["tls_names"] == list(names)
        unverified = await asker.ask(server.url, tls=TlsOptions(verify=False))
        assert unverified.success, unverified
        assert unverified.values["tls_expires_s"] == int(expires.timestamp())


async def test_the_earliest_expiry_of_the_chain_counts(authority: Authority) -> None:
    async with serving(OK, authority.server()) as server, client() as asker:
        result = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file))
        assert result.success
    text = ssl.PEM_cert_to_DER_cert(authority.ca.cert_pem.bytes().decode())
    from dogwatch.probes.certificates import certificate_facts

    assert result.values["tls_expires_s"] <= certificate_facts(text).not_after_s


async def test_sessions_are_resumed_between_full_handshakes_and_not_after_a_failure(
    authority: Authority, provider: str
) -> None:
    status = 200

    async def script(_request: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)

    tls = TlsOptions(ca_file=authority.file)
    async with serving(script, authority.server()) as server, client(tls=provider) as asker:
        seen = [await asker.ask(server.url, tls=tls) for _ in range(3)]
        assert [result.values["tls_resumed"] for result in seen] == [False, True, True]
        assert server.resumed == [False, True, True]
        # What the full handshake showed stays known.
        assert {result.values["tls_expires_s"] for result in seen} == {seen[0].values["tls_expires_s"]}
        full = [await asker.ask(server.url, tls=tls, full_handshake_every=0.0) for _ in range(2)]
        assert [result.values["tls_resumed"] for result in full] == [False, False]
        short = [await asker.ask(server.url, tls=tls, full_handshake_every=0.05) for _ in range(2)]
        assert [result.values["tls_resumed"] for result in short] == [False, True]
        await asyncio.sleep(0.06)
        assert (await asker.ask(server.url, tls=tls, full_handshake_every=0.05)).values["tls_resumed"] is False
        metrics = {family.name: next(iter(family.series))[1] for family in asker.engine.metrics()}
        assert metrics["dogwatch_probe_engine_tls_resumed_total"] == 3
    async with client(tls=provider) as asker, serving(script, authority.server()) as server:
        port_url = server.url
        assert (await asker.ask(port_url, tls=tls)).success
        status = 500
        failed = await asker.ask(port_url, tls=tls)
        assert failed.reason == "status"
        status = 200
        after = await asker.ask(port_url, tls=tls)
        assert after.values["tls_resumed"] is False, "a full handshake follows every failure"


async def test_client_certificates(authority: Authority, provider: str) -> None:
    context = authority.server()
    authority.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.client_files()
    async with serving(OK, context) as server, client(tls=provider) as asker:
        with_it = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file, cert_file=cert, key_file=key))
        assert with_it.success, with_it
        without = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file))
        assert without.reason in {"tls", "reset"}, without


async def test_server_name_is_asked_for_and_checked(authority: Authority, provider: str) -> None:
    asked: list[str | None] = []
    context = authority.server("shop.example")
    context.sni_callback = lambda _object, name, _context: asked.append(name)
    async with serving(OK, context) as server, client(tls=provider) as asker:
        tls = TlsOptions(ca_file=authority.file, server_name="shop.example")
        result = await asker.ask(server.url, tls=tls)
    assert result.success, result
    assert asked == ["shop.example"]


async def test_no_tls_at_the_other_end(authority: Authority, provider: str) -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n") as server, client(tls=provider) as asker:
        result = await asker.ask(
            server.url.replace("http:", "https:"), timeout_s=1.0, tls=TlsOptions(ca_file=authority.file)
        )
        assert result.reason in {"tls", "timeout"}, result

    async def talk(reader: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listener, client(tls=provider) as asker:
        port = listener.sockets[0].getsockname()[1]
        result = await asker.ask(f"https://127.0.0.1:{port}/", tls=TlsOptions(ca_file=authority.file))
        assert result.reason == "tls", result


async def test_a_silent_handshake_ends_by_the_deadline(authority: Authority) -> None:
    held: list[Writer] = []
    listener = await asyncio.start_server(lambda _r, writer: held.append(writer), "127.0.0.1", 0)
    async with listener, client() as asker:
        port = listener.sockets[0].getsockname()[1]
        started_s = time.perf_counter()
        result = await asker.ask(f"https://127.0.0.1:{port}/", timeout_s=0.2, tls=TlsOptions(ca_file=authority.file))
        assert time.perf_counter() - started_s < 3
    for writer in held:
        writer.close()
    assert (result.reason, "TLS handshake" in result.message) == ("timeout", True)


async def test_versions_and_missing_files(authority: Authority, provider: str) -> None:
    context = authority.server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(OK, context) as server, client(tls=provider) as asker:
        old = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file))
        assert old.values["tls_version"] == "TLS 1.2", old
        again = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file))
        assert again.success, again
        new = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file, min_version="1.3"))
        assert new.reason == "tls"
        missing = await asker.ask(server.url, tls=TlsOptions(ca_file="/nowhere/ca.pem"))
        assert missing.reason == "local"
        assert "/nowhere/ca.pem" in missing.message


async def test_keep_alive_over_tls(authority: Authority, provider: str) -> None:
    async with serving(OK, authority.server()) as server, client(tls=provider) as asker:
        tls = TlsOptions(ca_file=authority.file)
        results = [await asker.ask(server.url, tls=tls, keep_alive=True) for _ in range(3)]
        assert [result.values["reused"] for result in results] == [False, True, True]
        assert all("tls_expires_s" in result.values for result in results)
        assert server.connections == 1


async def test_a_cut_without_goodbye_is_told_apart(authority: Authority, provider: str) -> None:
    async def cut(_request: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\npart of it")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.get_extra_info("socket").shutdown(2)

    async with serving(cut, authority.server()) as server, client(tls=provider) as asker:
        result = await asker.ask(server.url, tls=TlsOptions(ca_file=authority.file))
    assert result.reason in {"reset", "tls", "protocol"}, result
    assert not result.success


def test_providers_by_name() -> None:
    assert choose_provider("standard").name == "standard"
    assert choose_provider("auto").name in PROVIDERS


@pytest.mark.parametrize("provider", ["standard", "pyopenssl"])
async def test_a_file_that_is_not_there_is_named_with_its_reason(provider: str, tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    with pytest.raises(TlsFailed, match=rf"^cannot use {missing}: no such file or directory$"):
        choose_provider(provider).context(TlsPolicy(ca_file=str(missing)))
