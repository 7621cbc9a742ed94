"""Files that a step brings to hosts, or from them: what is done on each host in place of a command."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dogwatch.core.units import format_size
from dogwatch.engine.action import Scene
from dogwatch.errors import PermanentError
from dogwatch.fleet.book.shelf import MOST_PIECES, PIECE_BYTES, FileShelf
from dogwatch.fleet.connection import Connection, Ended, HostFailed, State
from dogwatch.fleet.files import copying
from dogwatch.fleet.login import Login
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.run import Work

if TYPE_CHECKING:
    from dogwatch.fleet.action import SshAction

_MOST = MOST_PIECES * PIECE_BYTES


def fetched_id(run: str, host: str) -> str:
    """Return the name on the shelf of what a run fetched from a host. run: its key, `RUN/STEP`."""
    return f"{run}/{host}"


@asynccontextmanager
async def carrying(action: SshAction, scene: Scene) -> AsyncIterator[Work | None]:
    """Yield what a step does on each host in place of its command; None where it is a command.

    Raises: PermanentError, NotFound.
    """
    if action.fetch:
        yield _fetching(action, scene)
    elif action.copy:
        source = Path(action.copy)
        if not source.is_absolute() or not source.is_file():  # noqa: ASYNC240 one look at a local file
            raise PermanentError(
                f"copy: there is no file {action.copy}", hint="an absolute path of the worker's machine"
            )
        yield copying(source, action.target, mode=action.octal, timeout_s=action.host_timeout)
    elif action.copy_file:
        with tempfile.TemporaryDirectory(prefix="dogwatch-copy-") as folder:
            path = Path(folder) / "file"
            await _taken(shelf_of(scene), action.copy_file, path)
            yield copying(path, action.target, mode=action.octal, timeout_s=action.host_timeout)
    else:
        yield None


def shelf_of(scene: Scene) -> FileShelf:
    """Raises: PermanentError where this program keeps no files."""
    shelf = scene.get(FleetPart).shelf
    if shelf is None:
        raise PermanentError("this program keeps no files")
    return shelf


async def _taken(shelf: FileShelf, file_id: str, path: Path) -> None:
    """Write a file of the shelf to a path."""
    with path.open("wb") as file:
        place, more = 0, True
        while more:
            data, more = await shelf.piece(file_id, place)
            file.write(data)
            place += 1


def _fetching(action: SshAction, scene: Scene) -> Work:
    shelf, run = shelf_of(scene), f"{scene.run_id}/{scene.step}"

    async def work(host: str, login: Login, connection: Connection) -> Ended:
        pieces: list[bytearray] = [bytearray()]
        size = 0

        def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > _MOST:
                raise HostFailed(State.MISCONFIGURED, f"the file is larger than {format_size(_MOST)}")
            while data:
                room = PIECE_BYTES - len(pieces[-1])
                pieces[-1] += data[:room]
                data = data[room:]
                if len(pieces[-1]) == PIECE_BYTES and data:
                    pieces.append(bytearray())

        ended = await connection.get(action.fetch, take, become=login.become, timeout_s=action.host_timeout)
        if ended.state is State.SUCCEEDED:
            await shelf.keep(fetched_id(run, host), [bytes(one) for one in pieces])
        # The content lies on the shelf, and is not told again.
        return replace(ended, stdout=b"", cut=(0, 0))

    return work
