"""Follows the files of one source: finds them, keeps their identity through rotations, reads them in fair turns."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from dogwatch.errors import PermanentError
from dogwatch.logs.block import Position
from dogwatch.logs.tail.done import Done
from dogwatch.logs.tail.finding import Finder, Found, is_closed
from dogwatch.logs.tail.follow import Follow
from dogwatch.logs.tail.identity import MARK_BYTES, SURE_BYTES, Identity, Readable, Saved, identify, mark
from dogwatch.logs.tail.lines import Text
from dogwatch.logs.tail.opening import Opener
from dogwatch.logs.tail.packed import SUFFIXES
from dogwatch.logs.tail.short import Short
from dogwatch.logs.tail.stream import Piece, Reach, Rewritten, Stream, end_of, last_line

_log = logging.getLogger(__name__)
_HOMELESS_S = 10.0


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
        self._joiner = follow.multiline.joiner() if follow.multiline is not None else None
        self.streams: dict[str, Stream] = {}
        self.generations: dict[str, int] = dict(generations or {})
        self.horizon_s = horizon_s
        self.counts: Counter[str] = Counter()
        self._opener = Opener(follow.source, self.counts)
        # Streams whose file is not open: after a start, or because it was quiet for long after its rotation.
        self._parked: dict[str, Saved] = {one.stream: one for one in saved if not one.done}
        # Their files are not where they were; they are looked for until `_HOMELESS_S` after the first time.
        self._homeless: dict[str, tuple[Saved, float]] = {}
        self._done = Done(one for one in saved if one.done)
        # How many files were met that begin with a line of this (length, checksum).
        self._beginnings: Counter[tuple[int, int]] = Counter(one.identity.beginning for one in saved)
        # Compressed files that are new and perhaps being written: size at the last search, and when they were written.
        self._growing: dict[tuple[int, int], tuple[int, float]] = {}
        self._first = horizon_s is None
        self._searched_s = -math.inf
        self._unborn: set[tuple[int, int]] = set()
        self._short = Short()
        self._ignored: dict[tuple[int, int], float] = {}
        # None while it is not known; it is asked of every file that there is.
        self._taken: set[tuple[int, int]] | None = None
        self._order: deque[str] = deque()
        # Whether the last sweep left so much that the next one should come at once.
        self.behind = False
        # A stream's name must be on disk before a record carries it: only so is it found again in a copy.
        self.must_save = False
        self._finished: list[str] = []
        # Parked because nothing was left to read; homeless because their files were truncated under our eyes.
        self._read_whole: set[str] = set()
        self._cut: set[str] = set()
        for one in self._parked.values():
            finder.remember(one.path)

    # -- searching

    def search(self, now_s: float, wall_s: float) -> None:
        """Look which files there are: new ones, rotated ones, and those that are gone."""
        self._look_for_truncations(now_s)
        back_s = wall_s - (now_s - self._searched_s)
        if self.horizon_s is not None and -math.inf < back_s < self.horizon_s - 1.0:
            # The clock was set back since: no file is older for that, nor after a crash.
            self.horizon_s, self.must_save = back_s, True
        self._searched_s = now_s
        found = self._finder.find()
        names = {one.place: one for one in reversed(found)}
        self._mark_gone(names, now_s)
        if self._parked:
            self._resume(names, now_s)
        if self._homeless:
            self._house(found, now_s)
        for identity, path, file in self._short.gone(names):
            self._begin(identity, path, file, now_s, skip=False).gone = True
        for one in found:
            if one.named:
                self._take_named(one, now_s)
        for one in found:
            if not one.named:
                self._take_rotated(one, now_s, wall_s)
        self._unborn &= set(names)
        self._ignored = {place: size for place, size in self._ignored.items() if place in names}
        self._growing = {place: known for place, known in self._growing.items() if place in names}
        # Not beyond what is still to be looked at: after a crash it must be new again.
        self.horizon_s = min([wall_s, *(modified_s for _size, modified_s in self._growing.values())])
        self._first = False

    def _look_for_truncations(self, now_s: float) -> None:
        """A sweep that had much to read may not have come to all; their copies are new only until the horizon moves."""
        for stream in list(self.streams.values()):
            try:
                stream.look(now_s)
            except Rewritten:
                self._rewritten(stream, now_s)
            except OSError:
                pass  # the next sweep says so

    def _mark_gone(self, names: Mapping[tuple[int, int], Found], now_s: float) -> None:
        for stream in self.streams.values():
            one = names.get(stream.place)
            gone = one is None or not one.named
            if one is not None and not stream.packed:
                stream.path = one.path if one.named else stream.path
            if gone and not stream.gone:
                stream.grown_s = max(stream.grown_s, now_s)
            stream.gone = gone

    def _is_taken(self, one: Found) -> bool:
        """Return whether a stream that is followed or parked has this place."""
        if self._taken is None:
            parked = (saved.place for saved in self._parked.values())
            self._taken = {*(stream.place for stream in self.streams.values()), *parked}
        return one.place in self._taken

    def _resume(self, names: Mapping[tuple[int, int], Found], now_s: float) -> None:
        """Open the files of parked streams again where they are."""
        for saved in list(self._parked.values()):
            one = names.get(saved.place)
            if one is not None and self._reopen(saved, one, now_s):
                continue
            if one is None or not self._is_idle(saved, one):
                del self._parked[saved.stream]
                self._taken = None
                # Where its place holds something else: truncated perhaps, and perhaps copied before.
                cut_s = 0.0 if one is None else one.modified_s
                self._homeless[saved.stream] = (msgspec.structs.replace(saved, cut_s=cut_s), now_s)

    def _is_idle(self, saved: Saved, one: Found) -> bool:
        # Shorter than it was seen: its inode is another file's now. The size of a compressed one says nothing.
        read = all(position.offset >= one.size for position in saved.lanes.values())
        return not one.named and not one.packed and one.size >= saved.mark.size and read

    def _reopen(self, saved: Saved, one: Found, now_s: float) -> bool:
        """Return whether nothing more need be done for it at this place."""
        if self._is_idle(saved, one) and saved.lanes.keys() >= set(self._follow.lanes):
            return True
        if one.packed and not saved.path.endswith(SUFFIXES):
            return False  # no file is compressed in its place: the inode is another's now
        file = self._opener.open(one)
        if file is None:
            return True  # not allowed now: it stays parked
        with contextlib.suppress(PermanentError):  # half of a compressed one, in the place of what is looked for
            if saved.reaches(file):
                self._adopt(saved, one.path, file, now_s)
                return True
        file.close()
        return False

    def _house(self, found: Sequence[Found], now_s: float) -> None:
        """Look for files that were moved, copied or compressed; those first of which most is known."""
        waiting = sorted(self._homeless.values(), key=lambda one: -one[0].mark.size)
        for saved, since_s in waiting:
            if saved.stream in self._read_whole:
                self._read_whole.discard(saved.stream)
                self._finish(saved)
            elif not self._house_one(saved, found, now_s):
                if now_s - since_s < _HOMELESS_S:
                    continue
                if is_closed(os.path.dirname(saved.path)):  # noqa: PTH120
                    # Said at the search; from now on the time counts anew.
                    self._homeless[saved.stream] = (saved, now_s)
                    continue
                self._give_up(saved)
            self._homeless.pop(saved.stream, None)

    def _give_up(self, saved: Saved) -> None:
        cut = saved.stream in self._cut
        if cut and not saved.behind:
            self._finish(saved)
        else:
            self.counts["lost_bytes" if cut else "vanished"] += saved.behind if cut else 1
            self._finished.append(saved.stream)
            _log.warning("%s is gone; what was not read of it by %s is lost", saved.path, self._follow.source)
        self._cut.discard(saved.stream)

    def _house_one(self, saved: Saved, found: Sequence[Found], now_s: float) -> bool:
        folder = os.path.dirname(saved.path)  # noqa: PTH120
        # The live name last: where little is known, a rotated file is likelier to be the one.
        for one in sorted(found, key=lambda one: one.named):
            if os.path.dirname(one.path) != folder or self._is_taken(one):  # noqa: PTH120
                continue
            file = self._opener.open(one)
            if file is None:
                continue
            try:
                same = self._goes_on_in(saved, one, file) and not (one.packed and self._done.knows(file))
                same = same and not self._is_copy(file, saved.identity, one, now_s)
            except PermanentError as error:
                _log.warning("%s", error)
                same = False
            if same:
                self._recover(saved, one, file, now_s)
                return True
            file.close()
        return False

    def _goes_on_in(self, saved: Saved, one: Found, file: Readable) -> bool:
        return saved.reaches(file) or (not one.named and saved.was_copied_to(file, one.modified_s))

    def _recover(self, saved: Saved, one: Found, file: Readable, now_s: float) -> Stream:
        """A copy, or the compressed form: what is found here is what was lost sight of there."""
        stream = self._adopt(saved, one.path, file, now_s)
        stream.identity = msgspec.structs.replace(saved.identity, device=one.device, inode=one.inode)
        self._taken = None
        self.counts["recovered"] += 1
        return stream

    def _finish(self, saved: Saved) -> None:
        """Forget a stream that was read whole, but for what its compressed form is known by."""
        self._finished.append(saved.stream)
        self._done.add(saved)

    def _adopt(self, saved: Saved, path: str, file: Readable, now_s: float) -> Stream:
        self._parked.pop(saved.stream, None)
        self._homeless.pop(saved.stream, None)
        self._read_whole.discard(saved.stream)
        self._cut.discard(saved.stream)
        lanes = {}
        for lane in self._follow.lanes:
            position = saved.lanes.get(lane)
            if position is None:
                position = Position() if self._follow.start == "beginning" else last_line(file, self._text)
            elif saved.cut_s and position.offset > file.size():
                position = end_of(file)
            lanes[lane] = Reach(position.offset, bytes.fromhex(position.token))
        stream = self._add(Stream(saved.stream, saved.identity, path, file, lanes), now_s)
        stream.noted_bytes = min(stream.mark.size, saved.mark.size)
        return stream

    def _add(self, stream: Stream, now_s: float) -> Stream:
        stream.grown_s = now_s
        stream.seen_bytes = stream.file.size()
        stream.gone = stream.packed
        stream.mark = mark(stream.file, min(stream.seen_bytes, MARK_BYTES) if stream.packed else stream.seen_bytes)
        stream.noted_bytes = stream.mark.size
        self.streams[stream.name] = stream
        if self._taken is not None:
            self._taken.add(stream.place)
        self._order.append(stream.name)
        return stream

    def _take_named(self, one: Found, now_s: float) -> None:
        if self._is_taken(one):
            return
        file = self._short.take(one.place) or self._opener.open(one)
        if file is None:
            return
        identity = identify(file, *one.place)
        if identity is None:
            self._unborn.add(one.place)
            self._short.keep(one.place, one.path, file)
            return
        if not self._first and self._finder.looks_rotated(one.path) and self._is_copy(file, identity, one, now_s):
            file.close()
            return
        skip = self._first and self._follow.start == "end" and one.place not in self._unborn
        self._begin(identity, one.path, file, now_s, skip=skip)

    def _take_rotated(self, one: Found, now_s: float, wall_s: float) -> None:
        """Take a file that was made and rotated between two searches: nobody knows it, and it is not old."""
        if self._is_taken(one):
            return
        if self._first:
            self._ignored[one.place] = one.size
        seen_bytes, _modified_s = self._growing.get(one.place, (-1, 0.0))
        known = seen_bytes >= 0 or one.place in self._short
        old = not known and (self.horizon_s is None or one.modified_s < self.horizon_s - 1.0)
        if old or self._ignored.get(one.place) == one.size:
            self._ignored[one.place] = one.size
            return
        if one.packed and seen_bytes != one.size:
            self._growing[one.place] = (one.size, one.modified_s)
            return
        self._growing.pop(one.place, None)
        file = self._opener.open(one)
        if file is None:
            return
        try:
            quiet = wall_s - one.modified_s >= self._follow.quiet_s
            identity = identify(file, *one.place, whole=quiet and one.size > 0)
            if identity is None and one.size and not quiet:
                # A line without its end: nobody will end it once nothing came for so long.
                self._growing[one.place] = (one.size, one.modified_s)
                file.close()
                return
            known = identity is None or self._is_known(file, identity, one, now_s)
        except PermanentError as error:
            _log.warning("%s", error)
            identity, known = None, True
        if identity is None or known:
            self._ignored[one.place] = one.size
            file.close()
            return
        self._begin(identity, one.path, file, now_s, skip=False).gone = True

    def _is_known(self, file: Readable, identity: Identity, one: Found, now_s: float) -> bool:
        """Return whether a file is a copy, or a compressed form of one that was read, or that is not open now."""
        if self._is_copy(file, identity, one, now_s):
            return True
        return one.packed and (self._done.knows(file) or self._is_parked(file))

    def _is_parked(self, file: Readable) -> bool:
        return any(
            saved.mark.size == file.size() if saved.stream in self._read_whole else True
            for saved in self._parked.values()
            if saved.reaches(file)
        )

    def _is_copy(self, file: Readable, identity: Identity, one: Found, now_s: float) -> bool:
        """Return whether a file begins as one that we follow: copy-truncate makes such."""
        for stream in list(self.streams.values()):
            if stream.identity.beginning != identity.beginning:
                continue
            if stream.is_rewritten():
                # Not noticed yet, perhaps because it has grown again: this may be where the rest of it is.
                saved = stream.saved(self._follow.source)
                self._rewritten(stream, now_s)
                if self._is_taken(one) or saved.reaches(file):
                    return True
                continue
            if stream.begins_as(file):
                return True
        return False

    def _begin(self, identity: Identity, path: str, file: Readable, now_s: float, *, skip: bool) -> Stream:
        self._beginnings[identity.beginning] += 1
        self._short.drop(identity.device, identity.inode)
        key = identity.key()
        generation = self.generations.pop(key, -1) + 1
        self.generations[key] = generation
        self.must_save = True
        at = last_line(file, self._text) if skip else Position()
        lanes = {lane: Reach(at.offset, bytes.fromhex(at.token)) for lane in self._follow.lanes}
        self.counts["files"] += 1
        return self._add(Stream(f"{key}.{generation}", identity, path, file, lanes), now_s)

    # -- reading

    def sweep(self, ready: frozenset[str], now_s: float) -> list[Piece]:
        """Return what can be read now for the lanes that have room, each file a block at most, in turns."""
        pieces: list[Piece] = []
        left = self._follow.turn_bytes
        self.behind = False
        for _ in range(len(self._order)):
            if left <= 0 or not self._order:
                break
            self._order.rotate(-1)
            stream = self.streams[self._order[-1]]
            for piece in self._read(stream, ready, now_s):
                pieces.append(piece)
                left -= len(piece.data)
                waits = stream.seen_bytes - piece.after.offset >= self._follow.block_bytes
                self.behind = self.behind or waits or left <= 0
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
                follow = self._follow
                piece = stream.read(lanes, self._text, follow.block_bytes, follow.line_bytes, self._joiner, now_s)
                if piece is not None:
                    pieces.append(piece)
            if not pieces and stream.gone and now_s - stream.grown_s >= self._follow.quiet_s:
                pieces = stream.last_lines(ready, self._text, self._follow.line_bytes)
            self._remark(stream)
        except Rewritten:
            self._rewritten(stream, now_s)
            return ()
        except (OSError, PermanentError) as error:
            _log.warning("cannot read %s: %s", stream.path, error)
            self.counts["read_errors"] += 1
            return ()
        return pieces

    def _remark(self, stream: Stream) -> None:
        stream.remark()
        unsure = stream.noted_bytes < SURE_BYTES and stream.mark.size > stream.noted_bytes
        if unsure and self._beginnings[stream.identity.beginning] > 1:
            # Before more of it is delivered: only by what comes next it can be told from those that begin alike.
            stream.noted_bytes = stream.mark.size
            self.must_save = True

    def _rewritten(self, stream: Stream, now_s: float) -> None:
        """The file was truncated: what is in it now is another stream; what was not read may be in a copy."""
        self.counts["truncated"] += 1
        # As files are timed, not as we are: a copy was made before.
        saved = msgspec.structs.replace(stream.saved(self._follow.source), cut_s=stream.modified_s())
        file = stream.opened_again()
        self._drop(stream)
        _log.info("%s was truncated", stream.path)
        self._finder.remember(stream.path)
        if not self._from_copy(saved, now_s):
            self._cut.add(saved.stream)
            if saved.mark.size >= SURE_BYTES:
                # Its copy may be on its way to being compressed.
                self._homeless[saved.stream] = (saved, now_s)
            else:
                self._give_up(saved)
        # By what is open: its name may belong to another file by now, or be gone.
        identity = identify(file, *stream.place)
        if identity is None:
            self._unborn.add(stream.place)
            self._short.keep(stream.place, stream.path, file)
        else:
            self._begin(identity, stream.path, file, now_s, skip=False)

    def _from_copy(self, saved: Saved, now_s: float) -> bool:
        # The newest first: older rotations may begin alike.
        for one in sorted(self._finder.find(), key=lambda found: -found.modified_s):
            if one.named or one.place == saved.place or self._is_taken(one):
                continue
            sure = not one.packed and saved.mark.size >= SURE_BYTES
            fresh = sure or self.horizon_s is None or one.modified_s >= self.horizon_s - 1.0
            file = self._opener.open(one) if fresh else None
            if file is None:
                continue
            with contextlib.suppress(PermanentError):  # half compressed: the next search looks again
                if self._goes_on_in(saved, one, file):
                    self._recover(saved, one, file, now_s).gone = True
                    return True
            file.close()
        return False

    # -- ending

    def retire(self, now_s: float, accepted: Callable[[str], bool]) -> None:
        """Close files that are gone, quiet and read. accepted: whether all that was read of a stream is taken."""
        for stream in list(self.streams.values()):
            if not stream.gone or not stream.read_to_end() or not accepted(stream.name):
                continue
            quiet_s = now_s - stream.grown_s
            if stream.packed or stream.unlinked:
                if stream.packed or quiet_s >= self._follow.quiet_s:
                    stream.remark()
                    self._finish(stream.saved(self._follow.source))
                    self._drop(stream)
            elif quiet_s >= self._follow.keep_s:
                # It has a name still: late lines are read again when it grows.
                self._parked[stream.name] = stream.saved(self._follow.source)
                self._read_whole.add(stream.name)
                self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        del self.streams[stream.name]
        self._taken = None
        self._order.remove(stream.name)
        stream.file.close()

    def finished(self) -> list[str]:
        """Return streams that need no checkpoint any more, each once."""
        ended, self._finished = self._finished, []
        return ended

    def parked(self) -> Sequence[Saved]:
        """Return the streams that have no open file, for the checkpoint."""
        return (*self._parked.values(), *(saved for saved, _since_s in self._homeless.values()), *self._done)

    def close(self) -> None:
        self._short.close()
        for stream in list(self.streams.values()):
            self._drop(stream)
