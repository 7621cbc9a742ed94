"""Cutting what was read at line ends, in any encoding, with very long lines bounded."""

from __future__ import annotations

import codecs

import msgspec

from dogwatch.errors import UsageError


class Cut(msgspec.Struct, frozen=True):
    """Whole lines as UTF-8. end: the offset after them. starts: offsets of lines, None where nothing was moved."""

    data: bytes
    end: int
    starts: tuple[int, ...] | None


class Text:
    """An encoding: where its lines end, and how they become UTF-8. "" or utf-8: bytes pass as they are."""

    def __init__(self, encoding: str) -> None:
        self.name = codecs.lookup(encoding).name if encoding else "utf-8"
        self.plain = self.name in {"utf-8", "ascii"}
        self.width = 4 if "32" in self.name else 2 if "16" in self.name and self.name.startswith("utf") else 1
        if not self.plain and self.name in {"utf-16", "utf-32"}:
            # Each block is decoded by itself, so the byte order must be said.
            self.name += "-le"
        self.newline = "\n".encode(self.name) if not self.plain else b"\n"
        if len(self.newline) != self.width:
            raise UsageError(f"lines of encoding '{encoding}' cannot be told apart")

    def last(self, data: bytes) -> int:
        """Return the length up to and with the last newline; 0 if there is none. data begins at a character."""
        at = data.rfind(self.newline)
        while at > 0 and at % self.width:
            at = data.rfind(self.newline, 0, at + self.width - 1)
        return at + self.width if at >= 0 else 0

    def first(self, data: bytes, start: int = 0) -> int:
        """Return the place after the first newline from start on; 0 if there is none."""
        at = data.find(self.newline, start)
        while at >= 0 and at % self.width:
            at = data.find(self.newline, at + 1)
        return at + self.width if at >= 0 else 0

    def cut(self, data: bytes, begin: int, end: int) -> Cut:
        """Return lines as UTF-8. data: whole lines, the last perhaps without its newline. end: the offset after."""
        if self.plain:
            return Cut(data if data.endswith(b"\n") else data + b"\n", end, None)
        starts, lines = [], []
        at = 0
        while at < len(data):
            after = self.first(data, at) or len(data)
            starts.append(begin + at)
            text = data[at:after].decode(self.name, "replace")
            if begin + at == 0:
                text = text.removeprefix("\ufeff")
            lines.append(text.removesuffix("\n").replace("\n", " ").encode("utf-8", "replace"))
            at = after
        return Cut(b"\n".join(lines) + b"\n", end, tuple(starts))
