"""The operations `line` and `block`: lines within a file that others write, too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from dogwatch.fleet.operations.editing import EditOperation
from dogwatch.fleet.operations.text import pattern, with_block, with_line, without_lines


class LineOperation(EditOperation, frozen=True, kw_only=True):
    """A file has this line, or has no such line.

    line: as it should be. match: regular expression; the last line that it is found in is replaced (with absent: all of
    them are taken away). after: regular expression; a new line goes behind the last line that it is found in. before:
    likewise, in front of the first. Without them it goes to the end.
    """

    kind: ClassVar[str] = "line"

    line: str | None = None
    match: str | None = None
    after: str | None = None
    before: str | None = None

    def part_faults(self) -> Iterable[tuple[str, str, str]]:
        if self.line is not None and ("\n" in self.line or "\r" in self.line):
            yield "line", "is more than one line", "`block:` puts in several"
        if self.line is None and (self.state == "present" or self.match is None):
            yield "line", "is missing", ""

    def changed(self, text: str, *, absent: bool) -> str:
        match = None if self.match is None else pattern(self.match, "match")
        if absent:
            return without_lines(text, self.line, match)
        after = None if self.after is None else pattern(self.after, "after")
        before = None if self.before is None else pattern(self.before, "before")
        return with_line(text, self.line or "", match=match, after=after, before=before)


class BlockOperation(EditOperation, frozen=True, kw_only=True):
    """A file has a block of lines between two marks.

    block: its lines. mark: the comment around it; `{mark}` is BEGIN or END. name: told in the mark, so that one file
    may have several. after: regular expression; a new block goes behind the last line that it is found in. before:
    likewise, in front of the first.
    """

    kind: ClassVar[str] = "block"

    block: str = ""
    mark: str = "# {mark} {name}"
    name: str = "dogwatch"
    after: str | None = None
    before: str | None = None

    def part_faults(self) -> Iterable[tuple[str, str, str]]:
        if "{mark}" not in self.mark or "\n" in self.mark + self.name:
            yield "mark", "must be one line with {mark} in it", ""

    def changed(self, text: str, *, absent: bool) -> str:
        begin, finish = (self.mark.replace("{mark}", word).replace("{name}", self.name) for word in ("BEGIN", "END"))
        after = None if self.after is None else pattern(self.after, "after")
        before = None if self.before is None else pattern(self.before, "before")
        return with_block(text, None if absent else self.block, begin, finish, after=after, before=before)
