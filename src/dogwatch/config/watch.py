"""Notices that configuration files changed, however they are changed.

The *directories* are watched, and those of every symlink on the way: a Kubernetes ConfigMap swaps the symlink
`..data`, editors rename a new file over the old one, and neither is seen by who watches the file. What is reported is
a change of content, so that a touched file is no news. A slow comparison of content runs beside it, for what inotify
does not see (network file systems), and quickly where there is no inotify. Nothing ends the watcher: a file that is
away or unreadable is one state of it like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path

import msgspec

from dogwatch.config.background import Lane
from dogwatch.config.files import MAX_FILE_BYTES, MAX_FILES, SUFFIXES, list_folder, read_bounded
from dogwatch.config.inotify import BLIND, CLOSE_WRITE, DELETE, MODIFY, MOVED_FROM, MOVED_TO, Inotify, Notice

log = logging.getLogger(__name__)

_MAX_SYMLINKS = 40


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the watcher is, seconds.

    quiet_s: nothing must happen for so long before a change is reported. quiet_max_s: it is reported at last after
    this, though things go on happening. open_max_s: the same for a file that was written to and stays open; a busy disk
    can hold its writer up for seconds. poll_s: between comparisons where there is no inotify. safety_s: the same where
    there is. read_s: reading everything must take less.
    """

    quiet_s: float = 0.2
    quiet_max_s: float = 2.0
    open_max_s: float = 15.0
    poll_s: float = 2.0
    safety_s: float = 15.0
    read_s: float = 30.0


def watch_points(paths: Iterable[Path]) -> dict[Path, set[str] | None]:
    """Return the directories to watch, each with the names in it that matter; None: every configuration file does."""
    points: dict[Path, set[str] | None] = {}
    for path in paths:
        _follow(path, points)
    return points


def _follow(path: Path, points: dict[Path, set[str] | None]) -> None:
    """Add the directories in which a change can change what path leads to."""
    parts = str(path.absolute()).split("/")[::-1]
    current = Path("/")
    links = 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            current = current.parent
            continue
        try:
            mode = os.lstat(current / part).st_mode
            target = str((current / part).readlink()) if stat.S_ISLNK(mode) else ""
        except OSError:
            # Not there (now): it appears in the last directory that is.
            _want(points, current, part)
            return
        if target:
            _want(points, current, part)
            links += 1
            if links > _MAX_SYMLINKS:
                return
            parts += target.split("/")[::-1]
            current = Path("/") if target.startswith("/") else current
            continue
        if len(parts) <= 1:
            # The file itself, and the directory that holds it: that may be replaced as a whole.
            _want(points, current, part)
        current = current / part
    if current.is_dir():
        points[current] = None


def _want(points: dict[Path, set[str] | None], folder: Path, name: str) -> None:
    names = points.setdefault(folder, set())
    if names is not None:
        names.add(name)


def matters(notice: Notice, points: dict[Path, set[str] | None]) -> bool:
    """Return whether a notice can be about the configuration."""
    if notice.mask & BLIND or notice.folder is None:
        return True
    names = points.get(notice.folder, set())
    if names is None:
        return notice.name == "..data" or (notice.name.endswith(SUFFIXES) and not notice.name.startswith("."))
    return notice.name in names


def contents(paths: Iterable[Path]) -> dict[Path, bytes]:
    """Return a digest of what each path holds now: a file's content, a folder's names, or why it cannot be read."""
    found: dict[Path, bytes] = {}
    for path in paths:
        try:
            if path.is_dir():
                names = list_folder(path)
                data = b"folder" + b"\0".join(os.fsencode(name) for name in names)
                for name in names[:MAX_FILES]:
                    found |= contents([name])
            else:
                data = b"file" + read_bounded(path, MAX_FILE_BYTES)
        except OSError as error:
            data = f"error {error.errno}".encode()
        except ValueError:
            data = b"not a file"
        found[path] = hashlib.blake2b(data, digest_size=16).digest()
    return found


