"""Connections to real servers: what goes well, and each way to go wrong under a word of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.fleet.servers import Sshd, free_port, make_key, sshd

from dogwatch.fleet.connection import HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.general import GeneralConnection
from dogwatch.fleet.connections.lean.dialer import LeanConnection
from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login


@pytest.fixture(params=["lean", "general"])
def lane(request: pytest.FixtureRequest) -> str:
    """Both ways to speak SSH end alike."""
    return str(request.param)


def dial(lane: str, **options: Any) -> SshDialer:
    return SshDialer(SshOptions(**{"configs": (), "lean": lane == "lean", **options}))


@pytest.fixture
async def dialer(lane: str, known_hosts: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SshDialer]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    one = dial(lane, known_hosts=(str(known_hosts),), connect_timeout_s=30.0)
    yield one
    await one.close()


def changed(login: Login, **options: object) -> Login:
    return msgspec.structs.replace(login, **options)


async def refusal(dialer: SshDialer, login: Login) -> HostFailed:
    with pytest.raises(HostFailed) as caught:
        await dialer.open(login)
    return caught.value


async def test_each_lane_is_taken(lane: str, dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    connection = await dialer.open(login)
    assert isinstance(connection, LeanConnection if lane == "lean" else GeneralConnection)
    await connection.close()
    # What a configuration says of this host decides; what cannot be known without running something does, too.
    for text, kind in (
        ("Host *\n SendEnv LANG\n", LeanConnection),
        ("Host x*\n Ciphers aes128-ctr\n", LeanConnection),
        ("Host *\n RekeyLimit 1G\n", GeneralConnection),
        ("Match exec true\n User ada\n", GeneralConnection),
    ):
        config = tmp_path / "config"
        config.write_text(text)
        other = SshDialer(msgspec.structs.replace(dialer._options, configs=(str(config),)))
        connection = await other.open(login)
        assert isinstance(connection, kind if lane == "lean" else GeneralConnection)
        await connection.close()
        await other.close()


async def test_commands_share_a_connection(dialer: SshDialer, login: Login) -> None:
    connection = await dialer.open(login)
    first = await connection.run(RemoteCommand(script="echo out; echo err >&2; exit 3"))
    second = await connection.run(RemoteCommand(script='printf %s "$GREETING"', env={"GREETING": "it's $HOME"}))
    await connection.close()
    assert (first.state, first.exit_code, first.stdout, first.stderr) == (State.NON_ZERO, 3, b"out\n", b"err\n")
    assert (second.state, second.stdout) == (State.SUCCEEDED, b"it's $HOME")


@pytest.mark.parametrize(
    "script", ["printf '%s' 'a!b\\n'", "printf '%s\n' one\nprintf 'zwei ü'", 'x="\'"; printf %s "$x"', "printf %s \\\\"]
)
async def test_scripts_arrive_as_they_are(dialer: SshDialer, login: Login, script: str) -> None:
    here = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE)
    expected, _ = await here.communicate()
    connection = await dialer.open(login)
    ended = await connection.run(RemoteCommand(script=script))
    await connection.close()
    assert ended.stdout == expected


async def test_stdin_goes_through_and_files_are_put_whole(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 10_000

    connection = await dialer.open(login)
    target = tmp_path / "it's a file"
    ended = await connection.put(pieces(), str(target), size=1_000_000, mode=0o640)
    short = await connection.put(pieces(), str(target), size=1_000_001)
    back = bytearray()
    await connection.get(str(target), back.extend)
    missing = await connection.get(str(tmp_path / "absent"), back.extend)
    await connection.close()
    assert ended.state is State.SUCCEEDED
    assert (short.state, b"not arrive whole" in short.stderr) == (State.NON_ZERO, True)
    assert len(back) == 1_000_000
    assert bytes(back) == target.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o640
    assert missing.state is State.NON_ZERO
    assert "it's a file" in os.listdir(tmp_path)  # noqa: PTH208
    assert "it's a file.dogwatch-part" not in os.listdir(tmp_path)  # noqa: PTH208


async def test_dead_port_is_refused(dialer: SshDialer, login: Login) -> None:
    assert (await refusal(dialer, changed(login, port=free_port()))).state is State.REFUSED


async def test_a_name_that_is_none_is_unreachable(dialer: SshDialer, login: Login) -> None:
    assert (await refusal(dialer, changed(login, address="host.invalid"))).state is State.UNREACHABLE


async def test_a_server_that_never_answers_times_out_and_says_where(lane: str, known_hosts: Path, login: Login) -> None:
    dialer = dial(lane, known_hosts=(str(known_hosts),), connect_timeout_s=0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error = await refusal(dialer, changed(login, port=silent.getsockname()[1]))
    assert error.state is State.TIMED_OUT
    assert "waiting for its banner" in str(error)


async def test_swapped_keys_are_wrong_and_absent_ones_unknown(
    lane: str, server: Sshd, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with sshd(tmp_path / "other", authorized=server.key) as other:
        swapped = tmp_path / "swapped"
        swapped.write_text(
            server.known_line().replace(str(server.port), str(other.port))
            + other.known_line().replace(str(other.port), str(server.port))
        )
        empty = tmp_path / "none"
        for accept in (False, True):
            dialer = dial(lane, known_hosts=(str(swapped),), accept_new=accept)
            for port in (server.port, other.port):
                assert (await refusal(dialer, changed(login, port=port))).state is State.WRONG_HOST_KEY
        strict = dial(lane, known_hosts=(str(empty),))
        assert (await refusal(strict, login)).state is State.UNKNOWN_HOST_KEY
        assert not empty.exists()
        taking = dial(lane, known_hosts=(str(empty),), accept_new=True)
        await (await taking.open(login)).close()
        await (await taking.open(login)).close()
        assert empty.read_text().count("\n") == 1
        # Kept: another process trusts it without being told to, and the same address with another key is refused.
        later = dial(lane, known_hosts=(str(empty),))
        await (await later.open(login)).close()
        empty.write_text(empty.read_text().replace(str(server.port), str(other.port)))
        changed_key = dial(lane, known_hosts=(str(empty),), accept_new=True)
        assert (await refusal(changed_key, changed(login, port=other.port))).state is State.WRONG_HOST_KEY


async def test_known_hosts_none_trusts_nobody(lane: str, login: Login, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    dialer = dial(lane, configs=(str(config),))
    assert (await refusal(dialer, login)).state is State.UNKNOWN_HOST_KEY


async def test_a_wrong_key_and_a_wrong_password_do_not_log_in(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    assert (await refusal(dialer, changed(login, key=str(stranger)))).state is State.AUTHENTICATION_FAILED
    wrong = changed(login, key=str(stranger), password="wrong-password-9")
    error = await refusal(dialer, wrong)
    assert error.state is State.AUTHENTICATION_FAILED
    assert "wrong-password-9" not in f"{error}{error.hint}"


async def test_a_key_file_that_is_not_there_is_our_fault(dialer: SshDialer, login: Login) -> None:
    assert (await refusal(dialer, changed(login, key="/nowhere/id"))).state is State.MISCONFIGURED


async def test_a_hung_command_is_ended_there_too(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    connection = await dialer.open(login)
    beat = tmp_path / "beat"
    script = f"while :; do echo x >> {beat}; sleep 0.05; done"
    ended = await connection.run(RemoteCommand(script=script, timeout_s=1.5))
    size = beat.stat().st_size
    after = await connection.run(RemoteCommand(script="sleep 0.3; echo alive"))
    await connection.close()
    assert (ended.state, after.stdout) == (State.TIMED_OUT, b"alive\n")
    assert "1.5" in ended.note or "1500" in ended.note
    assert size > 0
    assert beat.stat().st_size == size


async def test_a_command_that_ignores_term_is_killed(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    connection = await dialer.open(login)
    beat = tmp_path / "beat"
    script = f"trap '' TERM; while :; do echo x >> {beat}; sleep 0.05; done"
    ended = await connection.run(RemoteCommand(script=script, timeout_s=1.5, grace_s=0.2))
    size = beat.stat().st_size
    await connection.run(RemoteCommand(script="sleep 0.3"))
    await connection.close()
    assert (ended.state, beat.stat().st_size) == (State.TIMED_OUT, size)
    assert "may still run" not in ended.note


async def test_a_login_shell_that_runs_nothing_is_told(lane: str, login: Login, tmp_path: Path, server: Sshd) -> None:
    with sshd(tmp_path / "forced", more="ForceCommand echo only backups here >&2", authorized=server.key) as forced:
        known = tmp_path / "known"
        known.write_text(forced.known_line())
        dialer = dial(lane, known_hosts=(str(known),))
        connection = await dialer.open(changed(login, port=forced.port))
        with pytest.raises(HostFailed) as caught:
            await connection.run(RemoteCommand(script="true"))
        await connection.close()
    assert caught.value.state is State.MISCONFIGURED
    assert "only backups here" in str(caught.value)


async def test_cancelling_ends_the_remote_command(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    connection = await dialer.open(login)
    beat = tmp_path / "beat"
    running = asyncio.create_task(
        connection.run(RemoteCommand(script=f"while :; do echo x >> {beat}; sleep 0.05; done"))
    )
    while not beat.exists():  # noqa: ASYNC110 another process makes it
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    size = beat.stat().st_size
    await connection.run(RemoteCommand(script="sleep 0.3"))
    await connection.close()
    assert beat.stat().st_size == size


async def test_floods_are_bounded_and_counted(dialer: SshDialer, login: Login) -> None:
    connection = await dialer.open(login)
    script = "echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last"
    ended = await connection.run(RemoteCommand(script=script, limit_bytes=10_000))
    await connection.close()
    assert ended.state is State.SUCCEEDED
    assert ended.stdout.startswith(b"first\nxxx")
    assert ended.stdout.endswith(b"xxx\nlast\n")
    assert len(ended.stdout) < 10_100
    assert ended.cut == (20_000_012 - 10_000, 0)


async def test_a_killed_server_loses_the_connection(lane: str, tmp_path: Path, server: Sshd, login: Login) -> None:
    with sshd(tmp_path / "dying", authorized=server.key) as dying:
        known = tmp_path / "known"
        known.write_text(dying.known_line())
        dialer = dial(lane, known_hosts=(str(known),))
        connection = await dialer.open(changed(login, port=dying.port))
        begun = asyncio.Event()
        running = asyncio.create_task(
            connection.run(RemoteCommand(script="echo begun; sleep 60"), lambda _stream, _data: begun.set())
        )
        await begun.wait()
        dying.kill()
        with pytest.raises(HostFailed) as caught:
            await running
        await connection.close()
    assert caught.value.state is State.LOST
    assert "may still run" in str(caught.value)


async def test_openssh_configuration_and_jump_hosts(lane: str, server: Sshd, login: Login, tmp_path: Path) -> None:
    with sshd(tmp_path / "inner", authorized=server.key) as inner:
        known = tmp_path / "known"
        known.write_text(server.known_line() + inner.known_line())
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {server.port}\n"
            f"Host deep*\n  HostName 127.0.0.1\n  Port {inner.port}\n  ProxyJump gate\n"
            f"Host *\n  User {login.user}\n  IdentityFile {server.key}\n  UserKnownHostsFile {known}\n"
        )
        dialer = dial(lane, configs=(str(config),))
        ended = []
        for name in ("deep1", "deep2"):
            connection = await dialer.open(Login(host=name))
            ended.append(await connection.run(RemoteCommand(script="echo $SSH_CONNECTION")))
            await connection.close()
        await dialer.close()
    ports = [one.stdout.split()[3].decode() for one in ended]
    assert ports == [str(inner.port)] * 2


async def test_a_dead_jump_host_is_named(dialer: SshDialer, login: Login) -> None:
    error = await refusal(dialer, changed(login, jump=f"127.0.0.1:{free_port()}"))
    assert error.state is State.REFUSED
    assert "jump host" in str(error)
    await dialer.close()
