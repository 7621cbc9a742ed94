"""Records as the JSON that sinks send: ids and own fields of all lines at once, with no object for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.rows import ABSENT, Unread, crc32s, hexes, mapping

_ENCODER = msgspec.json.Encoder()
_HEAD = b'{"id":"'
_ID = itemgetter(slice(len(_HEAD), None))
_FIRST, _LAST = itemgetter(0), itemgetter(2)
_TAIL = itemgetter(slice(1, None))
_EMPTY = b"}"
# A message and nothing else; spaces may stand between.
_ONLY_MESSAGE = re.compile(rb',\s*"message"\s*:\s*("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*}\s*').fullmatch


class Pieces(NamedTuple):
    """A block's records as JSON, each of which is: `{"id":"`, its id, the frame, and its own fields, with a comma
    before and the brace behind.

    ids: as they stand in JSON, without quotes. texts: of records that are lines as they were read, these as JSON.
    """

    ids: list[bytes]
    frame: bytes
    rests: list[bytes]
    texts: list[bytes] | None = None

    def documents(self) -> list[bytes]:
        """Return each record as JSON."""
        return list(map(b"".join, zip(repeat(_HEAD), self.ids, repeat(self.frame), self.rests, strict=False)))

    def lines(self) -> bytes:
        """Return the records as JSON, each on a line."""
        return joined((_HEAD, self.frame, b"\n"), self.ids, self.rests)

    def own(self) -> list[bytes]:
        """Return the own fields of each record as an object."""
        if _EMPTY in self.rests:
            return [b"{}" if one == _EMPTY else b"{%b" % one[1:] for one in self.rests]
        return list(map(b"{".__add__, map(_TAIL, self.rests)))

    def messages(self) -> list[bytes]:
        """Return what protocols with one text for each record send, as a JSON text: the message, where there is nothing
        else, or all own fields.
        """
        if self.texts is not None:
            return self.texts
        found = _ENCODER.encode_lines(b"\n".join(self.own()).decode().split("\n")).split(b"\n")
        found.pop()
        if any(b'"message"' in one for one in self.rests):
            alone = map(_ONLY_MESSAGE, self.rests)
            found = [one if match is None else match[1] for one, match in zip(found, alone, strict=True)]
        return found

    def may_have(self, names: Sequence[bytes]) -> bool:
        """Return whether some record may have a field with such a name, one that JSON writes as it is."""
        if self.texts is not None:
            return b"message" in names
        data = b"".join(self.rests)
        return any(b'%b"' % name in data for name in names)

    def columns(self, names: tuple[str, ...]) -> list[list[Any]]:
        """Return the values of each name, ABSENT where a record has none."""
        if self.texts is not None:
            absent = [ABSENT] * len(self.ids)
            return [list(map(msgspec.json.decode, self.texts)) if one == "message" else absent for one in names]
        own = self.own()
        decoder, attributes = _glimpse(names)
        try:
            items = decoder.decode_lines(b"\n".join(own))
        except msgspec.MsgspecError:
            # A number beyond what a double holds.
            found = list(map(mapping, own))
            return [[one.get(name, ABSENT) for one in found] for name in names]
        return [list(map(attribute, items)) for attribute in attributes]


@lru_cache(64)
def _glimpse(names: tuple[str, ...]) -> tuple[Any, list[Callable[[Any], Any]]]:
    """Return the decoder of objects that have a few values of a line, and what reads each of these."""
    fields = [(f"f{at}", Any, msgspec.field(default=ABSENT, name=name)) for at, name in enumerate(names)]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Glimpse", fields, gc=False))
    return decoder, [attrgetter(f"f{at}") for at in range(len(names))]


def joined(between: Sequence[bytes], *columns: Sequence[bytes]) -> bytes:
    """Return the values of a row after each other, with what stands before each column's and behind the last's."""
    count, width = len(columns[0]), 2 * len(columns)
    if not count:
        return b""
    first, *middle, last = between
    row = [part for before in (last + first, *middle) for part in (before, b"")]
    parts = row * count
    parts[0] = first
    for at, column in enumerate(columns):
        parts[2 * at + 1 :: width] = column
    parts.append(last)
    return b"".join(parts)


def frame_of(block: Block) -> bytes:
    """Return what stands between a record's id and its own fields."""
    return b'","source":%b,"file":%b' % (_ENCODER.encode(block.source), _ENCODER.encode(block.path))


def plain_pieces(block: Block) -> Pieces:
    """Cut a block of which nothing was made."""
    unread = Unread(block)
    texts = _ENCODER.encode_lines(unread.texts()).split(b"\n")
    texts.pop()
    stream = _ENCODER.encode(block.stream)[1:-1] + b":"
    offsets = _ENCODER.encode(unread.offsets)[1:-1].split(b",")
    checks = hexes(crc32s(unread.lines)).encode().split(b" ")
    ids = list(map(b"".join, zip(repeat(stream), offsets, repeat(b":"), checks, strict=False)))
    return Pieces(ids, frame_of(block), [b',"message":%b}' % one for one in texts], texts)


def made_pieces(block: Block, lines: bytes) -> Pieces | None:
    """Cut a block whose records are JSON lines already; None where they do not begin as such."""
    documents = lines.split(b"\n")
    documents.pop()
    frame = frame_of(block)
    parts = list(map(bytes.partition, documents, repeat(frame)))
    heads = list(map(_FIRST, parts))
    ids, rests = list(map(_ID, heads)), list(map(_LAST, parts))
    if b"" in rests or b'"' in b"".join(ids) or not all(map(bytes.startswith, heads, repeat(_HEAD))):
        return None
    return Pieces(ids, frame, rests)
