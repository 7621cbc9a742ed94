"""Values over time for all of a column at once: what a window can hold between one signal and the next.

Between two signals a window only loses samples, so that what it says lies between what it says with all that it had
and with what is left at the end. Samples follow from indices alone: low..high of the series.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import numpy as np

from dogwatch.core.values import Value
from dogwatch.rules.rehearsal.columns import STATUS_WORDS, Floats, Ints, Track
from dogwatch.rules.rehearsal.truth import NO, UNKNOWN, YES, Number, Term, Text, Truths
from dogwatch.rules.when import Over, When
from dogwatch.rules.windows import MAX_SAMPLES, Window

_PRECISION = 2.3e-16
# Signals that are looked at as one first.
STRETCH = 64
# Numbers that are sorted at once.
_MATRIX = 1_000_000
# What grows with every sample where none is less than nothing.
_GROWING = ("sum", "avg", "rate")
# Windows that were asked before: the window, its newest row, and for when.
Moved = dict[tuple[str, float, bool], tuple[Window, int, float]]
_STATUS_CODES = np.array([float(zlib.crc32(word.encode())) for word in STATUS_WORDS])


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Places to answer for. row: of the newest signal, -1 for none. begin_s, end_s: the time until the next one."""

    row: Ints
    begin_s: Floats
    end_s: Floats


class Stretches(msgspec.Struct, frozen=True, gc=False):
    """Runs of rows one after the other, first..last, and their times until the next one begins."""

    first: Ints
    last: Ints
    begin_s: Floats
    end_s: Floats


class Places(msgspec.Struct, frozen=True, gc=False):
    """The times from each signal of a chunk to the next, the first from the chunk's begin on; row: newest there.

    parts: many of them at once; None where there are few.
    """

    row: Ints
    begin_s: Floats
    end_s: Floats
    parts: Stretches | None


