"""Rows of history as columns: compact in memory, a few bytes a row on disk.

A packed block is its row count, its words, and the byte planes of all columns, deflated. Byte planes (all lowest
bytes, then all second bytes…) put the noise of measurements apart from the bytes that hardly change, so that the
latter cost nothing. Times are kept to the millisecond, durations to the microsecond up to 71 minutes.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from operator import sub
from typing import Final, Self

import msgspec

from dogwatch.store.blockheader import BlockHeader
from dogwatch.store.protocol import ResultRow

# Fields of a result as integers: ms, flags, word, then six durations in microseconds; and the same as a record.
_CODES = "qBHIIIIII"
_RECORD = struct.Struct("=" + _CODES)
# The same record in two, of one that ended well: what did not happen is left out, and comes out as 0.
_RECORD_HEAD = struct.Struct("=qB2x")
_SUCCESS_TAIL = struct.Struct("=I4xI4xI4x")
RECORD_BYTES: Final = _RECORD.size
pack_record = _RECORD.pack
_pack_head = _RECORD_HEAD.pack
_pack_success = _SUCCESS_TAIL.pack
_WORD_AT = 9
_U32: Final = 0xFFFF_FFFF
_SUCCESS: Final = 0x80
_OTHER = "other"
_MAX_WORDS = 60_000
# Deflate: 1 for what is read once at most, 6 for what stays.
FAST, SMALL = 1, 6


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[BlockHeader, bytes]).decode


def milliseconds(time_s: float) -> int:
    return round(time_s * 1000)


def microseconds(duration_s: float) -> int:
    value = int(duration_s * 1e6 + 0.5)
    if 0 <= value <= _U32:
        return value
    return 0 if value < 0 else _U32


def flags_of(status: int, *, success: bool) -> int:
    return (status & 0x7F) | (_SUCCESS if success else 0)


def record_head(time_ms: int, flags: int) -> bytes:
    """Return what records of one time and one kind have in common."""
    return _pack_head(time_ms, flags)


def success_tail(duration_s: float, connect_s: float, first_byte_s: float) -> bytes:
    """Return the rest of the record of an attempt that ended well and had no phases but these."""
    connect_us = microseconds(connect_s) if connect_s else 0
    return _pack_success(microseconds(duration_s), connect_us, microseconds(first_byte_s))


def quantise(row: ResultRow) -> ResultRow:
    """Return the row as it comes back from the store."""
    columns = ResultColumns()
    columns.add(columns.pack(row), milliseconds(row.time_s))
    return columns.rows(row.target)[0]


def _each_plane(columns: Iterable[array[int] | array[float]]) -> Iterator[bytes]:
    for column in columns:
        raw = column.tobytes()
        size = column.itemsize
        yield from (raw[plane::size] for plane in range(size))


def _planes(columns: Iterable[array[int] | array[float]]) -> bytes:
    return b"".join(_each_plane(columns))


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
    header = BlockHeader(1, len(codes_columns[0]), words)
    return _encode((header, zlib.compress(_planes(codes_columns), level)))


def _columns_of(records: bytes | bytearray) -> list[array[int]]:
    columns = []
    offset = 0
    count = len(records) // RECORD_BYTES
    for code in _CODES:
        column: array[int] = array(code)
        size = column.itemsize
        mixed = bytearray(size * count)
        for plane in range(size):
            mixed[plane::size] = records[offset + plane :: RECORD_BYTES]
        column.frombytes(mixed)
        columns.append(column)
        offset += size
    return columns


def _records_of(columns: Sequence[array[int]]) -> bytearray:
    records = bytearray(RECORD_BYTES * len(columns[0]))
    for offset, plane in enumerate(_each_plane(columns)):
        records[offset::RECORD_BYTES] = plane
    return records


def _seal_records(records: bytes | bytearray, more: Sequence[array[int]], words: list[str], level: int) -> bytes:
    """Return what `_seal` returns for the columns of these records, times as differences, and some more columns."""
    raw = bytes(records)
    count = len(raw) // RECORD_BYTES
    times = bytearray(8 * count)
    for plane in range(8):
        times[plane::8] = raw[plane::RECORD_BYTES]
    column = array("q")
    column.frombytes(times)
    rest = b"".join(raw[plane::RECORD_BYTES] for plane in range(8, RECORD_BYTES))
    planes = _planes([_deltas(column)]) + rest + _planes(more)
    return _encode((BlockHeader(1, count, words), zlib.compress(planes, level)))


def _open(data: bytes, codes: str) -> tuple[list[array[int]], list[str]]:
    header, body = _decode(data)
    return _unplane(zlib.decompress(body), codes, header.count), header.words


class Columns:
    """Rows of one owner in order of arrival."""

    __slots__ = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def last_ms(self) -> int:
        """Return the time of the newest row; there must be one."""
        raise NotImplementedError

    def slice(self, start: int, stop: int) -> Self:
        """Return a copy of rows start to stop; words are shared, they only grow."""
        raise NotImplementedError


class ResultColumns(Columns):
    """Results of one target in order of arrival.

    What is added is kept as records, which costs one call a row; columns are made of them when somebody reads, and a
    block takes its byte planes right out of the records.
    """

    __slots__ = ("_columns", "_last_ms", "_records", "words")

    def __init__(self) -> None:
        # Of these two one may be missing.
        self._records: bytearray | None = bytearray()
        self._columns: list[array[int]] | None = None
        self._last_ms = 0
        self.words = [""]

    def __len__(self) -> int:
        records = self._records
        return len(records) // RECORD_BYTES if records is not None else len(self.columns[0])

    @property
    def columns(self) -> list[array[int]]:
        """All columns. Several threads may make them at once, which does no harm."""
        columns = self._columns
        if columns is None:
            columns = self._columns = _columns_of(self.records)
        return columns

    @property
    def records(self) -> bytearray:
        records = self._records
        if records is None:
            records = self._records = _records_of(self.columns)
        return records

    @property
    def times(self) -> array[int]:
        return self.columns[0]

    @property
    def flags(self) -> array[int]:
        return self.columns[1]

    @property
    def reasons(self) -> array[int]:
        return self.columns[2]

    @property
    def durations(self) -> array[int]:
        return self.columns[3]

    @property
    def phases(self) -> list[array[int]]:
        return self.columns[4:9]

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

    def pack(self, row: ResultRow) -> bytes:
        """Return the row as a record of this piece: words are numbered in each."""
        # On the path of every attempt: phases that did not happen, most of them, cost no call.
        resolve_s, connect_s, tls_s, transfer_s = row.resolve_s, row.connect_s, row.tls_s, row.transfer_s
        reason = row.reason
        return pack_record(
            round(row.time_s * 1000),
            flags_of(row.status, success=row.success),
            self.word(reason) if reason else 0,
            microseconds(row.duration_s),
            microseconds(resolve_s) if resolve_s else 0,
            microseconds(connect_s) if connect_s else 0,
            microseconds(tls_s) if tls_s else 0,
            microseconds(row.first_byte_s),
            microseconds(transfer_s) if transfer_s else 0,
        )

    def add(self, record: bytes, time_ms: int) -> None:
        """Add a record. time_ms: the time that is in it."""
        records = self._records
        if records is None:
            records = self.records
        records += record
        self._columns = None
        self._last_ms = time_ms

    def last_ms(self) -> int:
        return self._last_ms

    def slice(self, start: int, stop: int) -> Self:
        part = type(self)()
        part._records = self.records[start * RECORD_BYTES : stop * RECORD_BYTES]  # noqa: SLF001 - one of us
        part._last_ms = self._last_ms  # noqa: SLF001
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
            for ms, flag, word, total, one, two, three, four, five in zip(*self.columns, strict=True)
        ]  # fmt: skip

    def encode(self, level: int = SMALL) -> bytes:
        return _seal_records(self.records, [], self.words, level)

    @classmethod
    def decode(cls, data: bytes) -> ResultColumns:
        columns, words = _open(data, _CODES)
        return cls.of(columns, words)

    @classmethod
    def of(cls, columns: list[array[int]], words: list[str]) -> ResultColumns:
        """Return columns as a block has them, times as differences."""
        out = cls()
        columns[0] = array("q", accumulate(columns[0]))
        out._records, out._columns = None, columns
        out._last_ms = columns[0][-1] if columns[0] else 0
        out.words = words
        return out


class SampleColumns(Columns):
    """Samples of one series in order of arrival."""

    __slots__ = ("times", "values")

    def __init__(self) -> None:
        self.times = array("q")
        self.values = array("d")

    def __len__(self) -> int:
        return len(self.times)

    def last_ms(self) -> int:
        return self.times[-1]

    def slice(self, start: int, stop: int) -> Self:
        part = type(self)()
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

    __slots__ = ("_owners", "_records", "_words")

    def __init__(self) -> None:
        self._records = bytearray()
        self._owners = array("I")
        self._words: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self._owners)

    def add_successes(self, owners: list[int], records: list[bytes]) -> None:
        """Add records without words, each of its owner's."""
        self._owners.extend(owners)
        self._records += b"".join(records)

    def add(self, owner_id: int, record: bytes, reason: str) -> None:
        """Add a record of the owner's; its word gets another number here."""
        self._owners.append(owner_id)
        if reason:
            word = self._words.setdefault(reason, len(self._words))
            record = record[:_WORD_AT] + word.to_bytes(2, sys.byteorder) + record[_WORD_AT + 2 :]
        self._records += record

    def encode(self) -> bytes:
        return _seal_records(self._records, [self._owners], list(self._words), FAST)

    @staticmethod
    def decode(data: bytes) -> tuple[array[int], ResultColumns]:
        """Return owner ids and their results, in order of arrival."""
        columns, words = _open(data, _CODES + "I")
        return columns[9], ResultColumns.of(columns[:9], words)


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
