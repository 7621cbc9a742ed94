"""Servers and networks that misbehave, logins of every kind, and names that nothing may obey."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncssh
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.fleet.servers import Sshd, make_key, sshd

from dogwatch.fleet.connection import Become, HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.local import LocalConnection
from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
from dogwatch.fleet.login import Login
from dogwatch.fleet.pool import Pool
from dogwatch.fleet.scripts import script_command
from dogwatch.fleet.session import CommandFailed, Session, session

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def changed(login: Login, **options: object) -> Login:
    return msgspec.structs.replace(login, **options)


async def said(dialer: SshDialer, login: Login, script: str) -> bytes:
    connection = await dialer.open(login)
    try:
        return (await connection.run(RemoteCommand(script=script))).stdout
    finally:
        await connection.close()


# -- servers ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[object]] = set()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _hangs_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await writer.drain()


async def _speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    await reader.read(100)


async def _floods(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(10_000):
        writer.write(b"x" * 10_000)
        await writer.drain()


async def _stops_in_the_key_exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await writer.drain()
    await reader.read(10_000)
    await asyncio.sleep(60)


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize(
    ("answer", "states"),
    [
        (_hangs_up, {State.LOST}),
        (_speaks_http, {State.LOST}),
        (_floods, {State.LOST}),
        (_stops_in_the_key_exchange, {State.TIMED_OUT}),
    ],
)
async def test_what_is_no_server_is_told_in_time(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    states: set[State],
    login: Login,
    lean: bool,
) -> None:
    dialer = SshDialer(SshOptions(configs=(), connect_timeout_s=1.5, lean=lean))
    async with listening(answer) as port:
        async with asyncio.timeout(30):
            with pytest.raises(HostFailed) as caught:
                await dialer.open(changed(login, port=port))
    await dialer.close()
    assert caught.value.state in states, caught.value
    assert str(port) in str(caught.value)


@contextlib.asynccontextmanager
async def password_server(folder: Path, *, drop: bool = False) -> AsyncIterator[tuple[int, Path]]:
    """A server that takes a password and nothing else. drop: it closes when the command has begun."""
    key = asyncssh.generate_private_key("ssh-ed25519")

    class Server(asyncssh.SSHServer):
        def public_key_auth_supported(self) -> bool:
            return False

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == "right it's"

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        pipe = asyncio.subprocess.PIPE
        shell = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command or "", stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert shell.stdin is not None

        async def forward(source: asyncio.StreamReader | None, sink: asyncssh.SSHWriter[bytes]) -> None:
            while source is not None and (data := await source.read(4096)):
                sink.write(data)

        reading = asyncio.gather(forward(shell.stdout, process.stdout), forward(shell.stderr, process.stderr))
        with contextlib.suppress(asyncssh.BreakReceived, asyncssh.ConnectionLost):
            shell.stdin.write(await process.stdin.read(1))  # the word that it may begin
        if drop:
            await asyncio.sleep(0.3)
            process.channel.get_connection().abort()
            os.killpg(shell.pid, signal.SIGKILL)
        shell.stdin.close()
        await reading
        code = await shell.wait()
        if not drop:
            process.exit(code)

    server = await asyncssh.create_server(
        Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=handle, encoding=None
    )
    port = server.sockets[0].getsockname()[1]
    known = folder / "known_password"
    known.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    try:
        yield port, known
    finally:
        server.close()
        await server.wait_closed()


async def test_a_password_alone_logs_in_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    async with password_server(tmp_path) as (port, known):
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),), connect_timeout_s=5.0))
        there = Login(host="web1", address="127.0.0.1", port=port, user="ada", password="right it's")
        assert await said(dialer, there, "echo in") == b"in\n"
        with pytest.raises(HostFailed) as caught:
            await dialer.open(changed(there, password="wrong"))
        assert (caught.value.state, "wrong" in str(caught.value)) == (State.AUTHENTICATION_FAILED, False)
        await dialer.close()


async def test_a_server_that_closes_in_the_middle_of_a_command(tmp_path: Path) -> None:
    async with password_server(tmp_path, drop=True) as (port, known):
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),), connect_timeout_s=5.0))
        there = Login(host="web1", address="127.0.0.1", port=port, user="ada", password="right it's")
        connection = await dialer.open(there)
        with pytest.raises(HostFailed, match="may still run there") as caught:
            await connection.run(RemoteCommand(script="sleep 20", timeout_s=10))
        assert caught.value.state is State.LOST
        await connection.close()
        await dialer.close()


async def test_an_agent_holds_the_key(
    server: Sshd, login: Login, known_hosts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    socket = tmp_path / "agent"
    command = ["ssh-agent", "-D", "-a", socket]
    agent = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        for _ in range(100):
            if socket.exists():
                break
            await asyncio.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", server.key], check=True)  # noqa: ASYNC221
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known_hosts),), connect_timeout_s=5.0))
        assert await said(dialer, changed(login, key=None), "echo in") == b"in\n"
        await dialer.close()
    finally:
        agent.terminate()
        agent.wait()


def _signed(folder: Path, authority: Path, name: str, *more: str) -> Path:
    key = make_key(folder / name)
    sign = ["ssh-keygen", "-q", "-s", authority, "-I", name, *more, key.with_suffix(".pub")]
    subprocess.run(sign, check=True, timeout=30)
    return key


async def test_certificates_of_users_and_of_hosts(tmp_path: Path, login: Login) -> None:
    authority = make_key(tmp_path / "authority")
    (tmp_path / "srv").mkdir()
    with sshd(tmp_path / "srv", more=f"TrustedUserCAKeys {authority}.pub") as one:
        user = _signed(tmp_path, authority, "user", "-n", login.user or "root")
        known = tmp_path / "known"
        known.write_text(one.known_line())
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),), connect_timeout_s=5.0))
        there = changed(login, port=one.port, key=str(user), options={"certificatefile": f"{user}-cert.pub"})
        assert await said(dialer, there, "echo in") == b"in\n"
        with pytest.raises(HostFailed) as caught:
            await dialer.open(changed(there, options={}, key=str(make_key(tmp_path / "plain"))))
        assert caught.value.state is State.AUTHENTICATION_FAILED
        expired = _signed(tmp_path, authority, "old", "-n", login.user or "root", "-V", "20200101:20200102")
        with pytest.raises(HostFailed):
            await dialer.open(changed(there, key=str(expired), options={"certificatefile": f"{expired}-cert.pub"}))
        await dialer.close()


# -- hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["fish", "tcsh", "sh"])
async def test_login_shells_that_are_not_posix(shell: str, tmp_path: Path, server: Sshd, login: Login) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    forced = f'ForceCommand {program} -c "$SSH_ORIGINAL_COMMAND"'
    with sshd(tmp_path / "other", authorized=server.key, more=forced) as other:
        known = tmp_path / "known"
        known.write_text(other.known_line())
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),), connect_timeout_s=5.0))
        there = changed(login, port=other.port)
        script = "x='a!b'; for i in 1 2; do printf '%s\\n' \"$x $i\"; done; echo \"\\\\\" '$HOME' `echo t`"
        assert await said(dialer, there, script) == b"a!b 1\na!b 2\n\\ $HOME t\n"
        await dialer.close()


@ROOT
async def test_a_full_disk_leaves_the_old_file_and_no_rest(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:  # noqa: ASYNC221
        pytest.skip("tmpfs cannot be mounted here")
    try:
        pool = Pool(dialer)
        async with session(pool, login) as host:
            await host.write(f"{disk}/file", b"old")
            with pytest.raises(CommandFailed, match="No space left"):
                await host.write(f"{disk}/file", b"x" * 200_000)
            assert await host.read(f"{disk}/file") == b"old"
            assert os.listdir(disk) == ["file"]  # noqa: PTH208
        await pool.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)  # noqa: ASYNC221


async def test_no_sudo_there_is_told(dialer: SshDialer, login: Login) -> None:
    if shutil.which("sudo"):
        pytest.skip("sudo is installed")
    connection = await dialer.open(login)
    with pytest.raises(HostFailed) as caught:
        await connection.run(RemoteCommand(script="echo no", become=Become()))
    await connection.close()
    assert (caught.value.state, "not found" in str(caught.value)) == (State.BECOME_FAILED, True)


@contextlib.asynccontextmanager
async def slow_link(port: int, *, bytes_per_s: float, delay_s: float) -> AsyncIterator[int]:
    """A relay to a server that is as slow as a bad line."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1024):
                await asyncio.sleep(delay_s + len(data) / bytes_per_s)
                sink.write(data)
                await sink.drain()
            sink.close()

        try:
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        finally:
            there_writer.close()

    async with listening(relay) as found:
        yield found


