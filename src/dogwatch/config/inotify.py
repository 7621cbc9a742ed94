"""Linux inotify, on the event loop: no thread, no package (docs/decisions/0017)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import msgspec

MODIFY = 0x002
ATTRIB = 0x004
CLOSE_WRITE = 0x008
MOVED_FROM = 0x040
MOVED_TO = 0x080
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
_ONLYDIR = 0x01000000
# Tells of the first event, and of no other until it is watched again.
ONCE = 0x80000000
_MASK = (
    MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | _ONLYDIR
)  # fmt: skip
# The directory itself went, or events were lost: everything may have changed.
BLIND = DELETE_SELF | MOVE_SELF | UNMOUNT | OVERFLOW | IGNORED
_HEADER = struct.Struct("iIII")


class Notice(msgspec.Struct, frozen=True):
    """Something happened to `name` in a watched directory, or, without a name, to the directory."""

    folder: Path | None
    mask: int
    name: str


class Inotify:
    """Watches directories, not recursively. `fd` is readable when there are notices. mask: of what.

    Raises: OSError where the system has no inotify, or no more of it (fs.inotify.max_user_instances).
    """

    def __init__(self, mask: int = _MASK) -> None:
        self._mask = mask | _ONLYDIR
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._add = libc.inotify_add_watch
            self._remove = libc.inotify_rm_watch
            self.fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError as error:
            raise OSError(errno.ENOSYS, "this system has no inotify") from error
        if self.fd < 0:
            raise _last_error()
        self._folders: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}

    def watch(self, folders: set[Path]) -> None:
        """Watch exactly these directories; one that is not there any more is left out.

        Raises: OSError if a limit is hit (fs.inotify.max_user_watches).
        """
        for folder in [folder for folder in self._watches if folder not in folders]:
            watch = self._watches.pop(folder)
            self._folders.pop(watch, None)
            self._remove(self.fd, watch)
        for folder in folders:
            # Added anew even if known: the path may lead to another directory now.
            watch = self._add(self.fd, os.fsencode(folder), self._mask)
            if watch < 0:
                error = _last_error()
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    raise error
                self._forget(folder)
                continue
            if self._watches.get(folder) not in (None, watch):
                self._forget(folder)
            self._watches[folder] = watch
            self._folders[watch] = folder

    @property
    def watched(self) -> set[Path]:
        """Return the directories that are watched."""
        return set(self._watches)

    def _forget(self, folder: Path) -> None:
        watch = self._watches.pop(folder, None)
        if watch is not None and self._folders.get(watch) == folder:
            del self._folders[watch]
            self._remove(self.fd, watch)

    def read(self) -> list[Notice]:
        """Return what happened since the last call."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return []
        notices = []
        at = 0
        while at < len(data):
            watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            at += length
            # A directory that went takes its watch along; a notice of one that we ended ourselves says nothing.
            folder = self._folders.get(watch)
            if folder is not None or mask & OVERFLOW:
                notices.append(Notice(folder, mask, name))
        return notices

    def close(self) -> None:
        os.close(self.fd)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
