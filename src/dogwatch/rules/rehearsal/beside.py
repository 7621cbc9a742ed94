"""What rules read beside results of probes in a backtest: samples of hosts, and alerts of others, chunk by chunk."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from dogwatch.core.values import Signal
from dogwatch.rules.names import HOST_NAMES, HOST_SERIES, in_order, values_of_series
from dogwatch.rules.rehearsal.columns import Floats, Track
from dogwatch.rules.rehearsal.course import Chunk
from dogwatch.rules.rehearsal.lines import Flags
from dogwatch.rules.rehearsal.spans import Series
from dogwatch.rules.windows import MAX_SAMPLES
from dogwatch.store.blockheader import BlockHeader
from dogwatch.store.raw import RawSamples

_Points = tuple[Floats, Floats]
_open = msgspec.msgpack.Decoder(tuple[BlockHeader, bytes]).decode
_EMPTY: _Points = (np.empty(0), np.empty(0))


def series_of(paths: Iterable[str]) -> list[str]:
    """Return the series of hosts that values are made of."""
    names = (path.partition("[")[0] for path in paths if path.startswith("host."))
    return sorted({HOST_NAMES[name].series for name in names})


class Hosts:
    """Values of hosts in a chunk. paths: that rules read. longest_s: how far back they look. signals: how many."""

    def __init__(self, paths: Iterable[str], longest_s: float) -> None:
        self.paths = sorted(path for path in paths if path.startswith("host."))
        # Hosts that were heard of, and when, as far as that was in this chunk.
        self.names: dict[str, Flags | None] = {}
        self._longest_s = longest_s
        self._before: dict[tuple[str, str], _Points] = {}
        self._now: dict[tuple[str, str], Series] = {}
        self._nothing = Series(Track(), Track())

    def take(self, host: str, samples: Sequence[RawSamples], chunk: Chunk) -> int:
        """Take a host's samples of a chunk. Returns at how many times there were any."""
        parts: dict[str, list[_Points]] = {}
        if host not in self.names and (first_s := _first_s(samples, chunk)) is not None:
            self.names[host] = Flags(np.array([-np.inf, first_s]), np.array([False, True]))
        for one in samples:
            wanted = [name for name in values_of_series(one.series) if name in self.paths]
            if wanted:
                points = _points(one, chunk)
                for name in wanted:
                    parts.setdefault(name, []).append(points)
        made: list[tuple[_Points, _Points, list[tuple[str, Floats]]]] = []
        for path in self.paths:
            now = _fold(path, parts[path]) if path in parts else _EMPTY
            before = self._before.get((host, path), _EMPTY)
            if len(now[0]) or len(before[0]):
                _join(made, path, before, now)
        for before, now, columns in made:
            series = Series(_track(before[0], columns, 0), _track(now[0], columns, len(before[0])))
            for path, _column in columns:
                self._now[host, path] = series
        return max((len(now[0]) for _before, now, _columns in made), default=0)

    def wanted(self, host: str) -> Sequence[str]:
        """Return the series to be read of a host: all, until it is known to be there."""
        if not self.paths:
            return ()
        return series_of(self.paths) if host in self.names else HOST_SERIES

    def of(self, host: str, path: str) -> Series:
        return self._now.get((host, path), self._nothing)

    def close(self, chunk: Chunk) -> None:
        """Keep what windows and the newest values still need."""
        for (host, path), series in self._now.items():
            count = len(series)
            start = int(np.searchsorted(series.time, chunk.end_s - self._longest_s, side="right"))
            start = max(0, min(start, count - 1), count - MAX_SAMPLES - 1)
            self._before[host, path] = (series.time[start:].copy(), series.durations[path][start:].copy())
        self._now = {}
        self.names = dict.fromkeys(self.names)


def _first_s(samples: Sequence[RawSamples], chunk: Chunk) -> float | None:
    """Return when anything that rules can read was told first."""
    known = [one for one in samples if values_of_series(one.series)]
    return min((float(times[0]) for times, _ in (_points(one, chunk) for one in known) if len(times)), default=None)


def _join(
    made: list[tuple[_Points, _Points, list[tuple[str, Floats]]]], path: str, before: _Points, now: _Points
) -> None:
    """Put a value to others of the same times, if there are any."""
    column = (path, np.concatenate((before[1], now[1])))
    for earlier, other, columns in made:
        if np.array_equal(earlier[0], before[0]) and np.array_equal(other[0], now[0]):
            columns.append(column)
            return
    made.append((before, now, [column]))


