"""Records as objects of one class for each set of names: what changes lines without a library of columns.

A decoder that knows the names beforehand reads JSON about twice as fast as one that makes columns, and keeps each
value's type; see docs/decisions/0106.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, compress, repeat
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.multiline import INNER

OWN = ("id", "source", "file")
MAX_NAMES = 500
# Of objects and lists in each other. What reads and writes them calls itself for each, and somewhere must end.
MAX_DEPTH = 128
ABSENT = msgspec.UNSET
_ODD_NAME = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
_FIRST, _LAST = itemgetter(0), itemgetter(-1)
_OPENING, _CLOSING = {ord("{")}, {ord("}")}
_BRACKET = re.compile(rb"[\[\]{}]")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MOST_DIGITS = 4000
_ENCODER = msgspec.json.Encoder(enc_hook=str)
_GENERIC = msgspec.json.Decoder()


def storable(name: str) -> bool:
    """Return whether records can have this name: without quotes, backslashes and control characters."""
    return _ODD_NAME.search(name) is None


def too_deep(line: bytes) -> bool:
    """Return whether JSON is nested deeper than `MAX_DEPTH`."""
    if len(line) < 2 * MAX_DEPTH or len(line.split(b"[", MAX_DEPTH)) + len(line.split(b"{", MAX_DEPTH)) <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


class Shape:
    """The class of records with these names. attributes: name → attribute of a record."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        # Interned: otherwise each access by name would look for the one that is.
        self.attributes = {name: sys.intern(f"f{at}") for at, name in enumerate(names)}
        fields = [
            *((name, Any, msgspec.field(default=ABSENT)) for name in OWN),
            *((self.attributes[name], Any, msgspec.field(default=ABSENT, name=name)) for name in names),
        ]
        self.type: Any = msgspec.defstruct("Record", fields, forbid_unknown_fields=True, gc=False)
        self.decoder = msgspec.json.Decoder(self.type)


class Book:
    """The names that one route has met. extras: what its steps write. A block is read with all names of its route."""

    def __init__(self, extras: Iterable[str] = ()) -> None:
        self._extras = tuple(dict.fromkeys(name for name in ("message", *extras) if name not in OWN))
        self.shape = Shape(self._extras)

    def learn(self, found: Iterable[str]) -> bool:
        """Take up new names; return whether there were any. Beyond the limit it begins anew with these alone."""
        known = self.shape.attributes
        found = [name for name in found if name not in OWN and storable(name)]
        new = [name for name in dict.fromkeys(found) if name not in known]
        if not new:
            return False
        names = (*self.shape.names, *new)
        if len(names) > MAX_NAMES:
            names = tuple(dict.fromkeys((*self._extras, *found)))[:MAX_NAMES]
        self.shape = Shape(names)
        return True


