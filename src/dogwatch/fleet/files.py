"""Files to and from many hosts: each whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from dogwatch.fleet.connection import Connection, Ended, State
from dogwatch.fleet.login import Login
from dogwatch.fleet.run import Work

_PIECE = 256 * 1024


async def copy_to(
    connection: Connection, login: Login, source: Path, target: str, *, mode: int, timeout_s: float | None
) -> Ended:
    """Write a file of ours to the host: beside its place first, then renamed into it.

    A target that ends with `/` is a folder that the file goes into under its own name.
    """
    path = target + source.name if target.endswith("/") else target
    size = source.stat().st_size  # noqa: ASYNC240 one look at a local file
    return await connection.put(_pieces(source), path, size=size, mode=mode, become=login.become, timeout_s=timeout_s)


async def fetch_from(
    connection: Connection, login: Login, path: str, target: Path, *, timeout_s: float | None
) -> Ended:
    """Read a file of the host into one of ours, which appears when it is complete."""
    part = target.with_name(f"{target.name}.dogwatch-part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            ended = await connection.get(path, file.write, become=login.become, timeout_s=timeout_s)
        if ended.state is State.SUCCEEDED:
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    # The content is in the file, and is not told again.
    return Ended(
        state=ended.state, exit_code=ended.exit_code, signal=ended.signal, stderr=ended.stderr, note=ended.note
    )


def copying(source: Path, target: str, *, mode: int, timeout_s: float | None) -> Work:
    """Return the work that copies a file of ours to each host."""

    async def work(_host: str, login: Login, connection: Connection) -> Ended:
        return await copy_to(connection, login, source, target, mode=mode, timeout_s=timeout_s)

    return work


def fetching(path: str, folder: Path, *, timeout_s: float | None) -> Work:
    """Return the work that brings a file of each host into FOLDER/HOST/."""
    name = path.rpartition("/")[2]

    async def work(host: str, login: Login, connection: Connection) -> Ended:
        return await fetch_from(connection, login, path, folder / host / name, timeout_s=timeout_s)

    return work


def digest(source: Path) -> str:
    """Return what tells a file from another."""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _pieces(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as file:
        while data := file.read(_PIECE):
            yield data