def _track(time: Floats, columns: Sequence[tuple[str, Floats]], start: int) -> Track:
    track, count = Track(), len(time)
    track.time, track.status = time, np.zeros(count, np.uint8)
    track.success, track.reasons = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    track.durations = {path: column[start : start + count] for path, column in columns}
    return track


def _points(one: RawSamples, chunk: Chunk) -> _Points:
    """Return a series' samples of a chunk by time; of two of one millisecond the later."""
    rolled = [(time_s, mean) for time_s, mean, _width in one.rolled]
    parts = [(np.array([time_s for time_s, _ in rolled]), np.array([mean for _, mean in rolled]))] if rolled else []
    parts += [_decode(block) for block in one.blocks]
    parts += [(np.array(rows.times, np.int64) / 1000, np.array(rows.values, np.float64)) for rows in one.fresh]
    if not parts:
        return _EMPTY
    times, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    inside = (times >= chunk.begin_s) & (times < chunk.end_s) & np.isfinite(values)
    times, values = np.round(times[inside], 3), values[inside]
    if len(times) > 1 and not (times[1:] > times[:-1]).all():
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        last = np.append(times[1:] > times[:-1], True)
        times, values = times[last], values[last]
    return times, values


def _decode(data: bytes) -> _Points:
    """Return what `SampleColumns.decode` does, as columns."""
    header, packed = _open(data)
    count = header.count
    raw = np.frombuffer(zlib.decompress(packed), np.uint8)
    planes = [raw[at : at + 8 * count].reshape(8, count).T.copy() for at in (0, 8 * count)]
    return planes[0].view(np.int64).reshape(-1).cumsum() / 1000, planes[1].view(np.float64).reshape(-1)


def _fold(path: str, parts: Sequence[_Points]) -> _Points:
    """Make one value of several series, as `names.host_values` does."""
    if len(parts) == 1:
        return parts[0]
    fold = HOST_NAMES[path.partition("[")[0]].fold
    times = parts[0][0]
    if not all(np.array_equal(times, other[0]) for other in parts[1:]):
        times = np.unique(np.concatenate([one[0] for one in parts]))
    table = np.full((len(parts), len(times)), np.nan)
    for row, (own, values) in zip(table, parts, strict=True):
        row[np.searchsorted(times, own)] = values
    if fold is in_order:
        table.sort(axis=0)
        total = np.zeros(len(times))
        for row in table:
            total += np.where(np.isnan(row), 0.0, row)
        return times, total
    return times, (np.fmax if fold is max else np.fmin).reduce(table, axis=0)


class Alerts:
    """Whether others had alerts out in a chunk. What they say comes as the signals that live rules hear."""

    def __init__(self) -> None:
        # Of a target and value: the changes of the chunk, and what it was before.
        self._changes: dict[tuple[str, str], list[tuple[float, bool]]] = {}
        self._before: dict[tuple[str, str], bool] = {}
        self._made: dict[tuple[str, str, str], Flags] = {}

    def take(self, signals: Iterable[Signal]) -> None:
        """Take what was told in a chunk, by time."""
        self._made = {}
        for key, changes in self._changes.items():
            self._before[key] = changes[-1][1]
        self._changes = {}
        for signal in signals:
            for path, on in signal.values.items():
                self._changes.setdefault((signal.target, path), []).append((signal.time_s, bool(on)))

    def of(self, target: str, host: str, path: str) -> Flags:
        """Return a value of a target, or of the host that its label names."""
        key = (target, host, path)
        if key not in self._made:
            keys = [(target, path), (host, path)] if host and host != target else [(target, path)]
            moments = np.unique([time_s for one in keys for time_s, _on in self._changes.get(one, ())])
            time = np.concatenate(([-np.inf], moments))
            on = np.zeros(len(time), np.bool_)
            for one in keys:
                on |= self._spell(one, time)
            self._made[key] = Flags(time, on)
        return self._made[key]

    def _spell(self, key: tuple[str, str], time: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        changes = self._changes.get(key, [])
        states = np.array([self._before.get(key, False), *(on for _time_s, on in changes)], np.bool_)
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = states[
            np.searchsorted([time_s for time_s, _on in changes], time, side="right")
        ]
        return found
