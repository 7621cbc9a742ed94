"""What a rule reads of several things, on one line of time: a probe's results, its host's samples, alerts of others.

Each value keeps its own samples; the line knows which of them was the newest from one moment to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dogwatch.rules.rehearsal.columns import Floats, Ints
from dogwatch.rules.rehearsal.spans import STRETCH, Moved, Places, Rows, Series, Stretches, folds, take
from dogwatch.rules.rehearsal.truth import NO, YES, Term, Truths
from dogwatch.rules.when import When


class Flags:
    """Whether something was so, from one change to the next. time: the first is before all."""

    def __init__(self, time: Floats, on: npt.NDArray[np.bool_]) -> None:
        self.time, self.on = time, on

    def newest(self, rows: Ints) -> Term:
        return Truths(np.where(self.on[rows], YES, NO).astype(np.uint8))

    def all_of(self, parts: Stretches) -> Term:
        low, high = folds(self.on.view(np.uint8), parts.first, parts.last)
        return Truths(np.asarray((high << 1) | (low ^ 1), np.uint8))


class Line:
    """A rule's values of one target. It answers as a Series does. lines: by the value's name."""

    def __init__(self, lines: Mapping[str, Series | Flags], begin_s: float) -> None:
        self._lines = lines
        every = {id(line): line for line in lines.values()}
        own = [line.time if isinstance(line, Series) else line.time[1:] for line in every.values()]
        times = np.concatenate(own)
        # Runs that are sorted already: this way they are only merged.
        times.sort(kind="stable")
        self.time: Floats = times[np.append(times[1:] > times[:-1], True)[: len(times)]]
        self.first = int(np.searchsorted(self.time, begin_s, side="left"))
        self._newest = {
            key: np.searchsorted(line.time, self.time, side="right") - 1 for key, line in every.items()
        }  # fmt: skip
        self._places: Places | None = None

    def __len__(self) -> int:
        return len(self.time)

    def add(self, lines: Mapping[str, Series | Flags]) -> None:
        """Know of more values of the same samples."""
        self._lines = {**self._lines, **lines}

    def places(self, begin_s: float, end_s: float) -> Places:
        """Return the places of the chunk that this is of."""
        if self._places is None:
            times = self.time[self.first :]
            begin, end = np.concatenate(([begin_s], times)), np.concatenate((times, [end_s]))
            rows: Ints = np.arange(self.first - 1, len(self))
            self._places = Places(rows, begin, end, self._parts(begin, end))
        return self._places

    def _parts(self, begin: Floats, end: Floats) -> Stretches | None:
        """Return many places as one each, from where on every value is there."""
        count, shift = len(begin), self.first - 1
        skip = 0 if self.first else 1
        for line in self._lines.values():
            if isinstance(line, Series) and len(line):
                skip = max(skip, int(np.searchsorted(self.time, line.time[0])) - shift)
        if count - skip < 2 * STRETCH:
            return None
        cuts = np.arange(skip, count - STRETCH + 1, STRETCH)
        lasts = np.append(cuts[1:], count)
        return Stretches(cuts + shift, lasts + shift, begin[cuts], end[lasts - 1])

    def _of(self, path: str, rows: Ints) -> Ints:
        """Return the rows of a value that are the newest at rows of the line."""
        newest = self._newest[id(self._lines[path])]
        if not len(newest):
            return np.full(len(rows), -1 if isinstance(self._lines[path], Series) else 0)
        before = -1 if isinstance(self._lines[path], Series) else 0
        return np.where(rows >= 0, newest[np.maximum(rows, 0)], before)

    def newest(self, path: str, kind: str, rows: Rows) -> Term:
        line, own = self._lines[path], self._of(path, rows.row)
        if isinstance(line, Flags):
            return line.newest(own)
        return line.newest(path, kind, Rows(own, rows.begin_s, rows.end_s))

    def over(self, over: Any, rows: Rows, *, sharp: bool = False) -> Term:
        line = self._lines[over.path]
        assert isinstance(line, Series)
        return line.over(over, Rows(self._of(over.path, rows.row), rows.begin_s, rows.end_s), sharp=sharp)

    def stretches(self, when: When, parts: Stretches) -> dict[str, Term]:
        """Return what each variable can be in all of each stretch."""
        found: dict[str, Term] = {}
        for variable, path in when.newest.items():
            line, own = self._lines[path], self._sub(path, parts)
            if isinstance(line, Flags):
                found[variable] = line.all_of(own)
            elif len(line):
                found[variable] = line.all_of(path, when.kinds[variable], own)
            else:
                found[variable] = line.newest(path, when.kinds[variable], _nowhere(parts))
        for variable, over in when.over.items():
            one = self._lines[over.path]
            assert isinstance(one, Series)
            own = self._sub(over.path, parts)
            found[variable] = one.all_over(over, own) if len(one) else one.over(over, _nowhere(parts))
        return found

    def _sub(self, path: str, parts: Stretches) -> Stretches:
        first, last = self._of(path, parts.first), self._of(path, parts.last - 1) + 1
        return Stretches(first, last, parts.begin_s, parts.end_s)

    def values(self, when: When, row: int, at_s: float, moved: Moved | None = None) -> dict[str, Any]:
        """Return the variables of a condition at a time, as the gauge has them."""
        values: dict[str, Any] = {}
        here = np.array([row])
        for variable, path in when.newest.items():
            line, own = self._lines[path], int(self._of(path, here)[0])
            if isinstance(line, Flags):
                values[variable] = bool(line.on[own])
            elif own >= 0:
                values[variable] = line.value(path, own)
        for variable, over in when.over.items():
            one = self._lines[over.path]
            assert isinstance(one, Series)
            take(values, variable, over, one.window(over, int(self._of(over.path, here)[0]), at_s, moved))
        return values


def _nowhere(parts: Stretches) -> Rows:
    return Rows(np.full(len(parts.first), -1), parts.begin_s, parts.end_s)


def line_of(
    paths: frozenset[str], find: Callable[[str], Series | Flags], begin_s: float, known: dict[Any, Any]
) -> Series | Line:
    """Return the line of some values of one target: a series where all are of one. known: lines made before."""
    lines = {path: find(path) for path in sorted(paths)}
    key = frozenset(map(id, lines.values()))
    if key not in known:
        one = next(iter(lines.values()))
        alone = isinstance(one, Series) and all(line is one for line in lines.values())
        known[key] = one if alone else Line(lines, begin_s)
    found: Series | Line = known[key]
    if isinstance(found, Line):
        # Another rule may read other values of the same samples.
        found.add(lines)
    return found
