"""JSON lines that stay as they were written, but for what a route's steps touch.

Only the values that steps ask for are read; the rest of each line is checked, and goes out as it came in. A part in
which one line is otherwise than expected goes through rows instead; see docs/decisions/0136.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Annotated, Any, NamedTuple, Protocol, cast, runtime_checkable

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.rows import ABSENT, OWN, Book, Rows, Shape, Unread, hexes, storable
from dogwatch.logs.transforms.blot import Blot, Blots

# All that can be around the fields of an object, but for its end.
_AROUND = b"{ \t"
# An escape in a name: records cannot have such names.
_ODD_NAME = re.compile(rb'\\.[^"\\]*"\s*:', re.DOTALL)
_MOST_PASSED = 256
# No value is of this type: a line that has such a field is refused by the decoder.
_Never = Annotated[int, msgspec.Meta(ge=1, le=0)]
_NONE = Shape(())


class Columns(NamedTuple):
    """What lines hold, cut out of them. named: what stands in JSON before each of some values, with these values. end:
    what stands behind them. values: the same by name, as records have them.
    """

    named: Sequence[tuple[str, list[str]]]
    end: str
    values: Mapping[str, list[Any]]


class Touch(msgspec.Struct, frozen=True, kw_only=True):
    """What a step touches. reads: names whose values it judges by `apply_rows`, to keep records or not.

    shuns: names that it would change; records that have one are not for it. adds: what it gives each record that has
    not got it. blots: what it changes in all texts. first: whether it is the one that reads lines.
    columns: how it makes JSON of lines that are none. makes: the names that records then have; no step after it may
    change these.
    """

    reads: frozenset[str] = frozenset()
    judges: bool = False
    shuns: frozenset[str] = frozenset()
    adds: Mapping[str, object] = {}
    blots: tuple[Blot | Blots, ...] = ()
    first: bool = False
    columns: Callable[[bytes, int], Columns | None] | None = None
    makes: frozenset[str] = frozenset()


@runtime_checkable
class Splicing(Protocol):
    """A step that can tell what it touches."""

    counts: dict[str, int]

    def touch(self) -> Touch | None:
        """Return it; None where its options do not allow lines to stay as they are."""
        ...

    def apply_rows(self, rows: Rows, book: Book) -> Rows: ...


class _Glimpse(Shape):
    """The class of records of which a few values are read. never: names that none of them may have."""

    def __init__(self, names: Sequence[str], never: Iterable[str]) -> None:
        self.names = tuple(names)
        self.attributes = {name: f"f{at}" for at, name in enumerate(names)}
        refused = [name for name in never if name not in self.attributes]
        fields = [
            *((key, Any, msgspec.field(default=ABSENT, name=name)) for name, key in self.attributes.items()),
            *((f"n{at}", _Never, msgspec.field(default=0, name=name)) for at, name in enumerate(refused)),
        ]
        self.type = msgspec.defstruct("Glimpse", fields, gc=False)
        self.decoder = msgspec.json.Decoder(self.type)


class _Cut(Rows):
    """Records of which there are columns alone. items: their places in these."""

    def __init__(
        self, values: Mapping[str, list[Any]], items: Sequence[int], offsets: list[int], lines: list[bytes]
    ) -> None:
        super().__init__(_NONE, list(items), offsets, lines)
        self._values = values

    def column(self, name: str) -> list[Any] | None:
        values = self._values.get(name)
        return None if values is None else self.chosen(values)

    def chosen(self, values: list[Any]) -> list[Any]:
        """Return what these records have of a column of all."""
        return values if len(values) == len(self.items) else list(map(values.__getitem__, self.items))

    def values_of(self, at: int, names: Iterable[str]) -> dict[str, Any]:
        return {name: self._values[name][self.items[at]] for name in names if name in self._values}

    def keep(self, flags: Sequence[object]) -> Rows:
        items, offsets = list(compress(self.items, flags)), list(compress(self.offsets, flags))
        return _Cut(self._values, items, offsets, list(compress(self.lines, flags)))


class Splice:
    """The plan of one route; one thread at a time."""

    def __init__(self, steps: Sequence[tuple[Splicing, Touch]]) -> None:
        self._judges = [step for step, touch in steps if touch.judges]
        self._blots = [blot for _step, touch in steps for blot in touch.blots]
        self._columns = steps[0][1].columns
        self._added = _added([touch for _step, touch in steps])
        reads = dict.fromkeys(name for _step, touch in steps for name in sorted(touch.reads) if name not in OWN)
        shuns = dict.fromkeys(name for _step, touch in steps for name in sorted(touch.shuns | touch.adds.keys()))
        # What is read and shunned, too, must be seen to be absent.
        self._absent = [name for name in reads if name in shuns]
        self._shape = _Glimpse(tuple(reads), (*OWN, *shuns))
        self._book = Book()
        self._passed = self._misses = 0

    @classmethod
    def of(cls, steps: Sequence[object]) -> Splice | None:
        """Return the plan; None where some step works on records alone."""
        found: list[tuple[Splicing, Touch]] = []
        for step in steps:
            touch = step.touch() if isinstance(step, Splicing) else None
            if touch is None or not isinstance(step, Splicing) or touch.first is bool(found):
                return None
            names = touch.reads | touch.shuns | touch.adds.keys()
            added = {name for _step, one in found for name in one.adds}
            # Once something was changed it cannot be read in the lines any more.
            blotted = any(one.blots for _step, one in found)
            if not all(map(storable, names)) or names & added or (touch.reads and blotted):
                return None
            if found and found[0][1].columns and (names - touch.reads) & found[0][1].makes:
                return None
            found.append((step, touch))
        return cls(found) if found else None

    def apply(self, block: Block) -> tuple[bytes, int, int] | None:
        """Return JSON lines, how many they are and of how many; None where the block must go another way.

        After misses it is tried ever more seldom: lines that are otherwise mostly stay so.
        """
        if self._passed < min(_MOST_PASSED, 2**self._misses - 1):
            self._passed += 1
            return None
        self._passed = 0
        found = self._apply(block)
        self._misses = 0 if found is not None else self._misses + 1
        return found

    def _apply(self, block: Block) -> tuple[bytes, int, int] | None:
        data = block.data
        if block.joined or block.starts is not None or b"\r" in data or not _sound(data):
            return None
        unread = Unread(block)
        columns: Columns | None = None
        if self._columns is None:
            items = self._glimpses(unread)
        else:
            columns = self._columns(data, len(unread.lines))
            items = None if columns is None else unread.lines
        if items is None:
            return None
        rows: Rows = (
            Rows(self._shape, items, unread.offsets, unread.lines)
            if columns is None
            else _Cut(columns.values, range(len(items)), unread.offsets, unread.lines)
        )
        if any(value is not ABSENT for name in self._absent for value in rows.column(name) or ()):
            return None
        head, tail = self._frame(block)
        counted = [dict(step.counts) for step in self._judges]
        for step in self._judges:
            rows = step.apply_rows(rows, self._book)
        lines = _joined(rows, head, tail) if columns is None else _woven(cast("_Cut", rows), head, tail, columns)
        for blot in self._blots:
            lines = (
                None if lines is None or (blot.needle and blot.needle.encode() in head + tail) else blot.in_json(lines)
            )
        if lines is None:
            # It goes another way, and is counted there.
            for step, before in zip(self._judges, counted, strict=True):
                step.counts.update(before)
            return None
        return lines, len(rows), len(items)

    def _glimpses(self, unread: Unread) -> list[Any] | None:
        if unread.deep or not unread.objects:
            return None
        try:
            items = self._shape.decoder.decode_lines(unread.data)
        except msgspec.MsgspecError:
            return None
        return items if len(items) == len(unread.lines) else None

    def _frame(self, block: Block) -> tuple[bytes, bytes]:
        """Return what stands before a record's offset, and between its checksum and its own fields."""
        encode = msgspec.json.encode
        added = b"".join(b",%b:%b" % (encode(name), encode(value)) for name, value in self._added.items())
        middle = b'","source":%b,"file":%b%b,' % (encode(block.source), encode(block.path), added)
        return b'{"id":%b:' % encode(block.stream)[:-1], middle


