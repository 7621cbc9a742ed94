"""Files that were read whole and are gone: what their compressed forms are known by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from dogwatch.logs.tail.identity import Readable, Saved, mark

_MOST = 1000


class Done:
    """The newest of them."""

    def __init__(self, saved: Iterable[Saved]) -> None:
        self._saved = {one.stream: one for one in saved}

    def __iter__(self) -> Iterator[Saved]:
        return iter(self._saved.values())

    def add(self, saved: Saved) -> None:
        self._saved[saved.stream] = msgspec.structs.replace(saved, lanes={}, done=True)
        if len(self._saved) > _MOST:
            del self._saved[next(iter(self._saved))]

    def knows(self, file: Readable) -> bool:
        """Return whether a compressed file is one that was read whole before."""
        whole = mark(file, file.size())
        return any(
            (one.mark.size, one.mark.length, one.mark.crc) == (whole.size, whole.length, whole.crc)
            and whole.tail.endswith(one.mark.tail)
            for one in self
        )
