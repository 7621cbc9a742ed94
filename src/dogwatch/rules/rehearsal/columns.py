"""Recorded results of one target as columns, decoded only as far as rules read them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from dogwatch.core.values import Status, Transition
from dogwatch.store.columns import ResultColumns
from dogwatch.store.raw import RawResults, Rolled

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

# In the order of their planes in a block: what comes later costs more to get at.
DURATIONS = (
    "probe.duration_s",
    "probe.resolve_s",
    "probe.connect_s",
    "probe.tls_s",
    "probe.first_byte_s",
    "probe.transfer_s",
)
STATUS_WORDS = tuple(status.word for status in Status)
QUIET = (Status.PAUSED, Status.MAINTENANCE, Status.PENDING)
_FIXED = 8 + 1 + 2
_SUCCESS = 0x80


class _Header(msgspec.Struct, frozen=True, array_like=True):
    version: int
    count: int
    words: list[str]


_COUNT = itemgetter(0)
_open = msgspec.msgpack.Decoder(tuple[_Header, bytes]).decode


class Turns(msgspec.Struct, frozen=True, gc=False):
    """Every status that was told, one after the other. reasons: places in words."""

    time: Floats
    status: Bytes
    reasons: Ints
    words: list[str]


class Track:
    """Results of one target in a time, in the order of their times; of two of one time the later.

    status: the numbers of Status. reasons: places in `words`. durations: seconds, by name. turns: every status that was
    told, where that is more: also those of one time, and those that came without a result. quiet: there were such.
    told: how many signals. lost: how coarse it was where no raw rows are left, seconds → results behind it.
    """

    __slots__ = ("durations", "lost", "quiet", "reasons", "status", "success", "time", "told", "turns", "words")

    def __init__(self) -> None:
        self.time: Floats = np.empty(0)
        self.status: Bytes = np.empty(0, np.uint8)
        self.success: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self.reasons: Ints = np.empty(0, np.int64)
        self.durations: dict[str, Floats] = {}
        self.words: list[str] = [""]
        self.turns: Turns | None = None
        self.quiet = False
        self.told = 0
        self.lost: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.time)

    def statuses(self) -> Track:
        """Return a track of the status alone, with what was told without a result; of two of one time the later."""
        turns = self.turns or Turns(self.time, self.status, self.reasons, self.words)
        other, last = Track(), np.append(turns.time[1:] > turns.time[:-1], True)[: len(turns.time)]
        other.time, other.status = turns.time[last], turns.status[last]
        other.reasons, other.success = turns.reasons[last], np.zeros(int(last.sum()), np.bool_)
        other.words = self.words
        return other


class Words:
    """One numbering of reasons for all blocks of a target."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {"": 0}
        self.list = [""]

    def place(self, word: str) -> int:
        found = self.known.get(word)
        if found is None:
            found = self.known[word] = len(self.list)
            self.list.append(word)
        return found


