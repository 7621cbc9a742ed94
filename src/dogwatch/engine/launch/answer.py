"""The file that a program may answer in, in the folder for temporary files, since any user must reach it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dogwatch.engine.launch.command import ANSWER_BYTES, User


class Answer:
    """An empty file that only this user may read and write. It is read by its descriptor: the program's user could put
    a link to somebody else's file in its place.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def read(self) -> bytes:
        """Return what was written, up to one byte more than allowed."""
        return os.pread(self._descriptor, ANSWER_BYTES + 1, 0)


@contextlib.contextmanager
def answer_file(mark: str, user: User | None) -> Iterator[Answer]:
    """Make the file and take it away. mark: by it the next worker finds what this one could not take away."""
    descriptor, path = tempfile.mkstemp(prefix=_prefix(mark))
    try:
        if user is not None and os.geteuid() == 0:
            os.fchown(descriptor, user.uid, user.gid)
        yield Answer(path, descriptor)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108


def _prefix(mark: str) -> str:
    return f"dogwatch-{mark}-"


def sweep(mark: str) -> None:
    """Take away what a worker that was killed has left."""
    for path in Path(tempfile.gettempdir()).glob(f"{_prefix(mark)}*"):
        with contextlib.suppress(OSError):
            path.unlink()
