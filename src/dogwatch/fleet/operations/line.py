"""The operations `line` and `block`: lines within a file that others write, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, parse_mode, path_needs
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Need, State
from dogwatch.fleet.operations.steps import AnyStep
from dogwatch.fleet.operations.text import current, edited, pattern, with_block, with_line, without_lines


class LineOperation(Operation, frozen=True, kw_only=True):
    """A file has this line, or has no such line.

    path: of the file. line: as it should be. match: regular expression; the last line that it is found in is replaced
    (with absent: all of them are taken away). after: regular expression; a new line goes behind the last line that it
    is found in. before: likewise, in front of the first. Without them it goes to the end. state: present or absent.
    create: make the file where it is not there. mode: permissions. owner: user. group: group.
    """

    kind: ClassVar[str] = "line"

    path: str
    line: str | None = None
    match: str | None = None
    after: str | None = None
    before: str | None = None
    state: Literal["present", "absent"] = "present"
    create: bool = False
    mode: str | None = None
    owner: str | None = None
    group: str | None = None

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        if self.line is not None and ("\n" in self.line or "\r" in self.line):
            yield "line", "is more than one line", "`block:` puts in several"
        if self.line is None and (self.state == "present" or self.match is None):
            yield "line", "is missing", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        absent = self.state == "absent"
        if absent and not state.loose and state.get(PathNeed(path=self.path)).type == "absent":
            return
        text = current(state, self.path, create=self.create)
        match = None if self.match is None else pattern(self.match, "match")
        if absent:
            text = without_lines(text, self.line, match)
        else:
            after = None if self.after is None else pattern(self.after, "after")
            before = None if self.before is None else pattern(self.before, "before")
            text = with_line(text, self.line or "", match=match, after=after, before=before)
        yield from edited(
            state, self.path, text, Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        )


class BlockOperation(Operation, frozen=True, kw_only=True):
    """A file has a block of lines between two marks.

    path: of the file. block: its lines. mark: the comment around it; `{mark}` is BEGIN or END. name: told in the mark,
    so that one file may have several. after: regular expression; a new block goes behind the last line that it is
    found in. before: likewise, in front of the first. state: present or absent. create: make the file where it is not
    there. mode: permissions. owner: user. group: group.
    """

    kind: ClassVar[str] = "block"

    path: str
    block: str = ""
    mark: str = "# {mark} {name}"
    name: str = "dogwatch"
    after: str | None = None
    before: str | None = None
    state: Literal["present", "absent"] = "present"
    create: bool = False
    mode: str | None = None
    owner: str | None = None
    group: str | None = None

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        if "{mark}" not in self.mark or "\n" in self.mark + self.name:
            yield "mark", "must be one line with {mark} in it", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        absent = self.state == "absent"
        if absent and not state.loose and state.get(PathNeed(path=self.path)).type == "absent":
            return
        text = current(state, self.path, create=self.create)
        begin, finish = (self.mark.replace("{mark}", word).replace("{name}", self.name) for word in ("BEGIN", "END"))
        after = None if self.after is None else pattern(self.after, "after")
        before = None if self.before is None else pattern(self.before, "before")
        text = with_block(text, None if absent else self.block, begin, finish, after=after, before=before)
        yield from edited(
            state, self.path, text, Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        )
