"""Write-ahead files become segments, and small segments become larger ones. Blocking; loads polars."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from dogwatch.logs.rows import MAX_NAMES, OWN
from dogwatch.logs.store.layout import Meta, Segment, sync, wal_path, write_meta
from dogwatch.logs.store.values import checksums, time_us
from dogwatch.logs.store.wal import read

_TYPES: Mapping[str, Any] = {"str": pl.String, "int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}
_KINDS: Mapping[type, str] = {str: "str", int: "int", float: "float", bool: "bool"}
_INT = 2**63
_THREADS = "POLARS_MAX_THREADS"
_CHUNK_ROWS = 2000
_SMALL_ROWS = 125_000
_LARGE_ROWS = 500_000


def _few_threads() -> None:
    """Let the library begin with two threads: each costs memory, and nobody waits for segments. Later it has begun."""
    given = os.environ.get(_THREADS)
    if given is None:
        os.environ[_THREADS] = "2"
        pl.thread_pool_size()
        del os.environ[_THREADS]


def seal(folder: Path, number: int) -> int:
    """Make segments of a write-ahead file and delete it; one for each source. Return how many records.

    It is read twice, for records as Python has them take many times the memory of columns: once for the types, then
    some thousand records at a time.
    Raises: OSError; then the file is as it was.
    """
    _few_threads()
    path = wal_path(folder, number)
    uses: dict[str, _Uses] = {}
    for _arrived_us, records in read(path):
        for record in records:
            uses.setdefault(str(record.get("source", "")), _Uses()).see(record)
    growing = {source: _Growing(source, one.kinds()) for source, one in uses.items()}
    for arrived_us, records in read(path):
        for record in records:
            growing[str(record.get("source", ""))].add(arrived_us, record)
    made: list[Segment] = []
    try:
        made.extend(one.write(folder, number) for one in growing.values())
        sync(folder)
    except BaseException:
        for segment in made:
            segment.delete()
        raise
    # This is the moment: until here the file counts, from here on its segments.
    path.unlink()
    sync(folder)
    return sum(one.meta.rows for one in made)


class _Growing:
    """The segment of one source: columns of what was added so far, and records that are to be some."""

    def __init__(self, source: str, kinds: Mapping[str, str]) -> None:
        self._source = source
        self._kinds = kinds
        self._placed = {name: (f"c{at}", kind) for at, (name, kind) in enumerate(kinds.items())}
        self._records: list[Mapping[str, Any]] = []
        self._times: list[int] = []
        self._frames: list[pl.DataFrame] = []
        self._odd: dict[str, None] = {}
        self._words: set[int] = set()
        self._arrived_us = 0

    def add(self, arrived_us: int, record: Mapping[str, Any]) -> None:
        self._records.append(record)
        self._times.append(time_us(record, arrived_us))
        self._arrived_us = max(self._arrived_us, arrived_us)
        if len(self._records) >= _CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns, texts = [], []
        for name, kind in self._kinds.items():
            values = [value if _fits(value := one.get(name), kind) else None for one in self._records]
            columns.append(pl.Series(self._placed[name][0], values, dtype=_TYPES[kind]))
            if kind == "str":
                texts.append("\n".join(value for value in values if value is not None))
        more = [self._rest(record) for record in self._records]
        self._frames.append(
            pl.DataFrame(
                [
                    pl.Series("t", self._times, dtype=pl.Int64),
                    *(
                        pl.Series(name, [str(one.get(name, "")) for one in self._records], dtype=pl.String)
                        for name in ("id", "file")
                    ),
                    *columns,
                    pl.Series("more", more, dtype=pl.String),
                ]
            )
        )
        self._words |= checksums([*texts, *(one for one in more if one is not None)])
        self._records, self._times = [], []

    def _rest(self, record: Mapping[str, Any]) -> str | None:
        """Return what has no place in a column, as JSON."""
        rest = {
            name: value
            for name, value in record.items()
            if name not in OWN and value is not None and not _fits(value, self._kinds.get(name, ""))
        }
        self._odd |= dict.fromkeys(rest)
        return msgspec.json.encode(rest).decode() if rest else None

    def write(self, folder: Path, number: int) -> Segment:
        if self._records:
            self._flush()
        frame = pl.concat(self._frames)
        self._frames = []
        if not frame["t"].is_sorted():
            frame = frame.sort("t", maintain_order=True)
        meta = Meta(
            name=f"{number:08d}-{hashlib.blake2b(self._source.encode(), digest_size=6).hexdigest()}",
            rows=frame.height,
            source=self._source,
            columns=self._placed,
            odd=tuple(self._odd),
            begin_us=frame["t"][0],
            end_us=frame["t"][-1],
            arrived_us=self._arrived_us,
            wal=number,
        )
        return _write(folder, meta, frame, self._words)


def _write(folder: Path, meta: Meta, frame: pl.DataFrame | pl.LazyFrame, words: Iterable[int]) -> Segment:
    segment = Segment(folder, meta)
    temporary = segment.parquet.with_suffix(".new")
    try:
        if isinstance(frame, pl.LazyFrame):
            frame.sink_parquet(temporary, compression="zstd", compression_level=3, row_group_size=50_000)
        else:
            frame.write_parquet(temporary, compression="zstd", compression_level=3, row_group_size=50_000)
        sync(temporary)
        write_meta(segment.meta_path, meta, words)
        temporary.rename(segment.parquet)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        segment.delete()
        if isinstance(error, pl.exceptions.PolarsError):
            raise OSError(f"a segment cannot be written: {error}") from None
        raise
    return msgspec.structs.replace(segment, size=segment.parquet.stat().st_size)


class _Uses:
    """How often each name has values of each type."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def see(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            kind = _KINDS.get(type(value))
            if kind is not None and name not in OWN and _fits(value, kind):
                of = self._counts.setdefault(name, {})
                of[kind] = of.get(kind, 0) + 1

    def kinds(self) -> dict[str, str]:
        """Return the type of each name's column: that of most of its values. Objects and lists have none."""
        counts = self._counts
        by_use = sorted(counts, key=lambda name: -sum(counts[name].values()))[:MAX_NAMES]
        # In the order of the names: segments that know the same ones are read together.
        return {name: max(counts[name], key=counts[name].__getitem__) for name in sorted(by_use)}


