"""Heartbeat bars: the newest results of a target as four shapes, readable without colour.

static/bars.js draws the same from the same values when results arrive live; a browser test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dogwatch.core.values import Status
from dogwatch.store.protocol import ResultRow
from dogwatch.web.encoding import encode_json
from dogwatch.words import Phrase

SLOT = 6
HEIGHT = 24
# Shape → path of one bar after its `M<x> `: full, short, exclamation mark, dot.
_SHAPES = {
    "up": "3V21",
    "degraded": "11V21",
    "fail": "3V15M{x} 18V21",
    "off": "10V14",
}


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """paths: shape → SVG path. data: JSON of (time in s, duration in ms, shape, reason), oldest first."""

    paths: dict[str, str]
    data: str
    width: int
    label: str


def shape(row: ResultRow) -> str:
    if row.status == Status.MAINTENANCE:
        return "off"
    if not row.success:
        return "fail"
    return "degraded" if row.status == Status.DEGRADED else "up"


def draw(rows: Sequence[ResultRow], slots: int) -> Bars:
    """Return the bars of the newest `slots` results; rows: oldest first."""
    rows = rows[-slots:]
    paths: dict[str, list[str]] = {name: [] for name in _SHAPES}
    data = []
    for index, row in enumerate(rows, slots - len(rows)):
        name = shape(row)
        x = index * SLOT + SLOT // 2
        paths[name].append(f"M{x} {_SHAPES[name].replace('{x}', str(x))}")
        data.append((round(row.time_s, 1), round(row.duration_s * 1000, 1), name, row.reason))
    return Bars(
        paths={name: "".join(parts) for name, parts in paths.items()},
        data=encode_json(data).decode(),
        width=slots * SLOT,
        label=_label(data),
    )


def _label(data: Sequence[tuple[float, float, str, str]]) -> str:
    if not data:
        return Phrase("no checks yet")
    failed = sum(name == "fail" for _time, _duration, name, _reason in data)
    if failed:
        return Phrase("last {0} checks, {1} failed", len(data), failed)
    return Phrase("last {0} checks, all passed", len(data))
