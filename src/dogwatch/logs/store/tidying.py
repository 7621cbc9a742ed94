"""Seals and merges in a process of its own, for the library of columns keeps the memory that it once took.

`python -m dogwatch.logs.store.tidying FOLDER NUMBER` seals the write-ahead files before the one of this number, merges
small segments, and ends. It may be killed at any instant: what it had not finished is done by the next one.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from dogwatch.logs.programs import program
from dogwatch.logs.store.layout import Index, Segment, wals

# One thread, one arena, and nothing kept for later: nobody waits for segments, and memory is what it is all about.
_SPARING: Mapping[str, str] = {
    "POLARS_MAX_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:1",
}
_NICE = 5


def hold(folder: Path) -> int:
    """Return a descriptor that keeps others from tidying this folder. Raises: BlockingIOError while somebody does."""
    fd = os.open(folder / "tidying", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


async def tidy(folder: Path, current_wal: int) -> None:
    """Have it done by a process, where there is something to do; it ends with whoever waits for it.

    Raises: OSError, TransientError.
    """
    if all(number >= current_wal for number in wals(folder)):
        return
    command = [sys.executable, "-P", "-m", __name__, str(folder), str(current_wal)]
    async with program(command, environment=_SPARING, stderr=True) as process:
        assert process.stdout is not None
        said: deque[bytes] = deque(maxlen=1)
        async for line in process.stdout:
            said.append(line)
        code = await process.wait()
    if code:
        why = said[0].decode("utf-8", "replace").strip() if said else f"it ended with {code}"
        raise OSError(why)


def seal(folder: Path, current_wal: int) -> int:
    """Seal the write-ahead files before the current one; return how many. Raises: OSError."""
    from dogwatch.logs.store import sealing

    finished = [number for number in wals(folder) if number < current_wal]
    for number in finished:
        sealing.seal(folder, number)
    return len(finished)


def merge(folder: Path) -> int:
    """Merge small segments where there are enough of them; return how many. Raises: OSError."""
    from dogwatch.logs.store import sealing

    parts = _to_merge(folder)
    if parts:
        sealing.merge(folder, parts)
    return len(parts)


def _to_merge(folder: Path) -> list[Segment]:
    from dogwatch.logs.store import sealing

    return sealing.to_merge(Index(folder).contents().segments)


def main(folder: Path, current_wal: int) -> int:
    try:
        hold(folder)
        if seal(folder, current_wal):
            if not _to_merge(folder):
                return 0
            # Merging begins without the memory that sealing took.
            again = [sys.executable, "-P", "-m", "dogwatch.logs.store.tidying", str(folder), str(current_wal)]
            os.execv(sys.executable, again)  # noqa: S606 this program
        merge(folder)
    except OSError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
