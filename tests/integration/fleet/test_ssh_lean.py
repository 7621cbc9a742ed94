"""The lean lane against servers of every kind that it takes, and against those that it has to leave or to refuse."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import msgspec
import pytest
from tests.integration.fleet.servers import Sshd, sshd

from dogwatch.fleet.connection import HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.general import GeneralConnection
from dogwatch.fleet.connections.lean import transport as lean_transport
from dogwatch.fleet.connections.lean.dialer import LeanConnection
from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login


def key_of(folder: Path, name: str, kind: str, *more: str) -> Path:
    path = folder / name
    words = ["ssh-keygen", "-q", "-t", kind, *more, "-N", "", "-f", path]
    subprocess.run(words, check=True, timeout=60)
    return path


@contextlib.asynccontextmanager
async def opened(server: Sshd, login: Login, known: str, **options: object) -> AsyncIterator[object]:
    file = server.folder / "known_here"
    file.write_text(known)
    dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(file),), connect_timeout_s=10.0, **options))
    connection = await dialer.open(msgspec.structs.replace(login, port=server.port))
    try:
        yield connection
    finally:
        await connection.close()
        await dialer.close()


HOST_KEYS = {
    "ecdsa-256": ("ecdsa", "-b", "256"),
    "ecdsa-384": ("ecdsa", "-b", "384"),
    "ecdsa-521": ("ecdsa", "-b", "521"),
    "rsa": ("rsa", "-b", "2048"),
}


@pytest.mark.parametrize("kind", HOST_KEYS)
async def test_every_kind_of_key_on_both_sides(kind: str, tmp_path: Path, login: Login) -> None:
    user = key_of(tmp_path, "user", *HOST_KEYS[kind])
    host = key_of(tmp_path, "host", *HOST_KEYS[kind])
    with sshd(tmp_path / "srv", authorized=user, more=f"HostKey {host}") as server:
        words = host.with_suffix(".pub").read_text().split()[:2]
        known = f"[127.0.0.1]:{server.port} {' '.join(words)}\n"
        # The server has an ed25519 key, too: it is asked for the one that it is known by.
        async with opened(server, msgspec.structs.replace(login, key=str(user)), known) as connection:
            assert isinstance(connection, LeanConnection)
            assert (await connection.run(RemoteCommand(script="echo in"))).stdout == b"in\n"


@pytest.mark.parametrize(
    "more",
    [
        "Ciphers aes256-gcm@openssh.com",
        "RekeyLimit 64K",
        "Ciphers aes128-gcm@openssh.com\nRekeyLimit 1M\nPrintMotd yes\nBanner /etc/hostname",
    ],
)
async def test_servers_that_change_keys_on_the_way(more: str, tmp_path: Path, server: Sshd, login: Login) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"y" * 50_000

    with sshd(tmp_path / "srv", authorized=server.key, more=more) as one:
        async with opened(one, login, one.known_line()) as connection:
            assert isinstance(connection, LeanConnection)
            sent = RemoteCommand(script="cat | wc -c; head -c 3000000 /dev/zero", stdin=pieces(), limit_bytes=8_000_000)
            ended = await connection.run(sent)
    assert ended.stdout == b"2000000\n" + b"\0" * 3_000_000


async def test_it_changes_keys_by_itself(server: Sshd, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_transport, "_REKEY_BYTES", 100_000)
    async with opened(server, login, server.known_line()) as connection:
        script = "head -c 3000000 /dev/zero"
        ended = await connection.run(RemoteCommand(script=script, limit_bytes=8_000_000))
        assert len(ended.stdout) == 3_000_000
        session = connection._transport
        assert session._opener.bytes < 3_000_000
        assert (await connection.run(RemoteCommand(script="echo on"))).stdout == b"on\n"


@pytest.mark.parametrize("more", ["Ciphers aes256-ctr", "KexAlgorithms ecdh-sha2-nistp256"])
async def test_older_servers_go_by_the_other_lane(more: str, tmp_path: Path, server: Sshd, login: Login) -> None:
    with sshd(tmp_path / "srv", authorized=server.key, more=more) as one:
        async with opened(one, login, one.known_line()) as connection:
            assert isinstance(connection, GeneralConnection)
            assert (await connection.run(RemoteCommand(script="echo in"))).stdout == b"in\n"


async def test_hashed_and_revoked_and_patterns(server: Sshd, login: Login, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(server.known_line())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, timeout=30)  # noqa: ASYNC221
    hashed = file.read_text()
    assert hashed.startswith("|1|")
    plain = server.known_line()
    key = plain.split(None, 1)[1]
    for text in (hashed, f"[127.0.0.?]:* {key}", f"127.0.0.1 {key}", f"other,[127.0.0.1]:{server.port} {key}"):
        async with opened(server, login, text) as connection:
            assert isinstance(connection, LeanConnection), text
    for text, state in (
        (f"{plain}@revoked * {key}", State.WRONG_HOST_KEY),
        (f"*,!127.0.0.1,![127.0.0.1]:{server.port} {key}", State.UNKNOWN_HOST_KEY),
    ):
        for lean in (True, False):
            with pytest.raises(HostFailed) as caught:
                async with opened(server, login, text, lean=lean):
                    pass
            assert caught.value.state is state, (text, lean)


@contextlib.asynccontextmanager
async def other_server(key: asyncssh.SSHKey, user: Path, **options: object) -> AsyncIterator[int]:
    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write((process.command or "").partition("echo ")[2].partition("$$")[0].encode() + b"7\n")
        await process.stdin.read(1)
        process.stdout.write(b"here\n")
        process.exit(5)

    server = await asyncssh.create_server(
        asyncssh.SSHServer,
        "127.0.0.1",
        0,
        server_host_keys=[key],
        authorized_client_keys=str(user.with_suffix(".pub")),
        process_factory=handle,
        encoding=None,
        **options,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_an_exchange_that_is_safe_against_quantum_computers(server: Sshd, login: Login, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with other_server(key, server.key, kex_algs=["mlkem768x25519-sha256"]) as port:
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),)))
        connection = await dialer.open(msgspec.structs.replace(login, port=port))
        assert isinstance(connection, LeanConnection)
        ended = await connection.run(RemoteCommand(script="true"))
        await connection.close()
        await dialer.close()
    assert (ended.exit_code, ended.stdout) == (5, b"here\n")
