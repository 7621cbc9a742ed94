"""Which files there are: those that patterns name, and what rotation made of them."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterable, Sequence

import msgspec

from dogwatch.logs.tail.packed import SUFFIXES


class Found(msgspec.Struct, frozen=True):
    """A regular file. named: a pattern names it; else it only looks like a rotated form of one that is named."""

    path: str
    device: int
    inode: int
    size: int
    modified_s: float
    named: bool

    @property
    def place(self) -> tuple[int, int]:
        return (self.device, self.inode)

    @property
    def packed(self) -> bool:
        return self.path.endswith(SUFFIXES)


class Finder:
    """Looks for files."""

    def __init__(self, patterns: Sequence[str], exclude: Sequence[str] = ()) -> None:
        self._patterns = tuple(patterns)
        self._exclude = tuple(exclude)
        # Names that a rotated file's name begins with: `app.log` for `app.log.1` and `app.log-20260101`.
        self._bases: dict[str, set[str]] = {}
        for pattern in self._patterns:
            if not glob.has_magic(pattern):
                self.remember(pattern)

    def remember(self, path: str) -> None:
        """Look for rotated forms of this file, too."""
        folder, name = os.path.split(path)
        self._bases.setdefault(folder, set()).add(name)

    def looks_rotated(self, path: str) -> bool:
        """Return whether a file's name is that of another with something behind it."""
        folder, name = os.path.split(path)
        return _is_rotated(name, self._bases.get(folder, set()))

    def folders(self) -> set[str]:
        return set(self._bases)

    def find(self) -> list[Found]:
        """Return every file that is there, named ones first."""
        named: dict[str, Found] = {}
        for pattern in self._patterns:
            for path in sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else (pattern,):  # noqa: PTH207
                if path in named or path.endswith(SUFFIXES) or self._excluded(path):
                    continue
                one = _look(path, named=True)
                if one is not None:
                    named[path] = one
                    self.remember(path)
        return [*named.values(), *self._rotated(named)]

    def _excluded(self, path: str) -> bool:
        return any(fnmatch.fnmatch(path, one) or fnmatch.fnmatch(os.path.basename(path), one) for one in self._exclude)  # noqa: PTH119

    def _rotated(self, named: Iterable[str]) -> list[Found]:
        known = set(named)
        found = []
        for folder, bases in self._bases.items():
            try:
                names = os.listdir(folder or ".")  # noqa: PTH208
            except OSError:
                continue
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118
                if path not in known and _is_rotated(name, bases):
                    one = _look(path, named=False)
                    if one is not None:
                        found.append(one)
        return found


def is_closed(folder: str) -> bool:
    """Return whether a folder is there but may not be read: what is in it is not known to be gone."""
    try:
        os.scandir(folder or ".").close()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _is_rotated(name: str, bases: set[str]) -> bool:
    return any(char in ".-_" and at and name[:at] in bases for at, char in enumerate(name))


def _look(path: str, *, named: bool) -> Found | None:
    try:
        one = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    if not stat.S_ISREG(one.st_mode):
        return None
    return Found(path, one.st_dev, one.st_ino, one.st_size, one.st_mtime, named)