class Rows:
    """A block's records while they are changed. offsets: of each line in its stream. lines: as they were read.

    literal: whether every text in the records comes out of their lines, and only once, but for what was added to all.
    """

    def __init__(
        self,
        shape: Shape,
        items: list[Any],
        offsets: list[int],
        lines: list[bytes] | None,
        crcs: list[int] | None = None,
    ) -> None:
        self.shape = shape
        self.items = items
        self.offsets = offsets
        self._lines = lines
        self._crcs = crcs
        self.literal = False
        self.added: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def size(self) -> int:
        """About how many bytes of memory it holds."""
        lines = self._lines or ()
        return len(self.items) * (80 + 24 * len(self.shape.names)) + 2 * sum(map(len, lines))

    @property
    def lines(self) -> Sequence[bytes]:
        """Return the lines as they were read; none where they are not known."""
        return self._lines or ()

    @property
    def crcs(self) -> list[int]:
        if self._crcs is None:
            self._crcs = crc32s(self.lines)
        return self._crcs

    def keep(self, flags: Sequence[object]) -> Rows:
        """Return the records whose flag is true."""
        lines = None if self._lines is None else list(compress(self._lines, flags))
        crcs = None if self._crcs is None else list(compress(self._crcs, flags))
        items, offsets = list(compress(self.items, flags)), list(compress(self.offsets, flags))
        kept = Rows(self.shape, items, offsets, lines, crcs)
        kept.literal, kept.added = self.literal, self.added
        return kept

    def at_most(self, char: str) -> int | None:
        """Return how often a character can be in all texts of the records together; None where that is not known."""
        if not self.literal or self._lines is None:
            return None
        whole = b"".join(self._lines)
        # Written as an escape it would not be seen. One byte is looked for much faster than several.
        if b"\\" in whole and b"\\u00" in whole:
            return None
        return whole.count(char.encode()) + len(self.items) * sum(one.count(char) for one in self.added)

    def column(self, name: str) -> list[Any] | None:
        """Return the values of a name, ABSENT where a record has none; None where no record can have it."""
        attribute = self.shape.attributes.get(name)
        return None if attribute is None else list(map(attrgetter(attribute), self.items))

    def values_of(self, at: int, names: Iterable[str]) -> dict[str, Any]:
        """Return what one record has of some names."""
        one, known = self.items[at], self.shape.attributes
        found = {name: getattr(one, known[name]) for name in names if name in known}
        return {name: value for name, value in found.items() if value is not ABSENT}

    def put(self, name: str, values: Iterable[object]) -> None:
        _assign(self.items, self.shape.attributes[name], values)

    def ids(self, stream: str) -> list[str]:
        checks = hexes(self.crcs).split()
        return list(map((stream.replace("%", "%%") + ":%d:%s").__mod__, zip(self.offsets, checks, strict=True)))

    def json_lines(self, block: Block) -> bytes:
        """Return the records as JSON lines with `id`, `source` and `file` first."""
        _assign(self.items, "id", self.ids(block.stream))
        _assign(self.items, "source", repeat(block.source))
        _assign(self.items, "file", repeat(block.path))
        return _ENCODER.encode_lines(self.items)

    def reshaped(self, shape: Shape, mappings: Sequence[dict[str, Any]]) -> Rows:
        """Return these records under another shape; what it has no name for is left out."""
        known = shape.attributes
        items = [shape.type(**{known[k]: v for k, v in one.items() if k in known}) for one in mappings]
        return Rows(shape, items, self.offsets, self._lines, self._crcs)

    def mappings(self) -> list[dict[str, Any]]:
        """Return each record as a mapping of what it has."""
        pairs = list(self.shape.attributes.items())
        return [
            {name: value for name, key in pairs if (value := getattr(one, key)) is not ABSENT and value is not None}
            for one in self.items
        ]

    def pack(self) -> bytes:
        """Return it for the disk."""
        found = self.mappings()
        try:
            return msgspec.msgpack.encode([self.offsets, self.crcs, found], enc_hook=str)
        except OverflowError:
            # A whole number of more than 64 bits, which only JSON has.
            return msgspec.msgpack.encode([self.offsets, self.crcs, _ENCODER.encode(found)])


def _assign(items: list[Any], attribute: str, values: Iterable[object]) -> None:
    # As a loop without bytecode: it runs for every name of every record.
    deque(map(setattr, items, repeat(attribute), values), 0)


def unpack(data: bytes) -> Rows:
    offsets, crcs, found = msgspec.msgpack.decode(data)
    return from_mappings(_GENERIC.decode(found) if isinstance(found, bytes) else found, offsets, None, crcs)


def from_mappings(
    found: Sequence[dict[str, Any]], offsets: list[int], lines: list[bytes] | None, crcs: list[int] | None
) -> Rows:
    names = dict.fromkeys(chain.from_iterable(found))
    shape = Shape([name for name in names if name not in OWN])
    items = [shape.type(**{shape.attributes[k]: v for k, v in one.items() if k not in OWN}) for one in found]
    return Rows(shape, items, offsets, lines, crcs)


