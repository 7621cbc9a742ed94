"""Kept connections over real servers: reuse, replacement of dead ones, bounds; and files through a session."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest
from tests.integration.fleet.servers import Sshd, sshd

from dogwatch.fleet.connection import HostFailed, RemoteCommand, State
from dogwatch.fleet.connections.ssh import SshDialer
from dogwatch.fleet.login import Login
from dogwatch.fleet.pool import Pool
from dogwatch.fleet.session import CommandFailed, session


async def said(pool: Pool, login: Login, script: str) -> bytes:
    async with session(pool, login) as host:
        return await host.must(script)


async def test_the_next_command_takes_the_same_connection(dialer: SshDialer, login: Login) -> None:
    pool = Pool(dialer)
    first = await said(pool, login, 'echo "$SSH_CONNECTION"')
    again = await said(pool, login, 'echo "$SSH_CONNECTION"')
    both = await asyncio.gather(*(said(pool, login, 'sleep 0.2; echo "$SSH_CONNECTION"') for _ in range(2)))
    await pool.close()
    assert again == first
    assert len(set(both)) == 2  # one user at a time
    assert (pool.opened, pool.reused, pool.idle) == (2, 2, 0)


async def test_what_ended_badly_is_kept_and_what_was_cut_off_is_not(dialer: SshDialer, login: Login) -> None:
    pool = Pool(dialer)
    with pytest.raises(CommandFailed, match="exit code 3: no"):
        await said(pool, login, "echo no >&2; exit 3")
    assert pool.idle == 1
    async with session(pool, login) as host:
        assert (await host.run("sleep 9", timeout_s=0.2)).state is State.TIMED_OUT
    assert pool.idle == 0
    await pool.close()


async def test_a_kept_connection_whose_server_is_gone_is_replaced(
    dialer: SshDialer, login: Login, tmp_path: Path, known_hosts: Path
) -> None:
    with sshd(tmp_path / "second", authorized=Path(str(login.key))) as other:
        with known_hosts.open("a") as file:
            file.write(other.known_line())
        to = msgspec.structs.replace(login, port=other.port)
        pool = Pool(SshDialer(dialer._options))
        assert await said(pool, to, "echo 1") == b"1\n"
        other.kill()
        other.start()
        assert await said(pool, to, "echo 2") == b"2\n"
        assert pool.opened == 2
        await pool.close()


async def test_one_that_answers_no_more_is_replaced(dialer: SshDialer, login: Login, server: Sshd) -> None:
    """The server of the kept session is stopped: it takes the channel's request and never answers."""
    pool = Pool(dialer)
    pid = int(await said(pool, login, "echo $PPID"))
    os.kill(pid, signal.SIGSTOP)
    try:
        pool_connection = next(iter(pool._idle.values())).connection
        pool_connection._open_s = 0.3  # type: ignore[attr-defined]
        assert await said(pool, login, "echo 2") == b"2\n"
        assert pool.opened == 2
    finally:
        os.kill(pid, signal.SIGCONT)
        await pool.close()


async def test_unused_ones_are_bounded_in_number_and_time(dialer: SshDialer, login: Login) -> None:
    pool = Pool(dialer, most=2, idle_s=0.3)
    lent = [await pool.open(login) for _ in range(3)]
    for one in lent:
        await one.run(RemoteCommand(script="true"))
    for one in lent:
        await one.close()
    assert pool.idle == 2
    with pytest.raises(HostFailed, match="given back"):
        await lent[0].run(RemoteCommand(script="true"))
    async with asyncio.timeout(60):
        while pool.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await pool.close()


async def test_files_are_read_replaced_and_looked_at(dialer: SshDialer, login: Login, tmp_path: Path) -> None:
    pool = Pool(dialer)
    path = tmp_path / "it's $HOME\nand `more`"
    data = bytes(range(256)) * 500
    async with session(pool, login) as host:
        assert await host.read(str(path)) is None
        assert await host.stat(str(path)) is None
        await host.write(str(path), data, mode=0o640)
        assert path.read_bytes() == data
        assert await host.read(str(path)) == data
        with pytest.raises(HostFailed, match="larger than 10 bytes"):
            await host.read(str(path), most_bytes=10)
        found = await host.stat(str(path))
        assert found is not None
        assert (found.kind, found.mode, found.size, found.uid) == ("file", 0o640, len(data), path.stat().st_uid)
        (tmp_path / "link").symlink_to("no where")
        link = await host.stat(str(tmp_path / "link"))
        assert link is not None
        assert (link.kind, link.target) == ("link", "no where")
        with pytest.raises(CommandFailed):
            await host.write(str(tmp_path), b"x")  # a folder is not replaced, nor written into
        with pytest.raises(CommandFailed):
            await host.write(str(path), b"x", owner="no-such-user")
    await pool.close()
    assert path.read_bytes() == data
    assert [name for name in os.listdir(tmp_path) if "dogwatch-" in name] == []  # noqa: PTH208
