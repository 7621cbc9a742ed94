"""What the system tells of the folders of a source: that files came or went, and that some file grew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from dogwatch.config.inotify import (
    BLIND,
    CREATE,
    DELETE,
    DELETE_SELF,
    MODIFY,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    ONCE,
    Inotify,
)


class Notices:
    """Two watches on each folder. Of a file that grows one is told once, and not again before `rearm`: under load an
    event for each write would cost more than the reading.

    tell: is called from the loop when anything happened.
    Raises: OSError where the system has no more watches.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._folders_changed = True
        self._lost = False
        self._tell = tell
        self._grown = False
        self._names = Inotify(CREATE | DELETE | MOVED_FROM | MOVED_TO | DELETE_SELF | MOVE_SELF)
        try:
            self._sizes = Inotify(MODIFY | ONCE)
        except OSError:
            self._names.close()
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(self._names.fd, self._changed)
        loop.add_reader(self._sizes.fd, self._grew)

    def _changed(self) -> None:
        if any(one.mask & BLIND for one in self._names.read()):
            self._lost = True
        self._folders_changed = True
        self._tell()

    def _grew(self) -> None:
        self._sizes.read()
        self._grown = True
        self._tell()

    def take_changed(self) -> bool:
        """Return whether a folder changed since the last call, or one of them is not watched."""
        changed, self._folders_changed = self._folders_changed, False
        return changed or self._lost

    def watch(self, folders: set[Path]) -> None:
        """Watch exactly these folders. Raises: OSError."""
        if self._lost or folders != self._names.watched:
            before = self._names.watched
            self._names.watch(folders)
            self._sizes.watch(folders)
            # A folder that is not there yet is asked for again with every search.
            self._lost = folders != self._names.watched
            # What came between the search and the watch.
            self._folders_changed = self._folders_changed or self._names.watched != before

    def rearm(self) -> None:
        """Be told again of what grows from now on."""
        if self._grown:
            self._grown = False
            self._sizes.watch(self._names.watched)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for one in (self._names, self._sizes):
            loop.remove_reader(one.fd)
            one.close()