class Series:
    """A target's signals of a time with those before that windows still hold. first: the first row of the time."""

    def __init__(self, before: Track, now: Track) -> None:
        self.first = len(before)
        joined = self.first > 0
        self.time: Floats = np.concatenate((before.time, now.time)) if joined else now.time
        self.status = np.concatenate((before.status, now.status)) if joined else now.status
        self.success = np.concatenate((before.success, now.success)) if joined else now.success
        self.reasons = np.concatenate((before.reasons, now.reasons)) if joined else now.reasons
        self.words = now.words if len(now.words) >= len(before.words) else before.words
        self.durations = {
            name: np.concatenate((before.durations[name], column)) if joined else column
            for name, column in now.durations.items()
        }
        self._places: Places | None = None
        self._gaps: Floats | None = None
        self._numbers: dict[str, Floats] = {}
        self._below: dict[str, bool] = {}
        self._sums: dict[str, tuple[Floats, float]] = {}
        self._changes: dict[str, Ints] = {}
        self._rises: dict[str, tuple[Floats, float]] = {}
        self._tables: dict[tuple[str, bool], list[Floats]] = {}

    def __len__(self) -> int:
        return len(self.time)

    def tail(self, start: int) -> Track:
        """Return the rows from one on, to be kept."""
        track = Track()
        track.time, track.status = self.time[start:].copy(), self.status[start:].copy()
        track.success, track.reasons = self.success[start:].copy(), self.reasons[start:].copy()
        track.durations = {name: column[start:].copy() for name, column in self.durations.items()}
        track.words = self.words
        return track

    def places(self, begin_s: float, end_s: float) -> Places:
        """Return the places of the chunk that this is of."""
        if self._places is not None:
            return self._places
        times = self.time[self.first :]
        begin, end = np.concatenate(([begin_s], times)), np.concatenate((times, [end_s]))
        count, shift = len(begin), self.first - 1
        # Without a row before, the first place has none, and stands alone.
        skip = 0 if self.first else 1
        parts = None
        if count - skip >= 2 * STRETCH:
            cuts = np.arange(skip, count - STRETCH + 1, STRETCH)
            lasts = np.append(cuts[1:], count)
            parts = Stretches(cuts + shift, lasts + shift, begin[cuts], end[lasts - 1])
        self._places = Places(np.arange(shift, len(self)), begin, end, parts)
        return self._places

    # Values as windows take them.

    def numbers(self, path: str) -> Floats:
        if path in self.durations:
            return self.durations[path]
        if path == "probe.success":
            if path not in self._numbers:
                self._numbers[path] = self.success.astype(np.float64)
            return self._numbers[path]
        if path == "probe.status":
            codes: Floats = _STATUS_CODES[self.status]
            return codes
        table: Floats = np.array([float(zlib.crc32(word.encode())) for word in self.words])
        return table[self.reasons]

    def _some(self, path: str, low: int, high: int) -> Floats:
        """Return some of the numbers of a value."""
        if path in self.durations:
            return self.durations[path][low:high]
        if path == "probe.success":
            return self.success[low:high].astype(np.float64)
        if path == "probe.status":
            codes: Floats = _STATUS_CODES[self.status[low:high]]
            return codes
        words = [float(zlib.crc32(self.words[place].encode())) for place in self.reasons[low:high].tolist()]
        return np.array(words, np.float64)

    def rest(self) -> None:
        """Forget what was worked out for all of it: it may be asked for single places only from now on."""
        self._places = self._gaps = None
        for known in (self._numbers, self._sums, self._changes, self._rises, self._tables):
            known.clear()

    def value(self, path: str, row: int) -> Value:
        """Return the newest value at a row, as signals have it."""
        if path in self.durations:
            return float(self.durations[path][row])
        if path == "probe.success":
            return bool(self.success[row])
        if path == "probe.status":
            return STATUS_WORDS[int(self.status[row])]
        return self.words[int(self.reasons[row])]

    def low(self, at_s: Any, length_s: float, high: Any) -> Any:
        """Return the first sample of a window at a time. high: the end of its samples."""
        found = np.searchsorted(self.time, at_s - length_s, side="right")
        return np.minimum(np.maximum(found, high - MAX_SAMPLES), high)

    # Exactly, for one place: the real windows, filled anew or moved on.

    def values(self, when: When, row: int, at_s: float, moved: Moved | None = None) -> dict[str, Any]:
        """Return the variables of a condition at a time, as the gauge has them. moved: windows of asking before."""
        values: dict[str, Any] = {}
        for variable, path in when.newest.items():
            if row >= 0:
                values[variable] = self.value(path, row)
        for variable, over in when.over.items():
            take(values, variable, over, self.window(over, row, at_s, moved))
        return values

    def window(self, over: Over, row: int, at_s: float, moved: Moved | None = None) -> Window | None:
        """Return a window as it is at a time; None where there never was a sample."""
        if row < 0:
            return None
        ranked = over.function == "quantile"
        key = (over.path, over.length_s, ranked)
        known = moved.get(key) if moved is not None else None
        low = int(self.low(at_s, over.length_s, row + 1))
        if known is not None and known[1] <= row and known[2] <= at_s and low <= known[1]:
            window, low = known[0], known[1] + 1
        else:
            window = Window(over.length_s, ranked=ranked)
        times, numbers = self.time[low : row + 1].tolist(), self._some(over.path, low, row + 1).tolist()
        for time_s, value in zip(times, numbers, strict=True):
            window.add(time_s, value)
        window.move(at_s)
        if moved is not None:
            moved[key] = (window, row, at_s)
        return window

    # As ranges, for many places.

    def newest(self, path: str, kind: str, rows: Rows) -> Term:
        """Return what the newest value is at places."""
        gone: Any = rows.row < 0
        place = np.maximum(rows.row, 0)
        if len(self) and not gone.any():
            gone = False
        if not len(self):
            empty: Any = {"bool": Truths(UNKNOWN), "string": Text(0, [""], gone=True)}
            return empty.get(kind) or Number(0.0, 0.0, True, True)
        if path == "probe.success":
            return Truths(np.where(gone, UNKNOWN, np.where(self.success[place], YES, NO)).astype(np.uint8))
        if path == "probe.status":
            return Text(self.status[place].astype(np.int64), list(STATUS_WORDS), gone)
        if path == "probe.reason":
            return Text(self.reasons[place], self.words, gone)
        column = self.durations[path][place]
        return Number(column, column, gone, gone)

    def over(self, over: Over, rows: Rows, *, sharp: bool = False) -> Term:
        """Return what a function over time can be at places. sharp: closer, where that costs more."""
        high = rows.row + 1
        low, last = self.low(rows.begin_s, over.length_s, high), self.low(rows.end_s, over.length_s, high)
        if over.function in _GROWING and self._falls_below(over.path):
            return Number(-np.inf, np.inf, high <= last, high <= low)
        most, least = high - low, high - last
        match over.function:
            case "count":
                return Number(least.astype(np.float64), most.astype(np.float64), whole=True)
            case "absent":
                return Truths(np.where(least > 0, NO, np.where(most > 0, NO | YES, YES)).astype(np.uint8))
        if not len(self):
            return Number(0.0, 0.0, True, True, over.function == "changes")
        if sharp and over.function == "quantile":
            return self._quantile(over, high, low, last)
        return self._numeric(over, high, low, last)

    def _falls_below(self, path: str) -> bool:
        """Return whether a value is ever less than nothing: what is said of sums and rates would not be sure then."""
        found = self._below.get(path)
        if found is None:
            numbers = self.numbers(path)
            found = self._below[path] = bool(len(numbers)) and bool(numbers.min() < 0)
        return found

    def _numeric(self, over: Over, high: Ints, low: Ints, last: Ints) -> Term:
        misses, gone = high <= last, high <= low
        match over.function:
            case "changes":
                return self._changing(over, high, low, last)
            case "rate":
                return self._rate(over, high, low, last)
            case "sum" | "avg":
                return self._mean(over, high, low, last)
            case "min" | "max":
                # Where nothing is left at the end, the newest alone was the last to be there.
                ends = (low, np.minimum(last, np.maximum(high - 1, 0)))
                found = [self._extreme(over.path, one, high, least=over.function == "min") for one in ends]
                return Number(np.minimum(*found), np.maximum(*found), misses, gone)
        lows, highs = (self._extreme(over.path, low, high, least=least) for least in (True, False))
        return Number(lows - abs(lows) * 1e-15, highs + abs(highs) * 1e-15, misses, gone)

    def _quantile(self, over: Over, high: Ints, low: Ints, last: Ints) -> Term:
        """Return a quantile at both ends of each place; between them only where one sample at most goes."""
        numbers = self.numbers(over.path)
        ends = [self._ranked(numbers, over.share, one, high) for one in (low, last)]
        lows, highs = np.minimum(*ends), np.maximum(*ends)
        loose = last - low > 1
        if loose.any():
            wide = self._numeric(over, high, low, last)
            assert isinstance(wide, Number)
            lows, highs = np.where(loose, wide.low, lows), np.where(loose, wide.high, highs)
        return Number(lows, highs, high <= last, high <= low)

    def _ranked(self, numbers: Floats, share: float, low: Ints, high: Ints) -> Floats:
        length = high - low
        out = np.zeros(len(length))
        for count in np.unique(length):
            if count <= 0:
                continue
            at = np.flatnonzero(length == count)
            place = share * (int(count) - 1)
            under = int(place)
            over, part = min(under + 1, int(count) - 1), place - under
            for some in np.array_split(at, -(-len(at) * int(count) // _MATRIX)):
                held = numbers[low[some][:, None] + np.arange(int(count))]
                held.partition((under, over), axis=1)
                out[some] = held[:, under] * (1 - part) + held[:, over] * part
        return out

    def _mean(self, over: Over, high: Ints, low: Ints, last: Ints) -> Term:
        sums, slack = self._summed(over.path)
        misses, gone = high <= last, high <= low
        if over.function == "sum":
            # Values are 0 or more: with fewer samples the sum is less.
            return Number(sums[high] - sums[last] - slack, sums[high] - sums[low] + slack, misses, gone)
        ends = []
        for one in (low, last):
            total, count = sums[high] - sums[one], np.maximum(high - one, 1)
            ends.append(((total - slack) / count, (total + slack) / count))
        lows, highs = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
        loose = last - low > 1
        if loose.any():
            # Between the two ends other samples may be left: at most all of the sum over the fewest.
            fewest, most = np.maximum(high - last, 1), np.maximum(high - low, 1)
            lows = np.where(loose, (sums[high] - sums[last] - slack) / most, lows)
            highs = np.where(loose, (sums[high] - sums[low] + slack) / fewest, highs)
        # Where nothing is left at the end, the last that was there said the most.
        highs = np.where(misses & ~gone, np.maximum(highs, sums[high] - sums[low] + slack), highs)
        lows = np.where(misses & ~gone, 0.0, lows)
        if slack:
            lows, highs = lows - abs(lows) * 1e-15, highs + abs(highs) * 1e-15
        return Number(lows, highs, misses, gone)

    def _changing(self, over: Over, high: Ints, low: Ints, last: Ints) -> Term:
        changes = self._changed(over.path)
        top = np.maximum(high, 1)
        most = changes[top] - changes[np.minimum(low + 1, top)]
        least = changes[top] - changes[np.minimum(last + 1, top)]
        return Number(least.astype(np.float64), most.astype(np.float64), high <= last, high <= low, whole=True)

    def _changed(self, path: str) -> Ints:
        """Return how many changes there were before each row; of text, of its place in words."""
        changes = self._changes.get(path)
        if changes is None:
            codes = self.status if path == "probe.status" else self.reasons if path == "probe.reason" else None
            numbers = self.numbers(path) if codes is None else codes
            changes = self._changes[path] = np.concatenate(([0, 0], np.cumsum(numbers[1:] != numbers[:-1])))
        return changes

    def _rate(self, over: Over, high: Ints, low: Ints, last: Ints) -> Term:
        rises, slack = self._risen(over.path)
        top = np.maximum(high - 1, 0)
        ends = []
        for one in (low, last):
            first = np.minimum(one, top)
            span = self.time[top] - self.time[first]
            with np.errstate(all="ignore"):
                ends.append(((rises[top] - rises[first] - slack) / span, (rises[top] - rises[first] + slack) / span))
        lows, highs = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
        odd = (last - low > 1) | ~np.isfinite(lows) | ~np.isfinite(highs)
        lows, highs = (
            np.where(odd, -np.inf, lows - abs(lows) * 1e-15),
            np.where(odd, np.inf, highs + abs(highs) * 1e-15),
        )
        return Number(lows, highs, high - last < 2, high - low < 2)

    def _summed(self, path: str) -> tuple[Floats, float]:
        """Return sums up to each row, and by how much a difference of two can be wrong."""
        found = self._sums.get(path)
        if found is None:
            numbers = self.numbers(path)
            sums = np.concatenate(([0.0], np.cumsum(numbers)))
            exact = path == "probe.success"
            found = self._sums[path] = sums, 0.0 if exact else 2 * _PRECISION * len(sums) * float(sums[-1])
        return found

    def _risen(self, path: str) -> tuple[Floats, float]:
        found = self._rises.get(path)
        if found is None:
            numbers = self.numbers(path)
            steps = np.where(numbers[1:] >= numbers[:-1], numbers[1:] - numbers[:-1], numbers[1:])
            rises = np.concatenate(([0.0], np.cumsum(steps)))
            found = self._rises[path] = rises, 4 * _PRECISION * len(rises) * float(rises[-1])
        return found

    def _extreme(self, path: str, low: Ints, high: Ints, *, least: bool) -> Floats:
        """Return the lowest or highest of rows low..high, by a table of those of every power of two."""
        table = self._tables.get((path, least))
        fold = np.minimum if least else np.maximum
        if table is None:
            table = self._tables[path, least] = [self.numbers(path)]
            while (size := 1 << len(table)) <= len(self):
                table.append(fold(table[-1][: len(self) - size + 1], table[-1][size // 2 : len(self) - size // 2 + 1]))
        length = np.maximum(high - low, 1)
        level = np.log2(length).astype(np.int64)
        out = np.empty(len(length))
        for one in np.unique(level):
            at = level == one
            begin = np.minimum(low[at], len(self) - 1)
            end = np.maximum(high[at] - (1 << int(one)), 0)
            out[at] = fold(table[one][np.minimum(begin, len(table[one]) - 1)], table[one][end])
        return out

    # As ranges, for stretches of many signals.

    def stretches(self, when: When, parts: Stretches) -> dict[str, Term]:
        """Return what each variable can be in all of each stretch. Each begins with a row."""
        found: dict[str, Term] = {}
        for variable, path in when.newest.items():
            found[variable] = self.all_of(path, when.kinds[variable], parts)
        for variable, over in when.over.items():
            found[variable] = self.all_over(over, parts)
        return found

    def all_of(self, path: str, kind: str, parts: Stretches) -> Term:
        if kind == "bool":
            low, high = folds(self.success.view(np.uint8), parts.first, parts.last)
            return Truths(np.asarray((high << 1) | (low ^ 1), np.uint8))
        if kind == "string":
            status = path == "probe.status"
            low, high = folds(self.status if status else self.reasons, parts.first, parts.last)
            words = list(STATUS_WORDS) if status else self.words
            return Text(np.where(low == high, low.astype(np.int64), -1), words)
        low, high = folds(self.durations[path], parts.first, parts.last)
        return Number(low, high)

    def _longest_gaps(self, parts: Stretches) -> Floats:
        """Return the longest time without a sample in each stretch."""
        own = self._places is not None and parts is self._places.parts
        if own and self._gaps is not None:
            return self._gaps
        gaps = np.append(self.time[1:] - self.time[:-1], np.inf)
        # The gap after the last row lasts to the end at most.
        gaps[-1] = parts.end_s[-1] - self.time[-1]
        found: Floats = np.maximum.reduceat(gaps, parts.first)
        if own:
            self._gaps = found
        return found

    def all_over(self, over: Over, parts: Stretches) -> Term:
        low = self.low(parts.begin_s, over.length_s, parts.first + 1)
        holes = (low > parts.first) | (self._longest_gaps(parts) >= over.length_s)
        if over.function in _GROWING and self._falls_below(over.path):
            return Number(-np.inf, np.inf, holes)
        if over.function == "absent":
            return Truths(np.where(holes, NO | YES, NO).astype(np.uint8))
        if over.function == "count":
            most = np.minimum(parts.last - low, MAX_SAMPLES).astype(np.float64)
            return Number(np.where(holes, 0.0, 1.0), most, whole=True)
        match over.function:
            case "changes":
                changes = self._changed(over.path)
                most = changes[parts.last] - changes[np.minimum(low + 1, parts.last)]
                return Number(np.zeros(len(low)), most.astype(np.float64), holes, whole=True)
            case "rate":
                return Number(-np.inf, np.inf, True)
            case "sum":
                sums, slack = self._summed(over.path)
                return Number(np.zeros(len(low)), sums[parts.last] - sums[low] + slack, holes)
        lowest, highest = folds(self.numbers(over.path), np.minimum(low, parts.first), parts.last)
        return Number(lowest - abs(lowest) * 1e-15, highest + abs(highest) * 1e-15, holes)


def take(values: dict[str, Any], variable: str, over: Over, window: Window | None) -> None:
    """Put what a function over time says among the values, as the gauge does."""
    if window is None:
        if over.function in ("absent", "count"):
            values[variable] = True if over.function == "absent" else 0
        return
    value = over.answer(window)
    if value is not None:
        values[variable] = value


def folds(column: Any, low: Ints, high: Ints) -> tuple[Any, Any]:
    """Return the lowest and highest of rows low..high, each pair in order and not empty."""
    # The last pair ends where the column does: without its end it reaches just there.
    pairs = np.empty(2 * len(low) - 1, np.int64)
    pairs[::2], pairs[1::2] = low, high[:-1]
    if len(high) > 1 and high[-2] >= len(column):
        column = np.append(column, column[-1:])
    return np.minimum.reduceat(column, pairs)[::2], np.maximum.reduceat(column, pairs)[::2]
