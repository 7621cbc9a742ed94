"""Edits of a file's lines, as pure functions over its text; what they do not touch stays byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dogwatch.fleet.operations.files import Wanted, existing, put_file
from dogwatch.fleet.operations.state import Refused, State
from dogwatch.fleet.operations.steps import AnyStep


def current(state: State, path: str, *, create: bool) -> str:
    """Return the text of a file that is to be edited. Raises: Refused, Later."""
    fact = existing(state, path)
    if fact.type == "link":
        raise Refused(f"{path} is a symbolic link to {fact.target}", hint="name the file itself")
    if fact.type == "absent" and not create:
        raise Refused(f"{path} is not there", hint="create: true makes it")
    return (fact.content or b"").decode(errors="surrogateescape")


def edited(state: State, path: str, text: str, wanted: Wanted) -> Iterator[AnyStep]:
    """Yield what gives the file this text, which was made from what `current` returned."""
    yield from put_file(state, path, text.encode(errors="surrogateescape"), wanted)


def pattern(text: str, name: str) -> re.Pattern[str]:
    """Return a compiled regular expression. Raises: Refused."""
    try:
        return re.compile(text)
    except re.error as error:
        raise Refused(f"{name}: '{text}' is not a regular expression: {error}") from None


def with_line(
    text: str,
    line: str,
    *,
    match: re.Pattern[str] | None = None,
    after: re.Pattern[str] | None = None,
    before: re.Pattern[str] | None = None,
) -> str:
    """Return the text with the line in it once.

    match: the last line that it is found in is replaced. after, before: where a new one goes; at the end otherwise.
    """
    lines, end = split(text)
    if match is not None:
        found = [at for at, one in enumerate(lines) if match.search(bare(one))]
        if found:
            lines[found[-1]] = line + (ending(lines[found[-1]]) or end)
            return "".join(lines)
    if any(bare(one) == line for one in lines):
        return text
    insert(lines, place(lines, after, before), [line + end], end)
    return "".join(lines)


def without_lines(text: str, line: str | None, match: re.Pattern[str] | None) -> str:
    """Return the text without lines that are this one, or that the expression is found in."""
    lines, _ = split(text)
    return "".join(one for one in lines if not (match.search(bare(one)) if match is not None else bare(one) == line))


def with_block(
    text: str,
    block: str | None,
    begin: str,
    finish: str,
    *,
    after: re.Pattern[str] | None = None,
    before: re.Pattern[str] | None = None,
) -> str:
    """Return the text with the block between its two marks, in the place of the one that is there; None: without it.

    Raises: Refused where only one of the marks is there.
    """
    lines, end = split(text)
    starts = [at for at, one in enumerate(lines) if bare(one) == begin]
    ends = [at for at, one in enumerate(lines) if bare(one) == finish]
    if len(starts) > 1 or len(ends) > 1 or len(starts) != len(ends) or (starts and starts[0] > ends[0]):
        raise Refused(f"the marks '{begin}' and '{finish}' are not there exactly once each, in this order")
    new = [] if block is None else [f"{one}{end}" for one in (begin, *block.splitlines(), finish)]
    if starts:
        lines[starts[0] : ends[0] + 1] = new
    elif new:
        insert(lines, place(lines, after, before), new, end)
    return "".join(lines)


def split(text: str) -> tuple[list[str], str]:
    """Return the lines with their ends, and the end that new lines get."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return lines, "\r\n" if lines and lines[0].endswith("\r\n") else "\n"


def bare(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def ending(line: str) -> str:
    return line[len(bare(line)) :]


def place(lines: list[str], after: re.Pattern[str] | None, before: re.Pattern[str] | None) -> int:
    if after is not None:
        found = [at for at, one in enumerate(lines) if after.search(bare(one))]
        if found:
            return found[-1] + 1
    if before is not None:
        found = [at for at, one in enumerate(lines) if before.search(bare(one))]
        if found:
            return found[0]
    return len(lines)


def insert(lines: list[str], at: int, new: list[str], end: str) -> None:
    """Put lines in; a last line without an end gets one first."""
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += end
    lines[at:at] = new