class Reader:
    """Decodes. paths: the values that rules read; words: shared by the tracks of one target."""

    def __init__(self, paths: Iterable[str]) -> None:
        wanted = set(paths)
        deepest = max((at for at, name in enumerate(DURATIONS) if name in wanted), default=-1)
        self.names = [name for at, name in enumerate(DURATIONS) if name in wanted]
        self._places = [DURATIONS.index(name) for name in self.names]
        self._depth = _FIXED + 4 * (deepest + 1)

    def track(self, raw: RawResults, words: Words, *, since_s: float, until_s: float) -> Track:
        """Return a target's results with since_s <= time < until_s."""
        parts = [
            self._batch(count, list(same), words) for count, same in groupby(map(self._inflate, raw.blocks), _COUNT)
        ]
        parts += [self._columns(rows, words) for rows in raw.fresh]
        track = Track()
        track.words = words.list
        if raw.rolled:
            inside = [one for one in raw.rolled if since_s <= one.end_s < until_s]
            if inside:
                parts.insert(0, self._rolled(inside, raw.transitions, words))
                for one in inside:
                    track.lost[one.width_s] = track.lost.get(one.width_s, 0) + one.count
        if parts:
            self._join(track, parts, since_s, until_s)
        quiet = [
            (round(one.time_s, 3), int(one.after))
            for one in raw.transitions
            if one.after in QUIET and since_s <= round(one.time_s, 3) < until_s
        ]
        track.told += len(quiet)
        if quiet:
            track.quiet = True
            _mix(track, quiet)
        return track

    def _join(self, track: Track, parts: Sequence[list[Any]], since_s: float, until_s: float) -> None:
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        ms, flags, reasons = columns[0], columns[1], columns[2]
        low, high = round(since_s * 1000), round(until_s * 1000)
        ordered = len(ms) < 2 or bool((ms[1:] > ms[:-1]).all())
        if not ordered:
            order = np.argsort(ms, kind="stable")
            columns = [column[order] for column in columns]
            ms, flags, reasons = columns[0], columns[1], columns[2]
        start, stop = np.searchsorted(ms, (low, high))
        track.told = int(stop - start)
        if not ordered and (ms[start + 1 : stop] == ms[start : stop - 1][: max(0, stop - start - 1)]).any():
            turns = ms[start:stop] / 1000, np.bitwise_and(flags[start:stop], 0x7F, dtype=np.uint8), reasons[start:stop]
            track.turns = Turns(*turns, track.words)
            last = np.append(ms[1:] > ms[:-1], True)
            columns = [column[last] for column in columns]
            ms, flags, reasons = columns[0], columns[1], columns[2]
            start, stop = np.searchsorted(ms, (low, high))
        track.time = ms[start:stop] / 1000
        flags = flags[start:stop]
        track.status = np.bitwise_and(flags, 0x7F, dtype=np.uint8)
        track.success = flags >= _SUCCESS
        track.reasons = reasons[start:stop]
        for name, column in zip(self.names, columns[3:], strict=True):
            track.durations[name] = column[start:stop] / 1e6

    def _inflate(self, data: bytes) -> tuple[int, list[str], bytes]:
        """Return how many rows a block has, its words, and its planes as deep as they are read."""
        header, body = _open(data)
        return header.count, header.words, zlib.decompressobj().decompress(body, header.count * self._depth)

    def _batch(self, count: int, blocks: list[tuple[int, list[str], bytes]], words: Words) -> list[Any]:
        """Return the columns of blocks of one size; what numpy does costs the same for one as for many."""
        many = len(blocks)
        raw = np.frombuffer(b"".join(block[2] for block in blocks), np.uint8).reshape(many, count * self._depth)
        deltas = raw[:, : 8 * count].reshape(many, 8, count).transpose(0, 2, 1).copy().view(np.int64)
        ms = deltas.reshape(many, count).cumsum(axis=1).reshape(-1)
        at = 8 * count
        flags = raw[:, at : at + count].reshape(-1)
        at += count
        if any(len(block[1]) > 1 for block in blocks):
            planes = raw[:, at : at + 2 * count].reshape(many, 2, count).transpose(0, 2, 1).copy().view(np.uint16)
            table = planes.reshape(many, count).astype(np.int64)
            for row, block in zip(table, blocks, strict=True):
                if len(block[1]) > 1:
                    row[:] = np.array([words.place(word) for word in block[1]], np.int64)[row]
            reasons = table.reshape(-1)
        else:
            reasons = np.zeros(many * count, np.int64)
        at += 2 * count
        out = [ms, flags, reasons]
        for place in self._places:
            begin = at + 4 * count * place
            quads = raw[:, begin : begin + 4 * count].reshape(many, 4, count).transpose(0, 2, 1).copy()
            out.append(quads.view(np.uint32).reshape(-1))
        return out

    def _columns(self, rows: ResultColumns, words: Words) -> list[Any]:
        places = np.array([words.place(word) for word in rows.words], np.int64)
        durations = (rows.durations, *rows.phases)
        return [
            np.array(rows.times, np.int64),
            np.array(rows.flags, np.uint8),
            places[np.array(rows.reasons, np.int64)],
            *(np.array(durations[place], np.uint32) for place in self._places),
        ]

    def _rolled(self, rolled: Sequence[Rolled], transitions: Sequence[Transition], words: Words) -> list[Any]:
        """Return a row for each bucket, at its end, with its means; and one for each change of status in between."""
        rows: list[tuple[int, int, int, Rolled]] = []
        changes = [one for one in transitions if one.after not in QUIET and one.time_s < rolled[-1].end_s]
        at, status = 0, int(changes[0].before) if changes else -1
        for bucket in rolled:
            while at < len(changes) and changes[at].time_s < bucket.end_s:
                status = int(changes[at].after)
                rows.append((round(changes[at].time_s * 1000), status, words.place(changes[at].reason), bucket))
                at += 1
            now = status if status >= 0 else bucket.status
            rows.append((round(bucket.end_s * 1000), now, 0, bucket))
        means = [[_mean_us(row[3], place) for row in rows] for place in self._places]
        flags = [row[1] | (_SUCCESS if _succeeds(row[3], row[1]) else 0) for row in rows]
        return [
            np.array([row[0] for row in rows], np.int64),
            np.array(flags, np.uint8),
            np.array([row[2] for row in rows], np.int64),
            *(np.array(column, np.uint32) for column in means),
        ]


def _mix(track: Track, quiet: Sequence[tuple[float, int]]) -> None:
    """Put statuses that came without a result among the others; at one time after them."""
    turns = track.turns or Turns(track.time, track.status, track.reasons, track.words)
    times = np.concatenate((turns.time, [time_s for time_s, _ in quiet]))
    order = np.argsort(times, kind="stable")
    status = np.concatenate((turns.status, np.array([status for _, status in quiet], np.uint8)))
    reasons = np.concatenate((turns.reasons, np.zeros(len(quiet), np.int64)))
    track.turns = Turns(times[order], status[order], reasons[order], track.words)


def _mean_us(bucket: Rolled, place: int) -> int:
    good = bucket.count - bucket.failures
    return min(round(bucket.durations_us[place] / good), 0xFFFF_FFFF) if good else 0


def _succeeds(bucket: Rolled, status: int) -> bool:
    return status != Status.DOWN and bucket.failures * 2 < max(bucket.count, 1)