def _fits(value: object, kind: str) -> bool:
    return _KINDS.get(type(value)) == kind and (kind != "int" or -_INT <= value < _INT)  # type: ignore[operator]


def to_merge(segments: Sequence[Segment]) -> list[Segment]:
    """Return neighbours in time of one source that are small and agree on the type of every name; or nothing."""
    groups: dict[tuple[str, int], list[Segment]] = {}
    for one in segments:
        if one.meta.rows < _SMALL_ROWS:
            groups.setdefault((one.meta.source, one.meta.begin_us // 86_400_000_000), []).append(one)
    for group in groups.values():
        taken: list[Segment] = []
        kinds: dict[str, str] = {}
        rows = 0
        for one in group:
            theirs = {name: kind for name, (_column, kind) in one.meta.columns.items()}
            same = all(kinds.get(name, kind) == kind for name, kind in theirs.items())
            if same and rows + one.meta.rows <= _LARGE_ROWS and len(kinds | theirs) <= MAX_NAMES:
                taken.append(one)
                kinds |= theirs
                rows += one.meta.rows
        if len(taken) >= 8:
            return taken
    return []


def merge(folder: Path, parts: Sequence[Segment]) -> Segment:
    """Make one segment of several. Those are deleted afterwards; until then the new one says that they do not count."""
    kinds = {name: kind for one in parts for name, (_column, kind) in one.meta.columns.items()}
    placed = {name: (f"c{at}", kind) for at, (name, kind) in enumerate(sorted(kinds.items()))}
    frames = []
    words: set[int] = set()
    for one in parts:
        # By way of names that cannot clash: a column's number is another in every segment.
        renamed = {column: f"n{placed[name][0]}" for name, (column, _kind) in one.meta.columns.items()}
        frames.append(pl.scan_parquet(one.parquet).rename(renamed))
        words.update(_words(one))
    names = [f"n{column}" for column, _kind in placed.values()]
    whole = pl.concat(frames, how="diagonal").rename({name: name[1:] for name in names})
    order = ["t", "id", "file", *(column for column, _kind in placed.values()), "more"]
    meta = Meta(
        name=f"m{parts[0].meta.name.removeprefix('m')[:21]}-{len(parts)}-{parts[-1].meta.end_us}",
        rows=sum(one.meta.rows for one in parts),
        source=parts[0].meta.source,
        columns=placed,
        odd=tuple(dict.fromkeys(name for one in parts for name in one.meta.odd)),
        begin_us=min(one.meta.begin_us for one in parts),
        end_us=max(one.meta.end_us for one in parts),
        arrived_us=max(one.meta.arrived_us for one in parts),
        replaces=tuple(one.meta.name for one in parts),
    )
    merged = _write(folder, meta, whole.select(order), words)
    sync(folder)
    for one in parts:
        one.delete()
    return merged


def _words(segment: Segment) -> array[int]:
    data = segment.meta_path.read_bytes()
    return array("I", data[len(data) - 4 * segment.meta.words :])
