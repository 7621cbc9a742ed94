"""The machine as collectors reach it: kept descriptors below /proc and /sys, and calls that may hang."""

from __future__ import annotations

import os
from collections.abc import Callable

from dogwatch.hosts.calls import BlockingCalls

# seq_file returns at most a page a read and ends a chunk before a record that does not fit: an answer shorter than
# this is complete (records longer than the rest of a page would be needed), a longer one is read on.
_COMPLETE_BELOW = 2000
# A larger buffer costs more to make than these files to read.
_CHUNK = 1 << 13
_TOO_LONG = 1 << 24


class KernelFile:
    """A file of /proc or /sys that stays open and is read from its start every time.

    paths: the first that opens is used.
    """

    __slots__ = ("_complete_below", "_fd", "_paths")

    def __init__(self, *paths: str, complete_below: int = _COMPLETE_BELOW) -> None:
        self._paths = paths
        self._fd = -1
        self._complete_below = complete_below

    @property
    def path(self) -> str:
        return self._paths[-1]

    def descriptor(self) -> int:
        """Return the descriptor, opened if need be.

        Raises: OSError of the last path.
        """
        if self._fd >= 0:
            return self._fd
        for path in self._paths[:-1]:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            return self._fd
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def read(self) -> bytes:
        """Return the whole content as it is now.

        Raises: OSError; the file is opened anew next time.
        """
        fd = self._fd if self._fd >= 0 else self.descriptor()
        try:
            data = os.pread(fd, _CHUNK, 0)
            if len(data) >= self._complete_below:
                return self._rest(fd, data)
        except OSError as error:
            self.close()
            error.filename = self.path
            raise
        return data

    @staticmethod
    def _rest(fd: int, data: bytes) -> bytes:
        parts = [data]
        size = len(data)
        while size < _TOO_LONG:
            part = os.pread(fd, _CHUNK, size)
            if not part:
                break
            parts.append(part)
            size += len(part)
        return data if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Machine:
    """Where a machine's files are. root: "/" or the place where another root is mounted (a container's /host).

    calls: runs what may hang; it outlives reloads, so that a mount that hangs is never asked twice. statvfs: for
    tests.
    """

    def __init__(
        self,
        root: str = "/",
        *,
        calls: BlockingCalls | None = None,
        statvfs: Callable[[str], os.statvfs_result] = os.statvfs,
    ) -> None:
        self.root = root.rstrip("/")
        self.calls = calls or BlockingCalls()
        self.statvfs = statvfs
        self.ticks_per_s = os.sysconf("SC_CLK_TCK")
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._cores = 0

    def path(self, below: str) -> str:
        """Return where a path of the watched machine is for us."""
        return f"{self.root}/{below.lstrip('/')}"

    def proc(self, name: str, *, complete_below: int = _COMPLETE_BELOW) -> KernelFile:
        """Return a file of /proc. Below another root, `net` is the first process's: ours would be the container's."""
        path = self.path(f"proc/{name}")
        if self.root and name.startswith("net/"):
            return KernelFile(self.path(f"proc/1/{name}"), path, complete_below=complete_below)
        return KernelFile(path, complete_below=complete_below)

    @property
    def cores(self) -> int:
        """Number of CPUs that are online, as the newest sample of the cpu collector saw it; at least 1."""
        return self._cores or os.cpu_count() or 1

    @cores.setter
    def cores(self, count: int) -> None:
        self._cores = count