async def test_a_slow_link_is_slow_and_its_deadline_holds(server: Sshd, login: Login, tmp_path: Path) -> None:
    known = tmp_path / "known"
    async with slow_link(server.port, bytes_per_s=40_000, delay_s=0.02) as port:
        known.write_text(server.known_line().replace(str(server.port), str(port)))
        dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known),), connect_timeout_s=10.0))
        pool = Pool(dialer)
        there = changed(login, port=port)
        async with session(pool, there) as host:
            assert len(await host.must("head -c 20000 /dev/zero")) == 20_000
            with pytest.raises(CommandFailed, match="took longer than 1s"):
                await host.write(str(tmp_path / "big"), b"x" * 200_000, timeout_s=1.0)
        await pool.close()
    async with asyncio.timeout(30):
        while any("dogwatch-" in name for name in os.listdir(tmp_path)):  # noqa: ASYNC110, PTH208
            await asyncio.sleep(0.1)
    # All of it may have been on the way already: then it is whole.
    assert not (tmp_path / "big").exists() or (tmp_path / "big").stat().st_size == 200_000


# -- names -----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=60)
HOSTILE = st.one_of(
    TEXT,
    st.sampled_from(
        ["$(touch BAD)", "`touch BAD`", "'; touch BAD; '", '"; touch BAD; "', "\n touch BAD\n", "-rf", "!!", "\\"]
    ),
)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(value=HOSTILE, argument=HOSTILE)
async def test_values_and_arguments_arrive_as_they_are(value: str, argument: str, tmp_path: Path) -> None:
    connection = LocalConnection()
    command = RemoteCommand(script=f'cd {tmp_path} && printf %s "$V"', env={"V": value})
    ended = await connection.run(command)
    assert ended.stdout == value.encode()

    async def text() -> AsyncIterator[bytes]:
        yield b'printf %s "$1"'

    script = script_command(b'printf %s "$1"', [argument])
    ended = await connection.run(RemoteCommand(script=script, stdin=text()))
    assert ended.stdout == argument.encode()
    assert "BAD" not in os.listdir(tmp_path)  # noqa: PTH208


