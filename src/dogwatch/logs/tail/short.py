"""Files whose first line has not ended: held open, because nobody would know what was in one that is deleted."""

from __future__ import annotations

import os
from collections.abc import Container

from dogwatch.logs.tail.finding import is_closed
from dogwatch.logs.tail.identity import Identity, Readable, identify

Place = tuple[int, int]


class Short:
    """Owns the files it keeps. An empty one is not kept."""

    def __init__(self) -> None:
        self._kept: dict[Place, tuple[str, Readable]] = {}

    def __contains__(self, place: Place) -> bool:
        return place in self._kept

    def keep(self, place: Place, path: str, file: Readable) -> None:
        if file.size():
            self._kept[place] = (path, file)
        else:
            file.close()

    def take(self, place: Place) -> Readable | None:
        """Return the file that was kept for a place: it is the caller's from now on."""
        kept = self._kept.pop(place, None)
        return None if kept is None else kept[1]

    def gone(self, names: Container[Place]) -> list[tuple[Identity, str, Readable]]:
        """Hand over those whose names are gone: what is in them is all that there is."""
        found = []
        for place, (path, file) in list(self._kept.items()):
            if place in names or is_closed(os.path.dirname(path)):  # noqa: PTH120
                continue
            del self._kept[place]
            identity = identify(file, *place, whole=True)
            if identity is None:
                file.close()
            else:
                found.append((identity, path, file))
        return found

    def drop(self, device: int, inode: int) -> None:
        file = self.take((device, inode))
        if file is not None:
            file.close()

    def close(self) -> None:
        for _path, file in self._kept.values():
            file.close()
        self._kept.clear()