class Watcher:
    """Yields when the configuration's content changed.

    paths: what to watch now; asked again after every change, because a change can bring new files. make: makes the
    inotify instance, for tests.
    """

    def __init__(
        self,
        paths: Callable[[], Iterable[Path]],
        *,
        timing: Timing | None = None,
        make: Callable[[], Inotify] = Inotify,
    ) -> None:
        self._paths = paths
        self._timing = timing or Timing()
        self._make = make
        self._lane = Lane("config-watch")
        self._inotify: Inotify | None = None
        self._points: dict[Path, set[str] | None] = {}
        self._woken = asyncio.Event()
        # Files that somebody has begun to write and not closed: half a file is not what anybody meant.
        self._unfinished: set[tuple[Path | None, str]] = set()
        # Set once changes are noticed.
        self.looking = asyncio.Event()
        self._known: dict[Path, bytes] | None = None
        self._limited = False

    @property
    def polling(self) -> bool:
        """Whether it has to do without inotify, or without enough of it."""
        return self._inotify is None or self._limited

    def refresh(self) -> None:
        """Look again: `paths` has other answers now."""
        self._woken.set()

    async def changes(self) -> AsyncGenerator[float, None]:
        """Yield the seconds since the first sign of each change, forever. Close it (`aclosing`) to release all."""
        self._open()
        try:
            while True:
                waited_s = await self._next()
                if waited_s is not None:
                    yield waited_s
        finally:
            self._close()

    def _open(self) -> None:
        try:
            self._inotify = self._make()
        except OSError as error:
            log.warning("configuration is watched by polling: %s", error)
            return
        asyncio.get_running_loop().add_reader(self._inotify.fd, self._on_readable, self._inotify)

    def _close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    def _on_readable(self, inotify: Inotify) -> None:
        for notice in inotify.read():
            if not matters(notice, self._points):
                continue
            self._woken.set()
            if notice.mask & MODIFY:
                self._unfinished.add((notice.folder, notice.name))
            elif notice.mask & BLIND:
                self._unfinished.clear()
            elif notice.mask & (CLOSE_WRITE | DELETE | MOVED_FROM | MOVED_TO):
                self._unfinished.discard((notice.folder, notice.name))

    async def _next(self) -> float | None:
        """Wait for one sign of a change; return the seconds since it came, or None if the content is the same."""
        if self._known is None:
            # The state that changes are measured from. What happens from here on wakes us.
            await self._look()
            self.looking.set()
            return None
        try:
            async with asyncio.timeout(self._timing.poll_s if self.polling else self._timing.safety_s):
                await self._woken.wait()
        except TimeoutError:
            # Asked first, so that what is reported has been written for as long as by a notice.
            if self._known == await self._found():
                return None
        started_s = asyncio.get_running_loop().time()
        await self._settle(started_s)
        return asyncio.get_running_loop().time() - started_s if await self._look() else None

    async def _settle(self, started_s: float) -> None:
        """Wait until nothing has happened for quiet_s and no file is half written: whoever writes several files gets
        one reload.
        """
        loop = asyncio.get_running_loop()
        timing = self._timing
        while loop.time() - started_s < (timing.open_max_s if self._unfinished else timing.quiet_max_s):
            self._woken.clear()
            try:
                async with asyncio.timeout(timing.quiet_s):
                    await self._woken.wait()
            except TimeoutError:
                if not self._unfinished:
                    return
        self._woken.clear()
        # Whoever keeps a file open for longer (a log-like writer) is not waited for again and again.
        self._unfinished.clear()

    async def _look(self) -> bool:
        found = await self._found()
        before, self._known = self._known, found
        # A path that is new to us counts as a change: whether it is still what was read, the reload's digest tells.
        return before is not None and before != found

    async def _found(self) -> dict[Path, bytes] | None:
        """Watch where things are now, then read the content. In this order, so that nothing falls between."""
        paths = tuple(self._paths())
        try:
            return await self._lane.run(lambda: self._read(paths), timeout_s=self._timing.read_s)
        except (TimeoutError, OSError) as error:
            log.warning("configuration cannot be compared: %s", error or "the disk does not answer")
            return self._known

    def _read(self, paths: tuple[Path, ...]) -> dict[Path, bytes]:
        # The points are in place before the watches and these before the content is read, so that no notice of a
        # change that came after the reading is taken for a stranger's.
        self._points = watch_points(paths)
        if self._inotify is not None:
            self._watch(self._inotify, set(self._points))
        return contents(paths)

    def _watch(self, inotify: Inotify, folders: set[Path]) -> None:
        try:
            inotify.watch(folders)
        except OSError as error:
            if not self._limited:
                log.warning("configuration is watched by polling: %s (fs.inotify.max_user_watches)", error)
            self._limited = True
        else:
            self._limited = False


async def follow(watcher: Watcher, on_change: Callable[[float], object]) -> None:
    """Call on_change for every change until cancelled."""
    async with aclosing(watcher.changes()) as found:
        async for waited_s in found:
            on_change(waited_s)