def _sound(data: bytes) -> bool:
    """Return whether it is UTF-8 and no name has an escape: what the decoder does not look at where it skips."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
    return b"\\" not in data or _ODD_NAME.search(data) is None


def _joined(rows: Rows, head: bytes, tail: bytes) -> bytes | None:
    """Return the lines, each with its id and what was added before what it had; None where one has nothing."""
    count = len(rows)
    if not count:
        return b""
    bodies = list(map(bytes.strip, rows.lines, repeat(_AROUND)))
    if b"}" in bodies:
        return None  # an empty object: before what it has there can be no comma
    parts = [b"\n" + head, b"", b":", b"", tail, b""] * count
    parts[0] = head
    # Written together and cut: many times faster than each number by itself.
    parts[1::6] = msgspec.json.encode(rows.offsets)[1:-1].split(b",")
    parts[3::6] = hexes(rows.crcs).encode().split(b" ")
    parts[5::6] = bodies
    parts.append(b"\n")
    return b"".join(parts)


def _woven(rows: _Cut, head: bytes, tail: bytes, columns: Columns) -> bytes:
    """Return the lines that columns make, in the same way."""
    count, named, end = len(rows), columns.named, columns.end
    if not count:
        return b""
    between = [part for before, _values in named for part in (before, "")]
    between[0] = tail.decode() + between[0]
    begin, width = head.decode(), 4 + len(between)
    parts = [f"{end}\n{begin}", "", ":", "", *between] * count
    parts[0] = begin
    parts[1::width] = msgspec.json.encode(rows.offsets)[1:-1].decode().split(",")
    parts[3::width] = hexes(rows.crcs).split(" ")
    for at, (_before, values) in enumerate(named):
        parts[5 + 2 * at :: width] = rows.chosen(values)
    parts.append(f"{end}\n")
    return "".join(parts).encode()


def _added(touches: Iterable[Touch]) -> dict[str, object]:
    """Return what all records get, as the steps after leave it."""
    added: dict[str, object] = {}
    for touch in touches:
        for blot in touch.blots:
            added = {name: blot.one(value) if isinstance(value, str) else value for name, value in added.items()}
        added.update({name: value for name, value in touch.adds.items() if name not in OWN})
    return added