_LITTLE = array("H", [1]).tobytes()[0] == 1


def hexes(crcs: Sequence[int]) -> str:
    """Return checksums as 8 digits each, with a space between them."""
    checks = array("I", crcs)
    if checks.itemsize != 4:
        return " ".join(f"{crc:08x}" for crc in crcs)
    if _LITTLE:
        checks.byteswap()
    return checks.tobytes().hex(" ", 4)


def crc32s(lines: Sequence[bytes]) -> list[int]:
    return list(map(_crc32(), lines))


def _crc32() -> Callable[[bytes], int]:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    crc32: Callable[[bytes], int] = isal_zlib.crc32
    return crc32


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


class Encoded:
    """Records as JSON lines already: made where the records were, while they are in the processor's cache."""

    def __init__(self, data: bytes, count: int) -> None:
        self.data = data
        self.count = count

    def __len__(self) -> int:
        return self.count

    def mappings(self) -> list[dict[str, Any]]:
        return [mapping(line) for line in self.data.splitlines()]


def mapping(line: bytes) -> Any:
    """Return a line of JSON that is an object, also one that stayed as it was: a number beyond what a double holds is
    infinite there, and a whole one of very many digits a text.

    Raises: ValueError where it is no JSON.
    """
    try:
        return _GENERIC.decode(line)
    except msgspec.MsgspecError:
        return json.loads(line, parse_int=_number)


