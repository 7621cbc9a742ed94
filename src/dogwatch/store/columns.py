"""Rows of history as columns: compact in memory, a few bytes a row on disk.

A packed block is its row count, its words, and the byte planes of all columns, deflated. Byte planes (all lowest
bytes, then all second bytes…) put the noise of measurements apart from the bytes that hardly change, so that the
latter cost nothing. Times are kept to the millisecond, durations to the microsecond up to 71 minutes.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import sub

import msgspec

from dogwatch.store.protocol import ResultRow

# Fields of a result as integers: ms, flags, word, then six durations in microseconds.
Packed = tuple[int, int, int, int, int, int, int, int, int]
_CODES = "qBHIIIIII"
_U32 = 0xFFFF_FFFF
_SUCCESS = 0x80
_OTHER = "other"
_MAX_WORDS = 60_000
# Deflate: 1 for what is read once at most, 6 for what stays.
FAST, SMALL = 1, 6


class _Header(msgspec.Struct, frozen=True, array_like=True):
    version: int
    count: int
    words: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[_Header, bytes]).decode


def milliseconds(time_s: float) -> int:
    return round(time_s * 1000)


def microseconds(duration_s: float) -> int:
    value = int(duration_s * 1e6 + 0.5)
    if 0 <= value <= _U32:
        return value
    return 0 if value < 0 else _U32


def quantise(row: ResultRow) -> ResultRow:
    """Return the row as it comes back from the store."""
    columns = ResultColumns()
    columns.add(columns.pack(row))
    return columns.rows(row.target)[0]


def _planes(columns: Iterable[array[int] | array[float]]) -> bytes:
    out: list[bytes] = []
    for column in columns:
        raw = column.tobytes()
        size = column.itemsize
        out.extend(raw[plane::size] for plane in range(size))
    return b"".join(out)


def _unplane(raw: bytes, codes: str, count: int) -> list[array[int]]:
    columns = []
    offset = 0
    for code in codes:
        column: array[int] = array(code)
        size = column.itemsize
        if size == 1:
            column.frombytes(raw[offset : offset + count])
        else:
            mixed = bytearray(size * count)
            for plane in range(size):
                mixed[plane::size] = raw[offset + plane * count : offset + (plane + 1) * count]
            column.frombytes(mixed)
        offset += size * count
        columns.append(column)
    return columns


def _deltas(times: array[int]) -> array[int]:
    return array("q", times[:1]) + array("q", map(sub, times[1:], times))


def _seal(codes_columns: Sequence[array[int] | array[float]], words: list[str], level: int) -> bytes:
    header = _Header(1, len(codes_columns[0]), words)
    return _encode((header, zlib.compress(_planes(codes_columns), level)))


def _open(data: bytes, codes: str) -> tuple[list[array[int]], list[str]]:
    header, body = _decode(data)
    return _unplane(zlib.decompress(body), codes, header.count), header.words


class ResultColumns:
    """Results of one target in order of arrival."""

    __slots__ = ("durations", "flags", "phases", "reasons", "times", "words")

    def __init__(self) -> None:
        self.times = array("q")
        self.flags = array("B")
        self.reasons = array("H")
        self.durations = array("I")
        self.phases = tuple(array("I") for _ in range(5))
        self.words = [""]

    def __len__(self) -> int:
        return len(self.times)

    def word(self, reason: str) -> int:
        if not reason:
            return 0
        try:
            return self.words.index(reason)
        except ValueError:
            if len(self.words) >= _MAX_WORDS:
                reason = _OTHER
                if reason in self.words:
                    return self.words.index(reason)
            self.words.append(reason)
            return len(self.words) - 1

    def pack(self, row: ResultRow) -> Packed:
        # On the path of every attempt: phases that did not happen, most of them, cost no call.
        resolve_s, connect_s, tls_s, transfer_s = row.resolve_s, row.connect_s, row.tls_s, row.transfer_s
        reason = row.reason
        return (
            round(row.time_s * 1000),
            (row.status & 0x7F) | (_SUCCESS if row.success else 0),
            self.word(reason) if reason else 0,
            microseconds(row.duration_s),
            microseconds(resolve_s) if resolve_s else 0,
            microseconds(connect_s) if connect_s else 0,
            microseconds(tls_s) if tls_s else 0,
            microseconds(row.first_byte_s),
            microseconds(transfer_s) if transfer_s else 0,
        )

    def add(self, packed: Packed) -> None:
        self.times.append(packed[0])
        self.flags.append(packed[1])
        self.reasons.append(packed[2])
        self.durations.append(packed[3])
        first, second, third, fourth, fifth = self.phases
        first.append(packed[4])
        second.append(packed[5])
        third.append(packed[6])
        fourth.append(packed[7])
        fifth.append(packed[8])

    def slice(self, start: int, stop: int) -> ResultColumns:
        """Return a copy of rows start to stop; words are shared, they only grow."""
        part = ResultColumns()
        part.times = self.times[start:stop]
        part.flags = self.flags[start:stop]
        part.reasons = self.reasons[start:stop]
        part.durations = self.durations[start:stop]
        part.phases = tuple(phase[start:stop] for phase in self.phases)
        part.words = self.words
        return part

    def success(self, index: int) -> bool:
        return self.flags[index] >= _SUCCESS

    def status(self, index: int) -> int:
        return self.flags[index] & 0x7F

    def rows(self, target: str) -> list[ResultRow]:
        words = self.words
        return [
            ResultRow(
                target, ms / 1000, flag >= _SUCCESS, flag & 0x7F, total / 1e6,
                one / 1e6, two / 1e6, three / 1e6, four / 1e6, five / 1e6, words[word],
            )
            for ms, flag, word, total, one, two, three, four, five in zip(
                self.times, self.flags, self.reasons, self.durations, *self.phases, strict=True
            )
        ]  # fmt: skip

    def encode(self, level: int = SMALL) -> bytes:
        columns = [_deltas(self.times), self.flags, self.reasons, self.durations, *self.phases]
        return _seal(columns, self.words, level)

    @classmethod
    def decode(cls, data: bytes) -> ResultColumns:
        columns, words = _open(data, _CODES)
        return cls._of(columns, words)

    @classmethod
    def _of(cls, columns: list[array[int]], words: list[str]) -> ResultColumns:
        out = cls()
        out.times = array("q", accumulate(columns[0]))
        out.flags, out.reasons, out.durations = columns[1:4]
        out.phases = tuple(columns[4:9])
        out.words = words
        return out


class SampleColumns:
    """Samples of one series in order of arrival."""

    __slots__ = ("times", "values")

    def __init__(self) -> None:
        self.times = array("q")
        self.values = array("d")

    def __len__(self) -> int:
        return len(self.times)

    def slice(self, start: int, stop: int) -> SampleColumns:
        part = SampleColumns()
        part.times = self.times[start:stop]
        part.values = self.values[start:stop]
        return part

    def encode(self, level: int = SMALL) -> bytes:
        return _seal([_deltas(self.times), self.values], [], level)

    @classmethod
    def decode(cls, data: bytes) -> SampleColumns:
        columns, _ = _open(data, "qd")
        out = cls()
        out.times = array("q", accumulate(columns[0]))
        out.values = array("d", columns[1])
        return out


class ResultJournal:
    """Results of all targets in order of arrival, until they are committed. At most 50,000 rows."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[tuple[int, Packed, str]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def encode(self) -> bytes:
        words: dict[str, int] = {"": 0}
        owners = array("I", (owner for owner, _, _ in self.rows))
        reasons = array("H", (words.setdefault(word, len(words)) for _, _, word in self.rows))
        fields = list(zip(*(packed for _, packed, _ in self.rows), strict=True))
        columns: list[array[int]] = [array(code, field) for code, field in zip(_CODES, fields, strict=True)]
        columns[0], columns[2] = _deltas(columns[0]), reasons
        return _seal([*columns, owners], list(words), FAST)

    @staticmethod
    def decode(data: bytes) -> tuple[array[int], ResultColumns]:
        """Return owner ids and their results, in order of arrival."""
        columns, words = _open(data, _CODES + "I")
        return columns[9], ResultColumns._of(columns[:9], words)  # noqa: SLF001 - same module


class SampleJournal:
    """Samples of all series in order of arrival, until they are committed."""

    __slots__ = ("owners", "times", "values")

    def __init__(self) -> None:
        self.owners = array("I")
        self.times = array("q")
        self.values = array("d")

    def __len__(self) -> int:
        return len(self.owners)

    def encode(self) -> bytes:
        return _seal([self.owners, _deltas(self.times), self.values], [], FAST)

    @staticmethod
    def decode(data: bytes) -> tuple[array[int], SampleColumns]:
        """Return owner ids and their samples, in order of arrival."""
        columns, _ = _open(data, "Iqd")
        out = SampleColumns()
        out.times = array("q", accumulate(columns[1]))
        out.values = array("d", columns[2])
        return columns[0], out