@QUICK
@given(name=HOSTILE.filter(lambda text: text not in ("", ".", "..") and "/" not in text and len(text.encode()) < 120))
async def test_files_are_named_as_they_are(name: str, tmp_path: Path) -> None:
    host = Session(Login(host="here"), LocalConnection())
    path = f"{tmp_path}/{name}"
    await host.write(path, b"content")
    assert await host.read(path) == b"content"
    found = await host.stat(path)
    assert found is not None
    assert found.size == 7
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208
    (tmp_path / name).unlink()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=HOSTILE)
async def test_and_over_ssh(value: str, dialer: SshDialer, login: Login) -> None:
    connection = await dialer.open(login)
    ended = await connection.run(RemoteCommand(script='printf %s "$V"', env={"V": value}))
    await connection.close()
    assert ended.stdout == value.encode()


@pytest.mark.parametrize("name", ["-oProxyCommand=touch BAD", "$(touch BAD)", "a;touch BAD", "a b", "../up", "`id`"])
def test_hosts_with_such_names_reach_no_shell(name: str, tmp_path: Path) -> None:
    (tmp_path / "dogwatch.yaml").write_text(msgspec.json.encode({"fleet": {"hosts": {name: {}}}}).decode())
    words = ["fleet", "run", "true", "-c", "dogwatch.yaml", "-t", "all", "--connect-timeout", "1s"]
    done = subprocess.run(
        [sys.executable, "-m", "dogwatch", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2), done.stderr
    assert not (tmp_path / "BAD").exists()


@pytest.fixture
def frozen(server: Sshd) -> Iterator[Sshd]:
    yield server
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGCONT)


async def test_a_server_that_stands_still_before_its_banner(frozen: Sshd, login: Login, known_hosts: Path) -> None:
    assert frozen.process is not None
    os.kill(frozen.process.pid, signal.SIGSTOP)
    dialer = SshDialer(SshOptions(configs=(), known_hosts=(str(known_hosts),), connect_timeout_s=0.5))
    with pytest.raises(HostFailed) as caught:
        await dialer.open(login)
    await dialer.close()
    assert (caught.value.state, "waiting for its banner" in str(caught.value)) == (State.TIMED_OUT, True)
