"""One server for most tests of the fleet, and a dialer that reads nothing of this machine's own configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.fleet.planning import Site
from tests.integration.fleet.servers import USER, Sshd, sshd

from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as one:
        yield one


@pytest.fixture
def known_hosts(server: Sshd, tmp_path: Path) -> Path:
    path = tmp_path / "known_hosts"
    path.write_text(server.known_line())
    return path


@pytest.fixture
async def dialer(known_hosts: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SshDialer]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    one = SshDialer(SshOptions(configs=(), known_hosts=(str(known_hosts),), connect_timeout_s=30.0))
    yield one
    await one.close()


@pytest.fixture
def login(server: Sshd) -> Login:
    return Login(host="web1", address="127.0.0.1", port=server.port, user=USER, key=str(server.key))


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Command lines keep their runs in a folder of the test."""
    monkeypatch.setenv("DOGWATCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def site(tmp_path: Path, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOGWATCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Site(tmp_path, server)
