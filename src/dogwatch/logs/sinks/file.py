"""The `file` sink: exactly once, because after a crash it is cut to the length that the checkpoint knows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.units import Bytes
from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import json_lines, plain_lines
from dogwatch.logs.sink import Sink, Tools, Worker

_SMALL_BYTES = 64 * 1024


class FileSink(Sink, frozen=True, kw_only=True):
    """Appends to a file. After a crash nothing is in it twice. A batch waits 30ms for more unless `batch` says else.

    path: the file; its folder is made. format: lines as they were read, or json with ids; default lines. compression:
    none, gzip or zstd; each batch is a member or frame of its own, so that what is on disk can always be read; default
    none. level: of the compression; default 1. rotate: begin a new file once it has this size; 0 for never; default
    256MiB. keep: rotated files that are kept, `path.1` is the newest; default 10. mode: permissions of the file, octal;
    default 640.
    """

    kind: ClassVar[str] = "file"
    short: ClassVar[str] = "path"
    batch_bytes: ClassVar[int] = 1024 * 1024
    # A write here costs little; the wait of the source is what makes batches large.
    batch_wait_s: ClassVar[float] = 0.03

    path: str
    format: Literal["lines", "json"] = "lines"
    compression: Literal["none", "gzip", "zstd"] = "none"
    level: Annotated[int, Meta(ge=1, le=19)] = 1
    rotate: Bytes = 256 * 1024 * 1024
    keep: Annotated[int, Meta(ge=0, le=10_000)] = 10
    mode: Annotated[str, Meta(pattern="^[0-7]{3}$")] = "640"

    def takes_json(self) -> bool:
        return True

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.path.startswith("/") or "\0" in self.path or self.path.endswith("/"):
            yield ("path",), "is not an absolute path of a file", ""
        if self.compression == "gzip" and self.level > 9:
            yield ("level",), "gzip has levels 1 to 9", ""

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:
        worker = _File(self, tools, packer(self.compression, self.level))
        await tools.thread(lambda: worker.recover(state))
        return worker


def packer(compression: str, level: int) -> Callable[[bytes], bytes]:
    """Return what compresses one batch to a whole member or frame."""
    if compression == "gzip":
        from isal import igzip

        return lambda data: bytes(igzip.compress(data, compresslevel=min(3, level)))
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=level).compress
    return lambda data: data


class _File:
    def __init__(self, options: FileSink, tools: Tools, pack: Callable[[bytes], bytes]) -> None:
        self._options = options
        self._path = Path(options.path)
        self._tools = tools
        self._pack = pack
        self._plain = options.compression == "none"
        self._encode = json_lines if options.format == "json" else plain_lines
        self._fd = -1
        self._state = SinkState()
        self._in_checkpoint = False
        self._elsewhere = False

    def recover(self, state: SinkState | None) -> None:
        """Open the file, and cut off what was written after the checkpoint: it is delivered again."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        if state is None or not state.inode or state.path != self._options.path:
            return
        now = os.fstat(self._fd)
        if (now.st_dev, now.st_ino) == (state.device, state.inode):
            self._in_checkpoint = True
            if now.st_size > state.length:
                os.ftruncate(self._fd, state.length)
                self._note(state.length)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, int(self._options.mode, 8))
        self._note(os.fstat(self._fd).st_size)

    def _note(self, length: int) -> None:
        now = os.fstat(self._fd)
        self._state = SinkState(path=self._options.path, device=now.st_dev, inode=now.st_ino, length=length)

    async def write(self, blocks: Sequence[Block]) -> None:
        if self._options.rotate and self._state.length >= self._options.rotate:
            # The length of what is rotated is on disk before its name changes, and the new file's before it grows:
            # whenever the crash comes, the checkpoint speaks of the file that has this name.
            await self._tools.commit(self._state)
            await self._tools.thread(self._rotate)
            self._in_checkpoint = False
        elif self._elsewhere:
            await self._tools.commit(self._state)
            await self._tools.thread(self._reopen)
            self._in_checkpoint = False
        if not self._in_checkpoint:
            await self._tools.commit(self._state)
            self._in_checkpoint = True
        length = await self._tools.thread(lambda: self._append(blocks))
        self._note(length)

    def _append(self, blocks: Sequence[Block]) -> int:
        start = at = self._state.length
        parts = [self._encode(block) for block in blocks]
        if not self._plain:
            parts = [self._pack(b"".join(parts))]
        elif len(parts) > 1 and sum(map(len, parts)) < _SMALL_BYTES * len(parts):
            # One call for many small blocks; large ones are not worth the copy.
            parts = [b"".join(parts)]
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    written = os.pwrite(self._fd, view, at)
                    view, at = view[written:], at + written
        except OSError as error:
            # A full disk: what is there of the batch must not stay, it comes again whole.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise TransientError(f"cannot write {self._path}: {error.strerror}") from None
        return at

    def _rotate(self) -> None:
        # What was rotated and could not be opened anew is not rotated again.
        if self._path.exists():
            self._move_on()
        self._reopen()

    def _move_on(self) -> None:
        for number in range(self._options.keep, 0, -1):
            old = self._numbered(number)
            if number == self._options.keep:
                old.unlink(missing_ok=True)
            elif old.exists():
                old.rename(self._numbered(number + 1))
        if self._options.keep:
            self._path.rename(self._numbered(1))
        else:
            self._path.unlink()

    def _reopen(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._open()
        self._elsewhere = False

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def state(self) -> SinkState | None:
        return self._state

    def sync(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
            # Somebody else may have renamed or deleted it: what comes next belongs under its name.
            try:
                now = self._path.stat()
                self._elsewhere = (now.st_dev, now.st_ino) != (self._state.device, self._state.inode)
            except FileNotFoundError:
                self._elsewhere = True
            except OSError:
                pass  # the folder is not to be read; the file is open still

    async def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