def _number(digits: str) -> int | str:
    # Neither Python nor what writes and reads JSON takes more.
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def once_each(line: bytes) -> bytes:
    """Return a line of JSON in which each object has a name once, with the last value; the same line where it has."""
    repeated = False

    def pair(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated = repeated or len(found) < len(pairs)
        return found

    json.loads(line, object_pairs_hook=pair, parse_int=_number)
    return _ENCODER.encode(mapping(line)) if repeated else line


class Unread:
    """A block before anything was made of it: lines."""

    def __init__(self, block: Block) -> None:
        # Where lines stand for several, they are read as they were; their ids are of what stands in the block.
        self.joined = block.joined
        self.source, self.path = block.source, block.path
        self.data = block.data.replace(INNER, b"\n") if block.joined else block.data
        self.lines = block.lines()
        self.whole = [line.replace(INNER, b"\n") for line in self.lines] if block.joined else self.lines
        sizes = list(map(len, self.lines))
        self.longest, self.shortest = max(sizes, default=0), min(sizes, default=0)
        self.offsets = (
            list(block.starts)
            if block.starts is not None
            # One more for each newline.
            else list(accumulate([size + 1 for size in sizes], initial=block.begin))[:-1]
        )

    @property
    def objects(self) -> bool:
        """Return whether each line begins and ends as an object does.

        Then no value goes on beyond its line, and where there are as many values as lines each line is one. A decoder
        of lines does not see to that: a blank line and one with two objects would give each other's records.
        """
        lines = self.whole
        if not self.shortest:
            return False
        if set(map(_FIRST, lines)) == _OPENING and set(map(_LAST, lines)) == _CLOSING:
            return True
        return all(one[:1] == b"{" and one[-1:] == b"}" for one in map(bytes.strip, lines))

    @property
    def deep(self) -> bool:
        """Return whether a line is nested too deep to be read as JSON."""
        return self.longest >= 2 * MAX_DEPTH and any(map(too_deep, self.whole))

    def texts(self) -> list[str]:
        """Return the lines as text; what is not UTF-8 becomes U+FFFD, and a carriage return at an end goes."""
        if self.joined or b"\r" in self.data:
            return [_text(line) for line in self.whole]
        try:
            texts = self.data.decode().split("\n")
        except UnicodeDecodeError:
            return [_text(line) for line in self.whole]
        texts.pop()
        return texts

    def messages(self, book: Book) -> Rows:
        """Return records that have a message and nothing else."""
        shape = book.shape
        attribute = shape.attributes["message"]
        texts = self.texts()
        items = [shape.type() for _ in texts]
        for one, text in zip(items, texts, strict=True):
            setattr(one, attribute, text)
        return Rows(shape, items, self.offsets, self.lines)


def read_json(unread: Unread, book: Book, *, keep: bool) -> tuple[Rows, int]:
    """Return records of lines that are JSON objects, and how many are none: those have their text as message."""
    try:
        items = [] if unread.deep or not unread.objects else book.shape.decoder.decode_lines(unread.data)
        bad: dict[int, str] = {}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        items = []
    if len(items) != len(unread.lines):
        items, bad = _one_by_one(unread.whole, book)
    rows = Rows(book.shape, items, unread.offsets, unread.lines)
    rows.literal = not keep
    message = book.shape.attributes["message"]
    if keep:
        for one, line in zip(items, unread.whole, strict=True):
            setattr(one, message, _text(line))
    for at, text in bad.items():
        setattr(items[at], message, text)
    return rows, len(bad)


def read_json_in(rows: Rows, field: str, book: Book, *, keep: bool) -> tuple[Rows, int]:
    """Read the JSON objects in a field of records; what is in them replaces what a record has."""
    column = rows.column(field)
    if column is None:
        return rows, len(rows)
    found = [_object(value.encode()) if isinstance(value, str) else None for value in column]
    mappings = rows.mappings()
    unread = 0
    for mapping, one in zip(mappings, found, strict=True):
        if not isinstance(one, dict) or not all(map(storable, one)):
            unread += 1
            continue
        if not keep:
            mapping.pop(field, None)
        mapping.update(one)
    book.learn(dict.fromkeys(chain.from_iterable(mappings)))
    return rows.reshaped(book.shape, mappings), unread


def _one_by_one(lines: Sequence[bytes], book: Book) -> tuple[list[Any], dict[int, str]]:
    """Read lines of which some are no objects, or have names that are not known yet."""
    while True:
        decode, shape = book.shape.decoder.decode, book.shape
        items: list[Any] = []
        bad: dict[int, str] = {}
        names: dict[str, None] = {}
        for at, line in enumerate(lines):
            try:
                items.append(decode(_shallow(line)))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                found = _object(line)
                if isinstance(found, dict):
                    names.update(dict.fromkeys(found))
                bad[at] = _text(line)
                items.append(shape.type())
        if not names or not book.learn(names):
            return _replaced(items, bad, lines, shape)
        if len(book.shape.names) >= MAX_NAMES:
            # A second round with what has room; records with still other names keep their text.
            book.learn(())
            return _last_round(lines, book)


def _last_round(lines: Sequence[bytes], book: Book) -> tuple[list[Any], dict[int, str]]:
    decode, shape = book.shape.decoder.decode, book.shape
    items: list[Any] = []
    bad: dict[int, str] = {}
    for at, line in enumerate(lines):
        try:
            items.append(decode(_shallow(line)))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            bad[at] = _text(line)
            items.append(shape.type())
    return _replaced(items, bad, lines, shape)


def _replaced(
    items: list[Any], bad: dict[int, str], lines: Sequence[bytes], shape: Shape
) -> tuple[list[Any], dict[int, str]]:
    """Read again what was only not UTF-8: with a replacement character in its place."""
    for at in list(bad):
        found = _object(lines[at])
        if isinstance(found, dict) and all(name in shape.attributes or name in OWN for name in found):
            given = {shape.attributes[name]: value for name, value in found.items() if name not in OWN}
            items[at] = shape.type(**given)
            del bad[at]
    return items, bad


def _shallow(line: bytes) -> bytes:
    if too_deep(line):
        raise msgspec.DecodeError("it is nested too deep")
    return line


def _object(line: bytes) -> object:
    if too_deep(line):
        return None
    try:
        return _GENERIC.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        return _GENERIC.decode(line.decode("utf-8", "replace"))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
