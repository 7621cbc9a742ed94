"""How commands print: tables that fit the terminal, JSON that is only JSON."""

from __future__ import annotations

import itertools
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
    "scheduled": ("○", "bright_black"),
    "queued": ("○", "bright_black"),
    "running": ("▶", "blue"),
    "waiting": ("◇", "yellow"),
    "succeeded": ("✔", "green"),
    "failed": ("✖", "red"),
    "cancelled": ("⊘", "yellow"),
    "skipped": ("–", "bright_black"),
    "active": ("●", "green"),
    "draining": ("◐", "yellow"),
    "lost": ("✖", "red"),
}


def print_json(data: object) -> None:
    """Print data as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2))


def status_text(status: str) -> str:
    """Return `● up`, coloured where the terminal shows colours."""
    mark, colour = _STYLES.get(status, ("?", "white"))
    return click.style(f"{mark} {status}", fg=colour)


def width() -> int | None:
    """Return the columns there are: the terminal's, or what COLUMNS says; None where nobody reads a screen."""
    import os
    import shutil

    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return max(40, shutil.get_terminal_size((80, 24)).columns)
    return None


def counted(number: int, noun: str) -> str:
    """Return `1 record`, `2 records`, `10,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """Return text that a target sent, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, cut: Sequence[int] = (), below: Sequence[str] = ()
) -> None:
    """Print a plain table.

    cut: columns that are shortened to make the rest fit the screen, the first one last. below: for each row, text
    that stands under it; "" for none.
    """
    cells = [list(row) for row in rows]
    widths = [max([len(header), *(_length(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    room = width()
    if room is not None:
        for column in reversed(cut):
            over = sum(widths) + 2 * (len(widths) - 1) - room
            widths[column] = max(min(8, widths[column]), widths[column] - max(0, over))
    click.echo(click.style(_line(headers, widths), bold=True))
    for row, more in itertools.zip_longest(cells, below, fillvalue=""):
        click.echo(_line(row, widths))
        if more:
            click.echo(indented(str(more)))


def indented(text: str) -> str:
    """Return text wrapped to the screen, set in."""
    import textwrap

    room = width()
    text = one_line(text)
    return textwrap.fill(text, room, initial_indent="    ", subsequent_indent="    ") if room else f"    {text}"


def _length(text: str) -> int:
    return len(click.unstyle(text))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    out = []
    for text, room in zip(row, widths, strict=True):
        length = _length(text)
        out.append(f"{click.unstyle(text)[: room - 1]}…" if length > room else text + " " * (room - length))
    return "  ".join(out).rstrip()


def ago(time_s: float | None) -> str:
    """Return how long ago a wall-clock time was, or `never`."""
    if time_s is None:
        return "never"
    return f"{format_duration(max(0.0, round(time.time() - time_s)))} ago" if time.time() - time_s >= 1 else "now"


def until(time_s: float | None) -> str:
    """Return how long it is to a wall-clock time, or how long ago it was; or `-`."""
    if time_s is None:
        return "-"
    rest_s = round(time_s - time.time())
    return f"in {format_duration(rest_s)}" if rest_s >= 1 else ago(time_s)


def waits_text(what: str) -> str:
    """Return what a run waits for as a sentence: a person, a lock, or a time."""
    return f"waits {what}" if what.startswith("until ") else f"waits for {what}"


def milliseconds(seconds: float | None) -> str:
    """Return `12.3 ms`, or `-`."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
