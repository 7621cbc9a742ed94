"""Reads what must be known of a host, over its connection: one round trip."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from dogwatch.core.units import format_size
from dogwatch.fleet.connection import Connection, HostFailed, RemoteCommand, State
from dogwatch.fleet.login import Login
from dogwatch.fleet.operations.reading import facts_of, read_script
from dogwatch.fleet.operations.state import CannotRead, Need
from dogwatch.fleet.plans.decide import Read

ANSWER_BYTES = 64 * 1024 * 1024
_SHELL = "exec /bin/sh -s"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def ask(connection: Connection, login: Login, needs: Sequence[Need[Any]], *, timeout_s: float | None) -> Read:
    """Return what the host answers. Raises: HostFailed, CannotRead."""
    mark = secrets.token_hex(8)
    raw = await answer_of(connection, login, read_script(needs, mark), timeout_s=timeout_s)
    # What a login shell says before is not part of it.
    start = raw.find(f"\n{mark} ".encode())
    raw = raw[start:] if start >= 0 else b""
    return Read(mark=mark, needs=needs, raw=raw, facts=facts_of(needs, raw, mark))


async def answer_of(connection: Connection, login: Login, script: str, *, timeout_s: float | None) -> bytes:
    """Return what a script that only looks prints. Raises: HostFailed, CannotRead."""
    command = RemoteCommand(
        script=_SHELL,
        stdin=pieces(script.encode()),
        become=login.become,
        timeout_s=timeout_s,
        limit_bytes=2 * ANSWER_BYTES,
    )
    ended = await connection.run(command)
    if ended.state is State.TIMED_OUT:
        raise HostFailed(ended.state, ended.note)
    if len(ended.stdout) > ANSWER_BYTES or ended.cut[0]:
        raise CannotRead(f"the host answers more than {format_size(ANSWER_BYTES)}")
    if ended.state is not State.SUCCEEDED and not ended.stdout:
        told = ended.stderr.decode(errors="replace").strip().splitlines()
        raise CannotRead(f"the host cannot be read: {told[-1] if told else f'exit code {ended.exit_code}'}")
    return ended.stdout
