"""Rotated files that were compressed before they were read to their end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, Any

from dogwatch.errors import PermanentError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_SKIP_BYTES = 1024 * 1024


class Packed:
    """Reads a compressed file forwards; going back begins anew. It stays the same file when its name moves on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = Path(path).open("rb")  # noqa: SIM115
        try:
            self._stream: IO[bytes] | Any = _open(path, self._file)
        except BaseException:
            self._file.close()
            raise
        self._at = 0
        self._size: int | None = None

    def pread(self, size: int, offset: int) -> bytes:
        broken = _errors(self._path)
        try:
            if offset < self._at:
                self._leave()
                self._file.seek(0)
                self._stream, self._at = _open(self._path, self._file), 0
            while self._at < offset:
                skipped = len(self._stream.read(min(_SKIP_BYTES, offset - self._at)))
                if not skipped:
                    return b""
                self._at += skipped
            data: bytes = self._stream.read(size)
        except broken as error:
            raise PermanentError(f"{self._path} cannot be unpacked: {error}") from None
        self._at += len(data)
        return data

    def size(self) -> int:
        """Return its unpacked length, which needs one pass over it."""
        if self._size is None:
            at = self._at
            while data := self.pread(_SKIP_BYTES, at):
                at += len(data)
            self._size = at
        return self._size

    def close(self) -> None:
        self._leave()
        self._file.close()

    def _leave(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()


def _errors(path: str) -> tuple[type[Exception], ...]:
    if path.endswith(".xz"):
        import lzma

        return (EOFError, OSError, lzma.LZMAError)
    if path.endswith(".gz"):
        import zlib

        return (EOFError, OSError, zlib.error)
    if path.endswith(".zst"):
        import zstandard

        return (EOFError, OSError, zstandard.ZstdError)
    return (EOFError, OSError)


def _open(path: str, file: IO[bytes]) -> Any:
    """Unpack it. The libraries are loaded when such a file is met: they stay off everybody's start."""
    if path.endswith(".gz"):
        import gzip

        return gzip.open(file, "rb")
    if path.endswith(".bz2"):
        import bz2

        return bz2.open(file, "rb")
    if path.endswith(".xz"):
        import lzma

        return lzma.open(file, "rb")
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
