"""Clients known by their certificates: a real TLS server, real certificates."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme
from tests.access import LOCAL, PASSWORD, site
from tests.certificates import Authority

from dogwatch.access.options import AccessOptions, CertificateBinding
from dogwatch.access.permissions import Rule
from dogwatch.web.options import TlsOptions
from dogwatch.web.tls import Shown, certificate_names

OPTIONS = AccessOptions(
    roles={"agent": (Rule(nouns=("probe",), labels={"team": "shop"}),)},
    certificates=(
        CertificateBinding(san="DNS:agent-*.example", roles=("agent",)),
        CertificateBinding(san="email:ann@example.org", user="ann"),
        CertificateBinding(san="email:gone@example.org", user="gone"),
    ),
)


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(ca: trustme.CA, tmp_path: Path) -> TlsOptions:
    leaf = ca.issue_cert("127.0.0.1", "localhost")
    (tmp_path / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return TlsOptions(
        certificate=str(tmp_path / "cert.pem"),
        key=str(tmp_path / "key.pem"),
        client_ca=str(tmp_path / "ca.pem"),
        client="optional",
    )


def context(ca: trustme.CA, leaf: trustme.LeafCert | None) -> ssl.SSLContext:
    found = ssl.create_default_context()
    ca.configure_trust(found)
    if leaf is not None:
        leaf.configure_cert(found)
    return found


async def test_a_certificate_stands_for_a_program_or_a_user(ca: trustme.CA, tls: TlsOptions, tmp_path: Path) -> None:
    async with site(tmp_path, OPTIONS, tls=tls) as web:
        await web.user("root", "admin")
        await web.user("ann", "viewer")
        url = web.url.replace("http://", "https://")

        def client(*names: str, other: trustme.CA | None = None) -> httpx.AsyncClient:
            leaf = (other or ca).issue_cert(*names) if names else None
            return httpx.AsyncClient(base_url=url, verify=context(ca, leaf), trust_env=False)

        async with client("agent-1.example") as agent:
            me = (await agent.get("/api/v1/me")).json()
            assert me["how"] == "certificate"
            assert me["user"] == ""
            names = {one["name"] for one in (await agent.get("/api/v1/targets")).json()["items"]}
            assert (
                names
                == {view.name for view in web.program.watch.targets() if view.labels.get("team") == "shop"}
                != set()
            )
            assert (await agent.post("/api/v1/targets/shop/pause")).status_code == 403
        async with client("ann@example.org") as ann:
            assert (await ann.get("/api/v1/me")).json()["user"] == "ann"
            assert (await ann.get("/api/v1/runs")).status_code == 200
            # A token says more clearly who asks, also one that does not hold.
            wrong = await ann.get("/api/v1/runs", headers={"authorization": "Bearer dw_wrong"})
            assert wrong.status_code == 401
        async with client("stranger.example") as stranger:
            assert (await stranger.get("/api/v1/targets")).status_code == 401
        async with client("gone@example.org") as gone:
            assert (await gone.get("/api/v1/targets")).status_code == 401
        async with client() as nobody:
            assert (await nobody.get("/api/v1/targets")).status_code == 401
            login = await nobody.post("/api/v1/login", json={"name": "ann", "password": PASSWORD})
            assert login.status_code == 200
        async with client("agent-1.example", other=trustme.CA()) as forged:
            with pytest.raises(httpx.HTTPError):
                await forged.get("/api/v1/targets")
        await web.access.set_disabled(LOCAL, "ann", disabled=True)
        async with client("ann@example.org") as ann:
            assert (await ann.get("/api/v1/me")).status_code == 401


def revocable(tmp_path: Path) -> tuple[Authority, TlsOptions]:
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("server", "127.0.0.1", "localhost")
    return authority, TlsOptions(
        certificate=str(certificate),
        key=str(key),
        client_ca=str(authority.folder / "ca.pem"),
        client_crl=str(authority.revoke()),
    )


def showing(authority: Authority, name: str) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
    found.load_cert_chain(authority.folder / f"{name}.pem", authority.folder / f"{name}.key")
    return found


async def test_a_revoked_certificate_is_nobodys_also_on_a_connection_that_is_open(tmp_path: Path) -> None:
    authority, tls = revocable(tmp_path)
    for name in ("good", "stolen", "before"):
        authority.issue(name, f"agent-{name}.example")
    authority.revoke("before")
    async with site(tmp_path, OPTIONS, tls=tls, request_timeout=60.0, keep_alive=60.0) as web:
        await web.user("root", "admin")
        url = web.url.replace("http://", "https://")

        async def status(name: str) -> int:
            async with httpx.AsyncClient(base_url=url, verify=showing(authority, name), trust_env=False) as client:
                return (await client.get("/api/v1/targets")).status_code

        assert await status("good") == 200
        with pytest.raises(httpx.HTTPError):
            await status("before")
        # An event stream and a kept connection, opened while the certificate was good.
        reader, writer = await asyncio.open_connection("127.0.0.1", web.running.port, ssl=showing(authority, "stolen"))
        events, sender = await asyncio.open_connection("127.0.0.1", web.running.port, ssl=showing(authority, "stolen"))
        head = b"GET /api/v1/%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(head % b"targets")
        assert b" 200 " in await reader.readline()
        sender.write(head % b"events")
        assert b" 200 " in await events.readline()
        authority.revoke("stolen")
        async with asyncio.timeout(60):
            await reader.read()
            await events.read()
        with pytest.raises((httpx.HTTPError, OSError)):
            await status("stolen")
        assert await status("good") == 200
        for one in (writer, sender):
            one.close()


async def test_certificates_that_are_over_or_begin_later_are_refused(tmp_path: Path) -> None:
    authority, tls = revocable(tmp_path)
    authority.issue("over", "agent-1.example", days=-1, begun=9)
    authority.issue("early", "agent-1.example", days=9, begun=-1)
    async with site(tmp_path, OPTIONS, tls=tls) as web:
        for name in ("over", "early"):
            verify = showing(authority, name)
            async with httpx.AsyncClient(base_url=web.url.replace("http:", "https:"), verify=verify) as client:
                with pytest.raises(httpx.HTTPError):
                    await client.get("/healthz")


async def test_a_list_that_is_over_lets_nobody_in(tmp_path: Path) -> None:
    """Whoever keeps the server from getting new lists must not gain by it."""
    authority, tls = revocable(tmp_path)
    authority.issue("good", "agent-1.example")
    authority.revoke(days=-1)
    async with site(tmp_path, OPTIONS, tls=tls) as web:
        verify = showing(authority, "good")
        async with httpx.AsyncClient(base_url=web.url.replace("http:", "https:"), verify=verify) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get("/healthz")


@pytest.mark.parametrize(
    ("verified_s", "until_s", "holds"), [(100.0, 200.0, True), (99.0, 200.0, False), (100.0, 150.0, False)]
)
def test_how_long_a_certificate_is_believed(verified_s: float, until_s: float, holds: bool) -> None:
    assert Shown(("CN:x",), verified_s, until_s).holds(since_s=100.0, now_s=150.0) is holds
    assert not Shown((), verified_s, until_s).holds(since_s=0.0, now_s=0.0)


@pytest.mark.parametrize(
    ("binding", "names", "fits"),
    [
        (CertificateBinding(subject="agent-*"), ("CN:agent-1",), True),
        (CertificateBinding(subject="agent-*"), ("DNS:agent-1",), False),
        (CertificateBinding(san="DNS:a.example"), ("CN:x", "DNS:a.example"), True),
        (CertificateBinding(san="DNS:a.example"), ("CN:DNS:a.example",), False),
        (CertificateBinding(subject="x", san="URI:spiffe://e/*"), ("CN:x", "URI:spiffe://e/agent"), True),
        (CertificateBinding(subject="x", san="URI:spiffe://e/*"), ("CN:y", "URI:spiffe://e/agent"), False),
    ],
)
def test_what_fits(binding: CertificateBinding, names: tuple[str, ...], fits: bool) -> None:
    assert binding.fits(names) is fits


def test_names_of_a_certificate() -> None:
    shown = {
        "subject": ((("countryName", "DE"),), (("commonName", "agent-1"),)),
        "subjectAltName": (("DNS", "a.example"), ("URI", "spiffe://e/x"), ("DNS", "line\nfeed")),
    }
    assert certificate_names(shown) == ("CN:agent-1", "DNS:a.example", "URI:spiffe://e/x")
    assert certificate_names({}) == certificate_names(None) == ()


def test_mistakes_of_the_configuration_are_found() -> None:
    from dogwatch.access.options import ACCESS

    check: Callable[[AccessOptions], object] | None = ACCESS.check
    assert check is not None
    wrong = AccessOptions(
        certificates=(CertificateBinding(roles=("viewer",)), CertificateBinding(subject="x"),
                      CertificateBinding(subject="x", roles=("viewr",)))
    )  # fmt: skip
    assert [fault.path for fault in check(wrong)] == [  # type: ignore[attr-defined]
        ("certificates", 0),
        ("certificates", 1),
        ("certificates", 2, "roles"),
    ]
