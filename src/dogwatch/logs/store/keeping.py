"""Looks after a store's folder beside the writer: seals, merges, deletes what is too old or too much, sets aside."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from dogwatch.logs.store.layout import Index, Segment, read_meta

_log = logging.getLogger(__name__)
_STEADY_S = 3600.0
_STEP_S = 5.0


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """age_s: records older than this are deleted. size_bytes: all segments together. 0 for no bound."""

    age_s: float = 0.0
    size_bytes: int = 0


class Steady:
    """Whether the clock can be trusted with deleting (docs/decisions/0043): no step for an hour."""

    def __init__(self, wall_s: Callable[[], float], monotonic_s: Callable[[], float]) -> None:
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._offset_s = wall_s() - monotonic_s()
        self._since_s = monotonic_s()

    def now_s(self) -> float | None:
        """Return the wall clock, or None where it stepped less than an hour ago."""
        wall_s, monotonic_s = self._wall_s(), self._monotonic_s()
        if abs(wall_s - monotonic_s - self._offset_s) > _STEP_S:
            self._offset_s, self._since_s = wall_s - monotonic_s, monotonic_s
        return wall_s if monotonic_s - self._since_s >= _STEADY_S else None


class Keeper:
    """One for each store; called in a thread, one call at a time. counts: sealed, merged, deleted, set_aside."""

    def __init__(self, folder: Path, keep: Keep, steady: Steady) -> None:
        self._folder = folder
        self._keep = keep
        self._steady = steady
        self._index = Index(folder)
        self.counts: Counter[str] = Counter()

    def recover(self) -> None:
        """After a start: remove what a crash left half done, set aside what cannot be read."""
        for path in [*self._folder.glob("*.new")]:
            path.unlink(missing_ok=True)
        for path in self._folder.glob("seg-*.parquet"):
            problem = _problem(path)
            if problem:
                self._set_aside(path, problem)
        for one in self._index.contents().stale:
            one.delete()
        for path in self._folder.glob("seg-*.meta"):
            if not path.with_suffix(".parquet").exists():
                path.unlink(missing_ok=True)

    def _set_aside(self, path: Path, problem: str) -> None:
        aside = self._folder / "broken"
        aside.mkdir(exist_ok=True)
        _log.error("segment %s cannot be used and was moved to %s: %s", path.name, aside, problem)
        for one in (path, path.with_suffix(".meta")):
            if one.exists():
                one.replace(aside / one.name)
        self.counts["set_aside"] += 1

    def work(self, current_wal: int) -> None:
        """Delete, seal write-ahead files before the current one, and merge. Raises: OSError."""
        from dogwatch.logs.store import tidying

        self.retain()
        self.counts["sealed"] += tidying.seal(self._folder, current_wal)
        self.counts["merged"] += tidying.merge(self._folder)

    def retain(self) -> None:
        """Delete whole segments: those whose last record came too long ago, then the oldest beyond the size."""
        contents = self._index.contents()
        for one in contents.stale:
            if one.meta.wal not in contents.wals:
                one.delete()
        left = sorted(contents.segments, key=lambda one: one.meta.arrived_us)
        now_s = self._steady.now_s() if self._keep.age_s else None
        if now_s is not None:
            old_us = int((now_s - self._keep.age_s) * 1e6)
            # By arrival: a record that claims to be of the future must not keep its segment for ever.
            left = self._delete(left, lambda one: one.meta.arrived_us < old_us)
        if self._keep.size_bytes:
            over = sum(one.size for one in left) - self._keep.size_bytes
            for one in left:
                if over <= 0:
                    break
                one.delete()
                self.counts["deleted"] += 1
                over -= one.size

    def _delete(self, segments: list[Segment], old: Callable[[Segment], bool]) -> list[Segment]:
        left = []
        for one in segments:
            if old(one):
                one.delete()
                self.counts["deleted"] += 1
            else:
                left.append(one)
        return left


def _problem(parquet: Path) -> str:
    """Return what is wrong with a segment, "" if nothing."""
    try:
        meta = read_meta(parquet.with_suffix(".meta"), whole=True)
        with parquet.open("rb") as file:
            size = file.seek(0, 2)
            if size < 12 or file.seek(0) or file.read(4) != b"PAR1":
                return "it is torn"
            file.seek(-8, 2)
            footer = file.read(8)
            if footer[4:] != b"PAR1" or int.from_bytes(footer[:4], "little") > size:
                return "it is torn"
    except (OSError, ValueError) as error:
        return str(error)
    return "" if meta.name == parquet.stem[4:] else "it has another's description"
