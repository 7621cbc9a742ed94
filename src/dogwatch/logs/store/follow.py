"""What comes into a store from now on, as it comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dogwatch.logs.store.layout import wals
from dogwatch.logs.store.values import time_us
from dogwatch.logs.store.wal import record

_MOST_BYTES = 4 * 1024 * 1024


class Follow:
    """Reads the write-ahead files behind the writer. It keeps the current one open: one that was sealed and deleted
    meanwhile is still read to its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        self._number = -1
        self._at = 0
        self._rest = b""
        self._arrived_us = 0
        while (newest := max(wals(folder), default=-1)) >= 0:
            try:
                self._open(newest)
            except (FileNotFoundError, KeyError):
                continue  # sealed meanwhile; there is a newer one
            self._at = os.fstat(self._fd).st_size
            break

    def _open(self, number: int) -> None:
        self.close()
        self._fd = os.open(wals(self._folder)[number], os.O_RDONLY | os.O_CLOEXEC)
        self._number, self._at, self._rest = number, 0, b""

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the records that came since the last call, each with `time_us`."""
        while True:
            if self._fd >= 0:
                if self._at > os.fstat(self._fd).st_size:
                    # Cut after a crash of the writer; what was cut comes again.
                    self._at, self._rest = os.fstat(self._fd).st_size, b""
                while data := os.pread(self._fd, _MOST_BYTES, self._at):
                    self._at += len(data)
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    yield from self._records(lines)
            following = next((one for one in wals(self._folder) if one > self._number), None)
            if following is None:
                return
            try:
                self._open(following)
            except (OSError, KeyError):
                return

    def _records(self, lines: list[bytes]) -> Iterator[dict[str, Any]]:
        for line in lines:
            if line.startswith(b"#"):
                self._arrived_us = int(line[1:]) if line[1:].isdigit() else self._arrived_us
                continue
            found = record(line)
            if found is not None:
                yield {**found, "time_us": time_us(found, self._arrived_us)}

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
