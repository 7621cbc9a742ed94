"""OpenTelemetry's log records as protobuf, field by field over all records: no message object for each.

Written as opentelemetry/proto/logs/v1/logs.proto has them, in the order of field numbers, as its own library does.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, repeat
from operator import add, attrgetter
from typing import Any

import msgspec

from dogwatch.logs.fields import LEVELS, severity_number, times_ns
from dogwatch.logs.rows import ABSENT, MAX_NAMES, Book, mapping, storable
from dogwatch.logs.wire import Pieces

_VARINTS = [bytes((number,)) for number in range(128)]
_UINT64 = 2**64
_DOUBLE = struct.Struct("<d")
_TIME, _BODY, _ATTRIBUTE, _OBSERVED, _LOG_RECORD = b"\x09", b"\x2a", b"\x32", b"\x59", b"\x12"
_IDS = (("trace_id", b"\x4a", 16), ("span_id", b"\x52", 8))
# Before 1970: the protocol cannot say it.
_UNREAD = -1
_NAMES, _LEVELS, _NUMBERS, _REMEMBERED = 32, 1000, 1000, 10_000
_SAMPLE, _FEW = 64, 16


def varint(number: int) -> bytes:
    if number < 128:
        return _VARINTS[number]
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def sized(tag: bytes, data: bytes) -> bytes:
    """Return a field that has a length: a text, bytes, or a message."""
    return tag + varint(len(data)) + data


def key_value(name: str, value: object) -> bytes:
    """Return a KeyValue."""
    return sized(b"\x0a", _utf8(name)) + sized(b"\x12", any_value(value))


def any_value(value: object) -> bytes:
    """Return an AnyValue; empty for what is no value."""
    match value:
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int() if -(2**63) <= value < 2**63:
            return b"\x18" + varint(value % _UINT64)
        case float():
            return b"\x21" + _DOUBLE.pack(value)
        case list() | tuple():
            return sized(b"\x2a", b"".join(sized(b"\x0a", any_value(one)) for one in value))
        case Mapping():
            pairs = (sized(b"\x0a", key_value(str(name), one)) for name, one in value.items())
            return sized(b"\x32", b"".join(pairs))
        case None:
            return b""
    return sized(b"\x0a", _utf8(str(value)))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class _Heads(dict[int, bytes]):
    """What stands before a text of each length, in a field that holds nothing but it."""

    def __init__(self, tag: bytes, name: str) -> None:
        self._tag = tag
        self._before = sized(b"\x0a", _utf8(name)) + b"\x12" if name else b""

    def __missing__(self, size: int) -> bytes:
        value = b"\x0a" + varint(size)
        inner = self._before + varint(len(value) + size) if self._before else b""
        self[size] = head = self._tag + varint(len(inner) + len(value) + size) + inner + value
        return head


class _Numbers(dict[int, bytes]):
    """Whole numbers as fields."""

    def __init__(self, tag: bytes, name: str) -> None:
        self._tag = tag
        self._name = name

    def __missing__(self, number: int) -> bytes:
        self[number] = found = _field(self._tag, self._name, number)
        return found


class _Sizes(dict[int, bytes]):
    """What stands before a record of each size."""

    def __missing__(self, size: int) -> bytes:
        self[size] = found = _LOG_RECORD + varint(size)
        return found


def _field(tag: bytes, name: str, value: object) -> bytes:
    """Return an attribute, or with no name a value; nothing for what is none."""
    if value is ABSENT or value is None:
        return b""
    return sized(tag, key_value(name, value) if name else any_value(value))


class _Column:
    """Makes fields of one name. It remembers what it needs for values of the same size, or the same numbers."""

    def __init__(self, tag: bytes, name: str) -> None:
        self._tag = tag
        self._name = name
        self._heads = _Heads(tag, name)
        self._numbers = _Numbers(tag, name)

    def fields(self, values: Sequence[Any]) -> Iterable[bytes]:
        if (few := _few_texts(values)) is not None:
            return map({text: _field(self._tag, self._name, text) for text in few}.__getitem__, values)
        try:
            return self.texts(list(map(str.encode, values)))
        except (TypeError, UnicodeEncodeError):
            pass  # not only texts, or not all of them can be UTF-8
        # Of numbers that are all different none comes again: to remember them would only take memory.
        if set(map(type, values)) == {int} and len(set(values)) <= _NUMBERS:
            if len(self._numbers) > _NUMBERS:
                self._numbers.clear()
            return map(self._numbers.__getitem__, values)
        return [_field(self._tag, self._name, value) for value in values]

    def texts(self, values: Sequence[bytes]) -> Iterable[bytes]:
        if len(self._heads) > _REMEMBERED:
            self._heads.clear()
        return map(add, map(self._heads.__getitem__, map(len, values)), values)


def _few_texts(values: Sequence[Any]) -> set[str] | None:
    """Return the different values, where they are texts and few."""
    try:
        if len(set(values[:_SAMPLE])) <= _FEW and len(few := set(values)) <= _FEW and set(map(type, few)) == {str}:
            return few
    except TypeError:
        pass  # a list or an object
    return None


class Writer:
    """Makes log records of blocks; one thread at a time."""

    def __init__(self) -> None:
        self._book = Book()
        self._levels: dict[object, bytes] = {}
        self._fields: dict[str, _Column] = {}
        self._bodies = _Column(_BODY, "")
        self._sizes = _Sizes()

    def _column(self, name: str) -> _Column:
        if name not in self._fields:
            if len(self._fields) > MAX_NAMES:
                self._fields.clear()
            self._fields[name] = _Column(_ATTRIBUTE, name)
        return self._fields[name]

    def records(self, some: Pieces, path: str, now_ns: int) -> bytes:
        """Return the `log_records` of a ScopeLogs."""
        columns = self._columns(some)
        body = columns.pop("message", None)
        before = self._times(columns, len(some.ids), now_ns)
        if "level" in columns or "severity" in columns:
            before.append(self._severity(columns))
        if body is not None:
            before.append(self._bodies.fields(body))
        uids = self._column("log.record.uid").texts(_unescaped(some.ids))
        between = [uids, repeat(sized(_ATTRIBUTE, key_value("log.file.path", path)))]
        behind = [found for name, tag, size in _IDS if (found := _trace(columns, name, tag, size)) is not None]
        between += [self._column(name).fields(one) for name, one in columns.items() if one.count(ABSENT) < len(one)]
        end = repeat(_OBSERVED + struct.pack("<Q", now_ns))
        rows = list(map(b"".join, zip(*before, *between, *behind, end, strict=False)))
        if len(self._sizes) > _REMEMBERED:
            self._sizes.clear()
        parts = [b""] * (2 * len(rows))
        parts[::2], parts[1::2] = map(self._sizes.__getitem__, map(len, rows)), rows
        return b"".join(parts)

    def _columns(self, some: Pieces) -> dict[str, list[Any]]:
        if some.texts is not None:
            return {"message": some.columns(("message",))[0]}
        own, shape = some.own(), self._book.shape
        try:
            items = shape.decoder.decode_lines(b"\n".join(own))
        except msgspec.MsgspecError:
            # Names that are not known yet, or a number beyond what a double holds.
            found = list(map(mapping, own))
            names = dict.fromkeys(chain.from_iterable(found))
            self._book.learn(names)
            self._forget(names)
            return {name: [one.get(name, ABSENT) for one in found] for name in names}
        columns = {name: list(map(attrgetter(key), items)) for name, key in shape.attributes.items()}
        there = {name: column for name, column in columns.items() if column.count(ABSENT) < len(column)}
        self._forget(there)
        return there

    def _forget(self, there: Collection[str]) -> None:
        """Begin anew with these names where most others were not seen again: each costs, in every record."""
        if len(self._book.shape.names) > 2 * len(there) + _NAMES:
            self._book = Book(filter(storable, there))

    @staticmethod
    def _times(columns: dict[str, list[Any]], count: int, now_ns: int) -> list[Iterable[bytes]]:
        """Take the times of records out of the columns, but for those that are none."""
        stamps = columns.get("timestamp")
        if stamps is None:
            return [repeat(_TIME + struct.pack("<Q", now_ns))]
        times = times_ns(stamps, _UNREAD)
        if min(times) < 0 or max(times) >= _UINT64:
            said = [0 <= at < _UINT64 for at in times]
            columns["timestamp"] = [ABSENT if good else value for value, good in zip(stamps, said, strict=True)]
            times = [at if good else now_ns for at, good in zip(times, said, strict=True)]
        else:
            del columns["timestamp"]
        data = struct.pack(f"<{count}Q", *times)
        return [[_TIME + data[at : at + 8] for at in range(0, len(data), 8)]]

    def _severity(self, columns: dict[str, list[Any]]) -> Iterable[bytes]:
        """Take the levels of records out of the columns, but for those that are not known."""
        if len(self._levels) > _LEVELS:
            self._levels.clear()
        levels, others = columns.get("level"), columns.get("severity")
        if levels is None or others is None or ABSENT not in levels:
            return self._known(columns, "severity" if levels is None else "level")
        first = self._known(columns, "level")
        # Asked of records without a level only.
        asked = {"severity": [other if one is ABSENT else ABSENT for one, other in zip(levels, others, strict=True)]}
        second = self._known(asked, "severity")
        columns["severity"] = [ABSENT if found else other for found, other in zip(second, others, strict=True)]
        return map(add, first, second)

    def _known(self, columns: dict[str, list[Any]], name: str) -> list[bytes]:
        """Take the levels that are known out of a column."""
        values = columns[name]
        if (few := _few_texts(values)) is not None and all(map(self._level, few)):
            del columns[name]
            return list(map(self._levels.__getitem__, values))
        found = [self._level(value) if value.__class__ is str else b"" for value in values]
        columns[name] = [ABSENT if known else value for known, value in zip(found, values, strict=True)]
        return found

    def _level(self, text: str) -> bytes:
        known = self._levels.get(text)
        if known is None:
            number = LEVELS.get(text.lower())
            known = b""
            if number is not None:
                known = b"\x10" + varint(severity_number(text, number)) + sized(b"\x1a", _utf8(text))
            self._levels[text] = known
        return known


def _trace(columns: dict[str, list[Any]], name: str, tag: bytes, size: int) -> list[bytes] | None:
    """Take ids out of a column, but for those that are none."""
    column = columns.get(name)
    if column is None:
        return None
    ids = [_hex(value, size) for value in column]
    columns[name] = [ABSENT if found else value for found, value in zip(ids, column, strict=True)]
    return [sized(tag, found) if found else b"" for found in ids]


def _hex(value: object, size: int) -> bytes:
    """Return an id's bytes, or none where it is not one."""
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""
    return found if len(found) == size and any(found) else b""


def _unescaped(ids: list[bytes]) -> list[bytes]:
    if b"\\" not in b"".join(ids):
        return ids
    return [_utf8(msgspec.json.decode(b'"%b"' % one)) for one in ids]
