"""Files to and from many hosts: each whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from dogwatch.fleet.connection import Connection, Ended, State
from dogwatch.fleet.login import Login

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


async def _pieces(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as file:
        while data := file.read(_PIECE):
            yield data
