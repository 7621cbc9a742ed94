"""How commands print: tables that fit the terminal, JSON that is only JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence

import click
import msgspec

from dogwatch.core.units import format_duration

# Shape and word carry the status, colour only helps.
_STYLES = {
    "up": ("●", "green"),
    "degraded": ("◐", "yellow"),
    "down": ("✖", "red"),
    "pending": ("○", "bright_black"),
    "paused": ("‖", "bright_black"),
    "maintenance": ("◇", "blue"),
}


def print_json(data: object) -> None:
    """Print data as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2))


def status_text(status: str) -> str:
    """Return `● up`, coloured where the terminal shows colours."""
    mark, colour = _STYLES.get(status, ("?", "white"))
    return click.style(f"{mark} {status}", fg=colour)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, widest: int | None = None) -> None:
    """Print a plain table; the column `widest` is cut to make the rest fit the terminal."""
    import shutil

    cells = [list(row) for row in rows]
    widths = [max([len(header), *(_length(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    room = shutil.get_terminal_size((80, 24)).columns - 2 * (len(headers) - 1)
    if widest is not None and sys.stdout.isatty():
        widths[widest] = max(12, min(widths[widest], room - sum(widths) + widths[widest]))
    click.echo(click.style(_line(headers, widths), bold=True))
    for row in cells:
        click.echo(_line(row, widths))


def _length(text: str) -> int:
    return len(click.unstyle(text))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    out = []
    for text, width in zip(row, widths, strict=True):
        length = _length(text)
        out.append(f"{click.unstyle(text)[: width - 1]}…" if length > width else text + " " * (width - length))
    return "  ".join(out).rstrip()


def ago(time_s: float | None) -> str:
    """Return how long ago a wall-clock time was, or `never`."""
    if time_s is None:
        return "never"
    return f"{format_duration(max(0.0, round(time.time() - time_s)))} ago" if time.time() - time_s >= 1 else "now"


def milliseconds(seconds: float | None) -> str:
    """Return `12.3 ms`, or `-`."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
