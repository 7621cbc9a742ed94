"""Programs that sources read from: started with the agent, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import IO

from dogwatch.errors import TransientError

_GRACE_S = 2.0
_STDERR = {True: asyncio.subprocess.STDOUT, False: asyncio.subprocess.DEVNULL}
_READ_BYTES = 1024 * 1024


@asynccontextmanager
async def program(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: str = "",
    stderr: bool | IO[bytes] = False,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program whose standard output is read. It and what it started end with the context; where the agent is
    killed, it is killed, too, if setpriv is there to ask for that.

    stderr: goes the same way as standard output, to a file, or nowhere.
    Raises: TransientError where it cannot be started.
    """
    setpriv = shutil.which("setpriv")
    words = [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr if not isinstance(stderr, bool) else _STDERR[stderr],
            env={**os.environ, **(environment or {})},
            cwd=folder or None,
            start_new_session=True,
            limit=_READ_BYTES,
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may run already: cancelled in the middle, only its first process would be ended.
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise
    except OSError as error:
        raise TransientError(f"cannot start {command[0]}: {error.strerror}") from None
    try:
        yield process
    finally:
        await asyncio.shield(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    """End its whole session, softly first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                # A pipe that is full would keep it from ending.
                await process.communicate()
                return
