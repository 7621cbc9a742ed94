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
from dogwatch.rules.rehearsal.columns import DURATIONS, STATUS_WORDS, Floats, Ints, Track
from dogwatch.rules.rehearsal.truth import NO, UNKNOWN, YES, Number, Term, Text, Truths
from dogwatch.rules.when import Over, When
from dogwatch.rules.windows import MAX_SAMPLES, Window

_PRECISION = 2.3e-16
# Numbers that are sorted at once.
_MATRIX = 1_000_000
_STATUS_CODES = np.array([float(zlib.crc32(word.encode())) for word in STATUS_WORDS])


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Places to answer for. row: of the newest signal, -1 for none. begin_s, end_s: the time until the next one."""

    row: Ints
    begin_s: Floats
    end_s: Floats


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

    # Values as windows take them.

    def numbers(self, path: str) -> Floats:
        if path in DURATIONS:
            return self.durations[path]
        if path == "probe.success":
            return self.success.astype(np.float64)
        if path == "probe.status":
            codes: Floats = _STATUS_CODES[self.status]
            return codes
        table: Floats = np.array([float(zlib.crc32(word.encode())) for word in self.words])
        return table[self.reasons]

    def value(self, path: str, row: int) -> Value:
        """Return the newest value at a row, as signals have it."""
        if path in DURATIONS:
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

    # Exactly, for one place: the real windows, filled anew.

    def values(self, when: When, row: int, at_s: float) -> dict[str, Any]:
        """Return the variables of a condition at a time, as the gauge has them."""
        values: dict[str, Any] = {}
        for variable, path in when.newest.items():
            if row >= 0:
                values[variable] = self.value(path, row)
        for variable, over in when.over.items():
            window = self._window(over, row, at_s)
            if window is None:
                if over.function in ("absent", "count"):
                    values[variable] = True if over.function == "absent" else 0
                continue
            value = over.answer(window)
            if value is not None:
                values[variable] = value
        return values

    def _window(self, over: Over, row: int, at_s: float) -> Window | None:
        if row < 0:
            return None
        window = Window(over.length_s, ranked=over.function == "quantile")
        low = int(self.low(at_s, over.length_s, row + 1))
        times, numbers = self.time[low : row + 1].tolist(), self.numbers(over.path)[low : row + 1].tolist()
        for time_s, value in zip(times, numbers, strict=True):
            window.add(time_s, value)
        window.move(at_s)
        return window

    # As ranges, for many places.

    def newest(self, path: str, kind: str, rows: Rows) -> Term:
        """Return what the newest value is at places."""
        gone = rows.row < 0
        place = np.maximum(rows.row, 0)
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
                found = [self._extreme(over.path, one, high, least=over.function == "min") for one in (low, last)]
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
        changes = self._changes.get(over.path)
        if changes is None:
            numbers = self.numbers(over.path)
            changes = self._changes[over.path] = np.concatenate(([0, 0], np.cumsum(numbers[1:] != numbers[:-1])))
        top = np.maximum(high, 1)
        most = changes[top] - changes[np.minimum(low + 1, top)]
        least = changes[top] - changes[np.minimum(last + 1, top)]
        return Number(least.astype(np.float64), most.astype(np.float64), high <= last, high <= low, whole=True)

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

    def whole(self, when: When, begin_s: float, end_s: float) -> dict[str, Term]:
        """Return what each variable can be in all of a time, as one place. There must be a row before it."""
        found: dict[str, Term] = {}
        start = self.first - 1
        for variable, path in when.newest.items():
            found[variable] = self._all_of(path, when.kinds[variable], start)
        for variable, over in when.over.items():
            low = int(self.low(begin_s, over.length_s, self.first))
            times = self.time[low:]
            edges = np.concatenate((times, [end_s]))
            holes = low >= self.first
            holes = holes or bool((np.diff(edges) >= over.length_s).any())
            found[variable] = self._all_over(over, low, holes)
        return found

    def _all_of(self, path: str, kind: str, start: int) -> Term:
        if kind == "bool":
            part = self.success[start:]
            return Truths((YES if part.any() else 0) | (NO if not part.all() else 0))
        if kind == "string":
            codes = self.status[start:] if path == "probe.status" else self.reasons[start:]
            words = list(STATUS_WORDS) if path == "probe.status" else self.words
            return Text(int(codes[0]) if bool((codes == codes[0]).all()) else -1, words)
        column = self.durations[path][start:]
        return Number(float(column.min()), float(column.max()))

    def _all_over(self, over: Over, low: int, holes: bool) -> Term:
        count = len(self) - low
        if over.function == "absent":
            return Truths(NO if not holes else YES if not count else NO | YES)
        if over.function == "count":
            return Number(0.0 if holes else 1.0, float(min(count, MAX_SAMPLES)), whole=True)
        if not count:
            return Number(0.0, 0.0, True, True, over.function == "changes")
        numbers = self.numbers(over.path)[low:]
        match over.function:
            case "changes":
                return Number(0.0, float((numbers[1:] != numbers[:-1]).sum()), holes, whole=True)
            case "rate":
                return Number(-np.inf, np.inf, True)
            case "sum":
                return Number(0.0, float(numbers.sum()) * (1 + 1e-9), holes)
        lowest, highest = float(numbers.min()), float(numbers.max())
        return Number(lowest - abs(lowest) * 1e-15, highest + abs(highest) * 1e-15, holes)
