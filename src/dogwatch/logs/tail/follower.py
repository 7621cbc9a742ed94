"""Follows the files of one source: finds them, keeps their identity through rotations, reads them in fair turns."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from dogwatch.errors import PermanentError
from dogwatch.logs.block import Position
from dogwatch.logs.tail.finding import Finder, Found
from dogwatch.logs.tail.identity import Identity, Plain, Readable, Saved, identify
from dogwatch.logs.tail.lines import Text
from dogwatch.logs.tail.packed import Packed
from dogwatch.logs.tail.stream import Piece, Reach, Rewritten, Stream

_log = logging.getLogger(__name__)
_COPY_BYTES = 64 * 1024


class Follow(msgspec.Struct, frozen=True, kw_only=True):
    """How files are followed. See sources/file.py for what the options mean."""

    source: str
    lanes: tuple[str, ...]
    start: str = "end"
    encoding: str = ""
    block_bytes: int = 512 * 1024
    line_bytes: int = 256 * 1024
    turn_bytes: int = 4 * 1024 * 1024
    quiet_s: float = 5.0
    keep_s: float = 300.0


class Follower:
    """All of it runs in one thread at a time and waits for nothing.

    saved: what the checkpoint says. horizon_s: wall time of the last search that the checkpoint knows of; None where
    this source never ran. generations: how often a beginning was seen at a place, so that what is read after a
    truncation never carries the ids of what was read before. counts: of what happened, by name.
    """

    def __init__(
        self,
        follow: Follow,
        finder: Finder,
        saved: Iterable[Saved] = (),
        *,
        horizon_s: float | None = None,
        generations: Mapping[str, int] | None = None,
    ) -> None:
        self._follow = follow
        self._finder = finder
        self._text = Text(follow.encoding)
        self.streams: dict[str, Stream] = {}
        self.generations: dict[str, int] = dict(generations or {})
        self.horizon_s = horizon_s
        self.counts: Counter[str] = Counter()
        # Streams whose file is not open: after a start, or because it was quiet for long after its rotation.
        self._parked: dict[str, Saved] = {one.stream: one for one in saved}
        self._first = horizon_s is None
        self._unborn: set[tuple[int, int]] = set()
        self._ignored: dict[tuple[int, int], float] = {}
        self._order: deque[str] = deque()
        # A stream's name must be on disk before a record carries it: only so is it found again in a copy.
        self.must_save = False
        self._denied: set[str] = set()
        self._finished: list[str] = []
        # Parked because nothing was left to read.
        self._read_whole: set[str] = set()
        for one in self._parked.values():
            finder.remember(one.path)

    # -- searching

    def search(self, now_s: float, wall_s: float) -> None:
        """Look which files there are: new ones, rotated ones, and those that are gone."""
        found = self._finder.find()
        names: dict[tuple[int, int], Found] = {}
        for one in found:
            names.setdefault(one.place, one)
        self._mark_gone(names, now_s)
        if self._parked:
            self._resume(found, now_s)
        for one in found:
            if one.named:
                self._take_named(one, now_s)
        for one in found:
            if not one.named and not one.packed:
                self._take_rotated(one, now_s)
        self._unborn &= set(names)
        self._ignored = {place: size for place, size in self._ignored.items() if place in names}
        self.horizon_s = wall_s
        self._first = False

    def _mark_gone(self, names: Mapping[tuple[int, int], Found], now_s: float) -> None:
        for stream in self.streams.values():
            one = names.get(stream.place)
            gone = one is None or not one.named
            if one is not None and not stream.packed:
                stream.path = one.path if one.named else stream.path
            if gone and not stream.gone:
                stream.grown_s = max(stream.grown_s, now_s)
            stream.gone = gone

    def _by_place(self, place: tuple[int, int]) -> Stream | None:
        # The newest: a truncated file has an older stream at the same place.
        return next((one for one in reversed(self.streams.values()) if one.place == place), None)

    def _resume(self, found: Sequence[Found], now_s: float) -> None:
        """Open the files of parked streams again: at their place, by their content, or compressed."""
        by_place = {one.place: one for one in found}
        for saved in list(self._parked.values()):
            place = (saved.identity.device, saved.identity.inode)
            one = by_place.get(place)
            if one is not None and self._reopen(saved, one, now_s):
                continue
            if place not in by_place or not self._is_idle(saved, by_place[place]):
                self._resume_elsewhere(saved, found, now_s)

    def _is_idle(self, saved: Saved, one: Found) -> bool:
        return not one.named and all(position.offset >= one.size for position in saved.lanes.values())

    def _reopen(self, saved: Saved, one: Found, now_s: float) -> bool:
        """Return whether nothing more need be done for it at this place."""
        if self._is_idle(saved, one) and self._missing_lanes(saved) == ():
            return True
        file = self._open(one)
        if file is None:
            return True  # not allowed now: it stays parked
        if not saved.reaches(file):
            file.close()
            return False
        self._adopt(saved, one.path, file, now_s)
        return True

    def _resume_elsewhere(self, saved: Saved, found: Sequence[Found], now_s: float) -> None:
        del self._parked[saved.stream]
        if saved.stream in self._read_whole:
            self._read_whole.discard(saved.stream)
            self._finished.append(saved.stream)
            return
        folder = os.path.dirname(saved.path)  # noqa: PTH120
        for one in found:
            if os.path.dirname(one.path) != folder or self._by_place(one.place) or self._is_parked(one):  # noqa: PTH120
                continue
            file = self._open(one)
            if file is None:
                continue
            try:
                same = saved.reaches(file)
            except PermanentError as error:
                _log.warning("%s", error)
                same = False
            if same:
                stream = self._adopt(saved, one.path, file, now_s)
                # A copy, or the compressed form: what is found here is what was lost sight of there.
                stream.identity = msgspec.structs.replace(saved.identity, device=one.device, inode=one.inode)
                self.counts["recovered"] += 1
                return
            file.close()
        self.counts["vanished"] += 1
        self._finished.append(saved.stream)
        _log.warning("%s is gone; what was not read of it by %s is lost", saved.path, self._follow.source)

    def _missing_lanes(self, saved: Saved) -> tuple[str, ...]:
        return tuple(lane for lane in self._follow.lanes if lane not in saved.lanes)

    def _adopt(self, saved: Saved, path: str, file: Readable, now_s: float) -> Stream:
        self._parked.pop(saved.stream, None)
        self._read_whole.discard(saved.stream)
        lanes = {}
        for lane in self._follow.lanes:
            position = saved.lanes.get(lane)
            if position is None:
                position = Position() if self._follow.start == "beginning" else _last_line(file, self._text)
            lanes[lane] = Reach(position.offset, bytes.fromhex(position.token))
        return self._add(Stream(saved.stream, saved.identity, path, file, lanes), now_s)

    def _add(self, stream: Stream, now_s: float) -> Stream:
        stream.grown_s = now_s
        stream.seen_bytes = stream.file.size()
        stream.gone = stream.packed
        self.streams[stream.name] = stream
        self._order.append(stream.name)
        return stream

    def _open(self, one: Found) -> Readable | None:
        try:
            if one.packed:
                return Packed(one.path)
            file = Plain(one.path)
        except (OSError, ImportError) as error:
            if one.path not in self._denied:
                self._denied.add(one.path)
                _log.warning("cannot read %s: %s", one.path, error)
            return None
        self._denied.discard(one.path)
        now = os.fstat(file.fd)
        if (now.st_dev, now.st_ino) != one.place:
            file.close()  # rotated since we looked: the next search sees it
            return None
        return file

    def _take_named(self, one: Found, now_s: float) -> None:
        if self._by_place(one.place) is not None or self._is_parked(one):
            return
        file = self._open(one)
        if file is None:
            return
        identity = identify(file, *one.place)
        if identity is None:
            self._unborn.add(one.place)
            file.close()
            return
        if not self._first and self._finder.looks_rotated(one.path) and self._is_copy(file, identity):
            file.close()
            return
        skip = self._first and self._follow.start == "end" and one.place not in self._unborn
        self._begin(identity, one.path, file, now_s, skip=skip)

    def _is_parked(self, one: Found) -> bool:
        return any((p.identity.device, p.identity.inode) == one.place for p in self._parked.values())

    def _take_rotated(self, one: Found, now_s: float) -> None:
        """Take a file that was made and rotated between two searches: nobody knows it, and it is not old."""
        if self._by_place(one.place) is not None or self._is_parked(one):
            return
        if self._first or self.horizon_s is None or one.modified_s < self.horizon_s - 1.0:
            return
        if self._ignored.get(one.place) == one.size:
            return
        file = self._open(one)
        if file is None:
            return
        identity = identify(file, *one.place)
        if identity is None or self._is_copy(file, identity):
            self._ignored[one.place] = one.size
            file.close()
            return
        self._begin(identity, one.path, file, now_s, skip=False).gone = True

    def _is_copy(self, file: Readable, identity: Identity) -> bool:
        """Return whether a file begins as one that we follow: copy-truncate makes such."""
        for stream in self.streams.values():
            if (stream.identity.length, stream.identity.crc) != (identity.length, identity.crc):
                continue
            if stream.file.size() < stream.seen_bytes:
                # Truncated, and not noticed yet: the next sweep goes on in the copy.
                return stream.saved("").reaches(file)
            head = file.pread(_COPY_BYTES, 0)
            if stream.file.pread(len(head), 0) == head:
                return True
        return False

    def _begin(self, identity: Identity, path: str, file: Readable, now_s: float, *, skip: bool) -> Stream:
        key = identity.key()
        generation = self.generations.pop(key, -1) + 1
        self.generations[key] = generation
        self.must_save = True
        at = _last_line(file, self._text) if skip else Position()
        lanes = {lane: Reach(at.offset, bytes.fromhex(at.token)) for lane in self._follow.lanes}
        self.counts["files"] += 1
        return self._add(Stream(f"{key}.{generation}", identity, path, file, lanes), now_s)

    # -- reading

    def sweep(self, ready: frozenset[str], now_s: float) -> list[Piece]:
        """Return what can be read now for the lanes that have room, each file a block at most, in turns."""
        pieces: list[Piece] = []
        left = self._follow.turn_bytes
        for _ in range(len(self._order)):
            if left <= 0 or not self._order:
                break
            name = self._order.popleft()
            self._order.append(name)
            stream = self.streams[name]
            for piece in self._read(stream, ready, now_s):
                pieces.append(piece)
                left -= len(piece.data)
                self.counts["cut_bytes"] += piece.cut_bytes
        return pieces

    def _read(self, stream: Stream, ready: frozenset[str], now_s: float) -> Iterable[Piece]:
        try:
            stream.look(now_s)
            groups: dict[tuple[int, int], list[str]] = {}
            for lane, reach in stream.lanes.items():
                if lane in ready and max(reach.offset, reach.scanned) < stream.seen_bytes:
                    groups.setdefault((reach.offset, reach.scanned), []).append(lane)
            pieces = []
            for lanes in groups.values():
                piece = stream.read(lanes, self._text, self._follow.block_bytes, self._follow.line_bytes)
                if piece is not None:
                    pieces.append(piece)
            if not pieces and groups and stream.gone and now_s - stream.grown_s >= self._follow.quiet_s:
                return self._last_lines(stream, groups.values())
        except Rewritten:
            self._rewritten(stream, now_s)
            return ()
        except (OSError, PermanentError) as error:
            _log.warning("cannot read %s: %s", stream.path, error)
            self.counts["read_errors"] += 1
            return ()
        return pieces

    def _last_lines(self, stream: Stream, groups: Iterable[list[str]]) -> list[Piece]:
        found = []
        for lanes in groups:
            for lane in lanes:
                piece = stream.rest(lane, self._text, self._follow.line_bytes)
                if piece is not None:
                    found.append(piece)
        stream.ended = True
        return found

    def _rewritten(self, stream: Stream, now_s: float) -> None:
        """The file was truncated: what is in it now is another stream; what was not read may be in a copy."""
        self.counts["truncated"] += 1
        saved = stream.saved(self._follow.source)
        behind = max(0, stream.seen_bytes - min(reach.offset for reach in stream.lanes.values()))
        self._drop(stream)
        _log.info("%s was truncated", stream.path)
        self._finder.remember(stream.path)
        copies = [one for one in self._finder.find() if not one.named and one.place != stream.place]
        if not self._from_copy(saved, copies, now_s):
            self.counts["lost_bytes"] += behind
            self._finished.append(saved.stream)
        self._take_after_truncation(stream, now_s)

    def _from_copy(self, saved: Saved, copies: Iterable[Found], now_s: float) -> bool:
        # The newest first: older rotations may begin alike.
        for one in sorted(copies, key=lambda found: -found.modified_s):
            if self._by_place(one.place) is not None:
                continue
            fresh = self.horizon_s is None or one.modified_s >= self.horizon_s - 1.0
            file = self._open(one) if fresh else None
            if file is None:
                continue
            if saved.reaches(file):
                stream = self._adopt(saved, one.path, file, now_s)
                stream.identity = msgspec.structs.replace(saved.identity, device=one.device, inode=one.inode)
                stream.gone = True
                self.counts["recovered"] += 1
                return True
            file.close()
        return False

    def _take_after_truncation(self, old: Stream, now_s: float) -> None:
        """The next search would find it too, but only by its name; it may have been renamed meanwhile."""
        self._unborn.add(old.place)
        for one in self._finder.find():
            if one.place == old.place and one.named:
                self._take_named(one, now_s)

    # -- ending

    def retire(self, now_s: float, accepted: Callable[[str], bool]) -> None:
        """Close files that are gone, quiet and read. accepted: whether all that was read of a stream is taken."""
        for stream in list(self.streams.values()):
            if not stream.gone or not stream.read_to_end() or not accepted(stream.name):
                continue
            quiet_s = now_s - stream.grown_s
            if stream.packed or _unlinked(stream):
                if stream.packed or quiet_s >= self._follow.quiet_s:
                    self._drop(stream)
                    self._finished.append(stream.name)
            elif quiet_s >= self._follow.keep_s:
                # It has a name still: late lines are read again when it grows.
                self._parked[stream.name] = stream.saved(self._follow.source)
                self._read_whole.add(stream.name)
                self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        del self.streams[stream.name]
        self._order.remove(stream.name)
        stream.file.close()

    def finished(self) -> list[str]:
        """Return streams that need no checkpoint any more, each once."""
        ended, self._finished = self._finished, []
        return ended

    def parked(self) -> Sequence[Saved]:
        return tuple(self._parked.values())

    def folders(self) -> set[str]:
        return self._finder.folders()

    def close(self) -> None:
        for stream in list(self.streams.values()):
            self._drop(stream)


def _unlinked(stream: Stream) -> bool:
    return isinstance(stream.file, Plain) and os.fstat(stream.file.fd).st_nlink == 0


def _last_line(file: Readable, text: Text) -> Position:
    """Return the place after the last line end of a file."""
    size = file.size()
    at = size
    while at > 0:
        start = max(0, at - 65536) // text.width * text.width
        length = text.last(file.pread(at - start, start))
        if length:
            end = start + length
            tail = file.pread(min(64, end), max(0, end - 64))
            return Position(end, tail.hex())
        at = start
    return Position()
