"""A host as text for a terminal: `dogwatch host show`. JSON is `msgspec.json.encode(view)`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from dogwatch.core.units import format_duration, format_size
from dogwatch.hosts.view import ContainerView, FilesystemView, HostView, ProcessView

_BAR = 20
_MIN_WIDTH = 40
_UNKNOWN = "–"


class _Column(msgspec.Struct, frozen=True):
    """A column of a table. share: what it takes of the space that is left over; 0 is as wide as its text."""

    title: str
    right: bool = False
    share: int = 0


def render_host(view: HostView, width: int = 80) -> str:
    """Return the host at a glance, no line wider than width (40 at least), ending with a newline."""
    width = max(width, _MIN_WIDTH)
    lines = [*_heading(view, width), "", *_gauges(view)]
    for title, table in (
        ("Filesystems", _filesystems(view.filesystems, width)),
        ("Top processes", _processes(view.processes, width)),
        ("Containers", _containers(view.containers, width)),
        ("Collectors with trouble", _trouble(view, width)),
    ):
        if table:
            lines += ["", title, *table]
    return "\n".join(_cut(line, width).rstrip() for line in lines) + "\n"


def _heading(view: HostView, width: int) -> Iterator[str]:
    facts = [view.os, f"Linux {view.kernel}" if view.kernel else ""]
    facts += [f"{view.cores} core{'s' if view.cores != 1 else ''}" if view.cores else ""]
    facts += [f"up {format_duration(view.uptime_s)}" if view.uptime_s is not None else ""]
    line = _clean(view.name)
    for fact in filter(None, map(_clean, facts)):
        longer = f"{line} · {fact}"
        if _cells(longer) > width:
            yield line
            line = f"  {fact}"
        else:
            line = longer
    yield line


def _gauges(view: HostView) -> Iterator[str]:
    yield f"CPU       {_bar(view.cpu_ratio)}{_loads(view)}"
    total = f"  of {format_size(view.memory_total_bytes)}" if view.memory_total_bytes else ""
    yield f"Memory    {_bar(view.memory_used_ratio)}{total}"
    if view.swap_used_ratio:
        yield f"Swap      {_bar(view.swap_used_ratio)}"
    yield f"Network   in {_speed(view.network_receive_bytes_per_s)}, out {_speed(view.network_transmit_bytes_per_s)}"
    yield f"Disk      read {_speed(view.disk_read_bytes_per_s)}, written {_speed(view.disk_written_bytes_per_s)}"
    if view.pressure:
        waits = [f"{name} {_percent(view.pressure[name])}" for name in ("cpu", "io", "memory") if name in view.pressure]
        yield f"Pressure  {', '.join(waits)}"
    if view.process_count is not None:
        yield f"Processes {view.process_count}"


def _loads(view: HostView) -> str:
    loads = [load for load in (view.load1, view.load5, view.load15) if load is not None]
    return f"  load {' '.join(f'{load:.2f}' for load in loads)}" if loads else ""


def _filesystems(views: Sequence[FilesystemView], width: int) -> list[str]:
    columns = (
        _Column("MOUNT", share=3),
        _Column("USED"),
        _Column("SIZE", right=True),
        _Column("FREE", right=True),
        _Column("INODES", right=True),
        _Column("TYPE", share=1),
    )
    rows = [
        (view.mountpoint, _cut(f"! {view.error}", _BAR + 7), "", "", "", view.fstype)
        if view.error
        else (
            view.mountpoint,
            _bar(view.used_ratio),
            format_size(view.size_bytes),
            format_size(view.available_bytes),
            _percent(view.inodes_used_ratio),
            view.fstype,
        )
        for view in sorted(views, key=lambda view: (not view.error, view.mountpoint))
    ]
    return _table(columns, rows, width)


def _processes(views: Sequence[ProcessView], width: int) -> list[str]:
    columns = (
        _Column("PID", right=True),
        _Column("USER"),
        _Column("CPU", right=True),
        _Column("MEMORY", right=True),
        _Column("THREADS", right=True),
        _Column("FDS", right=True),
        _Column("NAME", share=1),
    )
    ordered = sorted(views, key=lambda view: (-round(view.cpu_ratio, 3), -view.resident_bytes))
    rows = [
        (
            str(view.pid),
            view.user[:16],
            _percent(view.cpu_ratio),
            format_size(view.resident_bytes),
            str(view.threads),
            _UNKNOWN if view.descriptors is None else str(view.descriptors),
            view.name,
        )
        for view in ordered
    ]
    return _table(columns, rows, width)


def _containers(views: Sequence[ContainerView], width: int) -> list[str]:
    columns = (
        _Column("NAME", share=2),
        _Column("IMAGE", share=2),
        _Column("STATE"),
        _Column("CPU", right=True),
        _Column("MEMORY", right=True),
        _Column("RESTARTS", right=True),
    )
    rows = [
        (
            view.name,
            view.image,
            f"{view.state} ({view.health})" if view.health else view.state,
            _percent(view.cpu_ratio),
            _UNKNOWN if view.memory_bytes is None else format_size(view.memory_bytes),
            _UNKNOWN if view.restarts is None else str(view.restarts),
        )
        for view in sorted(views, key=lambda view: (view.state != "running", view.name))
    ]
    return _table(columns, rows, width)


def _trouble(view: HostView, width: int) -> list[str]:
    failing = [collector for collector in view.collectors if not collector.ok]
    widest = max((len(collector.name) for collector in failing), default=0)
    lines: list[str] = []
    for collector in failing:
        words = _wrap(_clean(collector.message), width - widest - 4)
        lines += [f"  {collector.name if not index else '':<{widest}}  {part}" for index, part in enumerate(words)]
    return lines


def _table(columns: Sequence[_Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table's lines; columns with a share give way, and are cut, where it is too wide."""
    if not rows:
        return []
    cells = [tuple(column.title for column in columns), *(tuple(map(_clean, row)) for row in rows)]
    widths = [max(_cells(row[index]) for row in cells) for index in range(len(columns))]
    excess = sum(widths) + 2 * len(columns) - width
    shares = sum(column.share for column in columns)
    if excess > 0 and shares:
        flexible = sum(size for size, column in zip(widths, columns, strict=True) if column.share)
        room = max(flexible - excess, 4 * shares)
        widths = [
            min(size, max(4, room * column.share // shares)) if column.share else size
            for size, column in zip(widths, columns, strict=True)
        ]
    return [
        "  "
        + "  ".join(
            _fit(text, size, right=column.right) for text, size, column in zip(row, widths, columns, strict=True)
        )
        for row in cells
    ]


def _bar(ratio: float | None) -> str:
    if ratio is None:
        return f"{'░' * _BAR} {_UNKNOWN:>6}"
    filled = round(min(max(ratio, 0.0), 1.0) * _BAR)
    # A little is not nothing.
    filled = max(filled, 1) if ratio > 0.001 else filled
    return f"{'█' * filled}{'░' * (_BAR - filled)} {_percent(ratio):>6}"


def _percent(ratio: float | None) -> str:
    return _UNKNOWN if ratio is None else f"{ratio:.1%}"


def _speed(bytes_per_s: float | None) -> str:
    return _UNKNOWN if bytes_per_s is None else f"{format_size(bytes_per_s)}/s"


def _clean(text: str) -> str:
    """Return the text without what would move a terminal's cursor: a process may be called anything."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _cells(text: str) -> int:
    """Return how many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _cut(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    while _cells(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _fit(text: str, width: int, *, right: bool) -> str:
    text = _cut(text, width)
    space = " " * (width - _cells(text))
    return space + text if right else text + space


def _wrap(text: str, width: int) -> Iterable[str]:
    line = ""
    for word in text.split():
        if line and _cells(line) + 1 + _cells(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line
