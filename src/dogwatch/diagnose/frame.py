"""A place in the source, and how one is shown in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable
from types import CodeType, FrameType

import msgspec

WIDTH = 80


class Frame(msgspec.Struct, frozen=True, array_like=False, gc=False):
    """A function and the line it is at."""

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} ({short(self.file)}:{self.line})"


def of(frame: FrameType) -> Frame:
    code = frame.f_code
    return Frame(code.co_qualname, code.co_filename, frame.f_lineno or code.co_firstlineno)


def at(code: CodeType, offset: int) -> Frame:
    """Return the place of a bytecode offset: cheap to keep, turned into a line only when someone looks."""
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end and number is not None:
            line = number
    return Frame(code.co_qualname, code.co_filename, line)


def stack(frame: FrameType | None) -> list[Frame]:
    """Return the stack of a frame, outermost first."""
    found = []
    while frame is not None:
        found.append(of(frame))
        frame = frame.f_back
    return found[::-1]


def short(file: str) -> str:
    """Return the last folders of a path: `asyncio/tasks.py`."""
    return "/".join(file.rsplit("/", 2)[-2:])


def fit(text: str, width: int = WIDTH) -> str:
    """Cut a line to the terminal, saying so."""
    return text if len(text) <= width else text[: width - 1] + "…"


def table(heads: tuple[str, ...], rows: Iterable[tuple[object, ...]], *, width: int = WIDTH) -> str:
    """Return columns; numbers to the right, the last column gets what room is left."""
    texts = [tuple(str(cell) for cell in row) for row in rows]
    right = [all(text[i].replace(".", "").isdigit() for text in texts) and bool(texts) for i in range(len(heads))]
    widths = [max(len(text[i]) for text in [heads, *texts]) for i in range(len(heads))]
    lines = []
    for text in [heads, *texts]:
        cells = [
            cell.rjust(w) if to_right else cell.ljust(w) for cell, w, to_right in zip(text, widths, right, strict=True)
        ]
        lines.append(fit("  ".join(cells).rstrip(), width))
    return "\n".join(lines)
