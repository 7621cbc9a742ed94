"""What a server's context trusts once its files have changed, and connections that end for it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.certificates import Authority
from uvicorn.server import ServerState

from dogwatch.web.options import TlsOptions
from dogwatch.web.protocol import HttpProtocol
from dogwatch.web.tls import Shown, Tls


@pytest.fixture
def first(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "first")


@pytest.fixture
def options(first: Authority, tmp_path: Path) -> TlsOptions:
    certificate, key = first.issue("server", "127.0.0.1", "localhost")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(first.ca.cert_pem.bytes())
    return TlsOptions(certificate=str(certificate), key=str(key), client_ca=str(trusted))


def shakes(tls: Tls, client: Authority, server: Authority, name: str, *, hostname: str | None) -> bool:
    """Return whether a handshake with this certificate is fine. hostname: None sends no SNI."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(server.folder / "ca.pem")
    context.load_cert_chain(client.folder / f"{name}.pem", client.folder / f"{name}.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(to_client, to_server, server_hostname=hostname),
        tls.context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
            ends.remove(end)
    return not ends


@pytest.mark.parametrize("hostname", ["localhost", None])
def test_an_authority_that_was_taken_out_is_trusted_no_more(
    first: Authority, options: TlsOptions, tmp_path: Path, hostname: str | None
) -> None:
    second = Authority(tmp_path / "second")
    first.issue("old", "agent-1.example")
    second.issue("new", "agent-1.example")
    told: list[bool] = []
    tls = Tls(options, lambda: told.append(True))
    assert shakes(tls, first, first, "old", hostname=hostname)
    assert not shakes(tls, second, first, "new", hostname=hostname)
    Path(options.client_ca).write_bytes(second.ca.cert_pem.bytes() * 2)
    assert tls.refresh()
    assert told == [True]
    assert shakes(tls, second, first, "new", hostname=hostname)
    assert not shakes(tls, first, first, "old", hostname=hostname)
    Path(options.client_ca).write_text("broken")
    assert not tls.refresh()
    assert shakes(tls, second, first, "new", hostname=hostname)


def changed(options: TlsOptions) -> None:
    file = Path(options.client_ca)
    file.write_bytes(file.read_bytes() * 2)


async def test_looking_at_the_files_outlives_any_mistake(options: TlsOptions) -> None:
    again = asyncio.Event()
    times: list[bool] = []

    def on_trust() -> None:
        times.append(True)
        if len(times) == 1:
            raise KeyError("path")
        again.set()

    tls = Tls(options, on_trust, look_s=0.01)
    changed(options)
    looking = asyncio.create_task(tls.keep_fresh())
    try:
        async with asyncio.timeout(60):
            await again.wait()
    finally:
        looking.cancel()
        await asyncio.wait([looking])


class Wire(asyncio.Transport):
    closed = False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_a_head_that_is_half_there_does_not_keep_others_from_being_verified_anew() -> None:
    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        """Is never asked."""

    config = uvicorn.Config(application, http=HttpProtocol, ws="none", lifespan="off", log_config=None)
    config.load()
    connection = HttpProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    wire = Wire()
    connection.connection_made(wire)
    connection._shown = Shown(("CN:agent",), 0.0, float("inf"))
    connection.data_received(b"GET /api/v1/ta")
    connection.end_if_shown()
    assert not wire.closed
    connection.connection_lost(None)
