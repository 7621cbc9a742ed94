"""Queries over a store: DuckDB over the segments that may hold something, Python over what is new."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dogwatch.errors import DogwatchError, NotFound
from dogwatch.expressions.cel_syntax import ConditionError, Node, OutsideError, names, parse
from dogwatch.expressions.conditions import Condition, ConditionFailure, compile_condition
from dogwatch.logs.store import sql
from dogwatch.logs.store.layout import Contents, Index, Segment
from dogwatch.logs.store.unknown import unknown
from dogwatch.logs.store.values import time_us, words
from dogwatch.logs.store.wal import read

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger(__name__)
Record = dict[str, Any]
MAX_LIMIT = 10_000
_MAX_GROUPS = 1000
_FETCH = 2000


class QueryError(DogwatchError):
    """A query that cannot be carried out. position: of the mistake in the condition, -1 for none."""

    exit_code = 2
    code = "query"

    def __init__(self, message: str, *, position: int = -1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.position = position


class TooLong(DogwatchError):
    """A query that took longer, or more memory, than it may."""

    code = "query_limit"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. condition: CEL; "" for all. text: words that must all occur. since_us, until_us: of the records'
    time, the end excluded; 0 for open. sources: only these; None for all. limit: of records, the newest. group: names
    whose combinations are counted. bucket_us: counts by time; 0 for none.
    """

    condition: str = ""
    text: str = ""
    since_us: int = 0
    until_us: int = 0
    sources: tuple[str, ...] | None = None
    limit: int = 100
    group: tuple[str, ...] = ()
    bucket_us: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """memory_bytes, threads: of DuckDB. time_s: of the whole query."""

    memory_bytes: int = 256 * 1024 * 1024
    threads: int = 2
    time_s: float = 30.0


class Answer(msgspec.Struct, kw_only=True):
    """records: the oldest first; each with `time_us`. groups: values of the names → count, the most frequent first.
    buckets: begin in microseconds → count. matched: records counted, where something was to be counted. segments,
    skipped: how many there were, and how many of them were not opened. by_row: records that had to be judged one by
    one, because SQL could not. unreadable: damaged segments, whose records are missing. unknown: where nothing was
    found, sentences on fields that no record has. took_s: how long it took.
    """

    records: list[Record] = []
    groups: list[tuple[tuple[Any, ...], int]] = []
    buckets: dict[int, int] = {}
    matched: int = 0
    segments: int = 0
    skipped: int = 0
    by_row: int = 0
    unreadable: int = 0
    unknown: list[str] = []
    took_s: float = 0.0


class Meant:
    """A compiled query. Raises: QueryError."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.tree: Node | None = None
        self.condition: Condition | None = None
        self.words = words(query.text)
        self.used: set[str] = set(query.group)
        if query.text.strip() and not self.words:
            raise QueryError("the text to look for has no word", hint="letters, digits or _")
        if query.condition.strip():
            self._compile(query.condition)

    def _compile(self, text: str) -> None:
        try:
            try:
                self.tree = parse(text)
                used = set(names(self.tree))
            except OutsideError:
                import re

                used = set(re.findall(r"[A-Za-z_]\w*", text)) - {"in", "true", "false", "null", "has", "size"}
            self.used |= used
            self.condition = compile_condition(text, dict.fromkeys(sorted(used), "dyn"))
        except ConditionError as error:
            raise QueryError(str(error), position=error.position, hint=error.hint) from None

    def in_time(self, at_us: int) -> bool:
        query = self.query
        return query.since_us <= at_us and (not query.until_us or at_us < query.until_us)

    def holds(self, record: Record) -> bool:
        """Judge one record as the specification says; what cannot be judged is not meant."""
        if self.query.sources is not None and record.get("source") not in self.query.sources:
            return False
        if self.condition is not None:
            try:
                if not self.condition.test({k: v for k, v in record.items() if v is not None}):
                    return False
            except ConditionFailure:
                return False
        return not self.words or _has_words(record, self.words)


def _has_words(record: Record, wanted: Sequence[str]) -> bool:
    found: set[str] = set()
    for name, value in record.items():
        if name not in ("id", "source", "file", "time_us"):
            _collect(value, found)
    return found.issuperset(wanted)


def _collect(value: object, found: set[str]) -> None:
    if isinstance(value, str):
        found.update(words(value))
    elif isinstance(value, dict):
        for one in value.values():
            _collect(one, found)
    elif isinstance(value, list):
        for one in value:
            _collect(one, found)


class LogStore:
    """Reads one store's folder. One query at a time in a thread; several may be under way.

    expected: whether a configuration names it; then it is empty, and not absent, until something has come.
    """

    def __init__(self, folder: Path, limits: Limits | None = None, *, expected: bool = False) -> None:
        self._folder = folder
        self._expected = expected
        self._limits = limits or Limits()
        self._index = Index(folder)
        self._listing = threading.Lock()

    def run(self, query: Query, stopped: Callable[[], bool] = lambda: False) -> Answer:
        """Answer a query. stopped: asked now and then whether nobody wants it any more.

        Raises: QueryError, TooLong, NotFound where there is no store.
        """
        if not self._expected and not self._folder.is_dir():
            raise NotFound(
                f"there is no log store in {self._folder}", hint="a sink `store: {}` in the configuration makes one"
            )
        if not 0 <= query.limit <= MAX_LIMIT:
            raise QueryError(f"at most {MAX_LIMIT:,} records can be had at once")
        meant = Meant(query)
        begun_s = time.monotonic()
        for attempt in range(5):
            try:
                contents = self._contents()
                answer = _Running(meant, self._limits, begun_s, stopped).run(contents)
                values = {one for group, _count in answer.groups for one in group}
                if not answer.records and (not answer.matched or (query.group and values == {None})):
                    answer.unknown = unknown(meant.used, query.sources, contents)
                answer.took_s = time.monotonic() - begun_s
                return answer
            except FileNotFoundError:
                # Retention or a merge took a file away: what there is now is listed anew.
                if attempt == 4:
                    raise
        raise AssertionError

    def _contents(self) -> Contents:
        with self._listing:
            return self._index.contents()


class _Running:
    def __init__(self, meant: Meant, limits: Limits, begun_s: float, stopped: Callable[[], bool]) -> None:
        self._meant = meant
        self._query = meant.query
        self._limits = limits
        self._begun_s = begun_s
        self._stopped = stopped
        self._answer = Answer()
        self._groups: dict[tuple[Any, ...], int] = {}
        self._found: list[Record] = []
        self._counts = bool(meant.query.group or meant.query.bucket_us)

    def _check(self) -> None:
        if self._stopped():
            raise TooLong("nobody waits for this query any more")
        if time.monotonic() - self._begun_s > self._limits.time_s:
            raise TooLong(
                f"the query took longer than {self._limits.time_s:g} s", hint="a shorter time, or a narrower condition"
            )

    def run(self, contents: Contents) -> Answer:
        for path in contents.wals.values():
            for arrived_us, records in read(path):
                self._check()
                for record in records:
                    at_us = time_us(record, arrived_us)
                    if self._meant.in_time(at_us):
                        present = {name: value for name, value in record.items() if value is not None}
                        self._consider({**present, "time_us": at_us})
        self._segments(contents.segments)
        found = sorted(self._found, key=lambda one: one["time_us"])
        self._answer.records = found[-self._query.limit :] if self._query.limit else []
        ordered = sorted(self._groups.items(), key=lambda one: (-one[1], str(one[0])))
        self._answer.groups = ordered[:_MAX_GROUPS]
        self._answer.buckets = dict(sorted(self._answer.buckets.items()))
        return self._answer

    def _consider(self, record: Record) -> None:
        if not self._meant.holds(record):
            return
        if self._counts:
            self._count(record["time_us"], tuple(_plain(record.get(name)) for name in self._query.group), 1)
        if self._query.limit:
            self._found.append(record)
            if len(self._found) > 4 * self._query.limit + 1000:
                self._found = sorted(self._found, key=lambda one: one["time_us"])[-self._query.limit :]

    def _count(self, at_us: int, group: tuple[Any, ...], amount: int) -> None:
        self._answer.matched += amount
        if self._query.group:
            self._groups[group] = self._groups.get(group, 0) + amount
        if width := self._query.bucket_us:
            begin = at_us // width * width
            self._answer.buckets[begin] = self._answer.buckets.get(begin, 0) + amount

    # -- segments

    def _segments(self, segments: Sequence[Segment]) -> None:
        self._answer.segments = len(segments)
        kinds: dict[Any, list[Segment]] = {}
        for one in segments:
            if not self._may_matter(one):
                self._answer.skipped += 1
                continue
            kinds.setdefault((one.meta.source, tuple(one.meta.columns.items()), one.meta.odd), []).append(one)
        if not kinds:
            return
        with _connection(self._limits) as connection, _alarm(connection, self._left_s()):
            for alike in kinds.values():
                self._check()
                self._whole(connection, alike)

    def _whole(self, connection: duckdb.DuckDBPyConnection, segments: list[Segment]) -> None:
        """Take all of these segments, or, where one cannot be read, each of the others."""
        import duckdb

        before = msgspec.structs.replace(self._answer, buckets=dict(self._answer.buckets))
        groups, found = dict(self._groups), list(self._found)
        try:
            self._alike(connection, segments)
        except duckdb.Error as error:
            _translate(error, self._limits)
            self._answer, self._groups, self._found = before, groups, found
            if len(segments) > 1:
                for one in segments:
                    self._whole(connection, [one])
                return
            if not segments[0].parquet.exists():
                raise FileNotFoundError(segments[0].parquet) from None
            _log.warning("segment %s cannot be read: %s", segments[0].parquet.name, error)
            self._answer.unreadable += 1

    def _left_s(self) -> float:
        return max(0.01, self._begun_s + self._limits.time_s - time.monotonic())

    def _may_matter(self, one: Segment) -> bool:
        query = self._query
        if one.meta.end_us < query.since_us or (query.until_us and one.meta.begin_us >= query.until_us):
            return False
        if query.sources is not None and one.meta.source not in query.sources:
            return False
        return one.may_hold(self._meant.words)

    def _alike(self, connection: duckdb.DuckDBPyConnection, segments: list[Segment]) -> None:
        columns = sql.Columns(segments[0].meta)
        where = self._where(columns)
        files = [str(one.parquet) for one in segments]
        if where.exact and self._counts and self._countable(columns):
            self._count_in_sql(connection, files, columns, where)
            if self._query.limit:
                self._fetch(connection, files, segments[0], where, limit=True, count=False)
            return
        limited = where.exact and not self._counts
        self._fetch(connection, files, segments[0], where, limit=limited, count=True)

    def _where(self, columns: sql.Columns) -> sql.Where:
        parts = [sql.Where("t >= ?", [self._query.since_us])]
        if self._query.until_us:
            parts.append(sql.Where("t < ?", [self._query.until_us]))
        if self._meant.condition is not None:
            tree = self._meant.tree
            parts.append(sql.Where("TRUE", [], exact=False) if tree is None else sql.compile_condition(tree, columns))
        if self._meant.words:
            parts.append(sql.compile_words(self._meant.words, columns))
        return sql.Where(
            " AND ".join(part.sql for part in parts),
            [one for part in parts for one in part.parameters],
            exact=all(part.exact for part in parts),
        )

    def _countable(self, columns: sql.Columns) -> bool:
        return not any(columns.is_odd(name) for name in self._query.group)

    def _count_in_sql(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], columns: sql.Columns, where: sql.Where
    ) -> None:
        width = self._query.bucket_us
        begin = f"t // {width} * {width}" if width else "0"
        keys = [columns.of(name)[0] for name in self._query.group]
        selected = ", ".join([f"{begin} AS b", *(f"{key} AS k{at}" for at, key in enumerate(keys)), "count(*)"])
        text = f"SELECT {selected} FROM read_parquet(?) WHERE {where.sql} GROUP BY ALL"  # noqa: S608 built of constants
        for begin_us, *values, amount in connection.execute(text, [files, *where.parameters]).fetchall():
            self._count(begin_us, tuple(values), amount)

    def _fetch(
        self,
        connection: duckdb.DuckDBPyConnection,
        files: list[str],
        segment: Segment,
        where: sql.Where,
        *,
        limit: bool,
        count: bool,
    ) -> None:
        meta = segment.meta
        selected = ", ".join(["t", "id", "file", "more", *(column for column, _kind in meta.columns.values())])
        text = f"SELECT {selected} FROM read_parquet(?) WHERE {where.sql} ORDER BY t DESC"  # noqa: S608
        if limit:
            text += f" LIMIT {self._query.limit}"
        cursor = connection.execute(text, [files, *where.parameters])
        kept = 0
        for record in _records(cursor, meta.source, list(meta.columns)):
            if not where.exact:
                self._answer.by_row += 1
                if self._answer.by_row % 1000 == 0:
                    self._check()
                if not self._meant.holds(record):
                    continue
            if count and self._counts:
                self._count(record["time_us"], tuple(_plain(record.get(name)) for name in self._query.group), 1)
            if kept < self._query.limit:
                kept += 1
                self._found.append(record)
            elif not self._counts:
                break


def _plain(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value


def _records(cursor: duckdb.DuckDBPyConnection, source: str, columns: list[str]) -> Iterator[Record]:
    while rows := cursor.fetchmany(_FETCH):
        for at_us, name, file, more, *values in rows:
            record: Record = {"id": name, "source": source, "file": file}
            record.update((key, value) for key, value in zip(columns, values, strict=True) if value is not None)
            if more:
                record.update(msgspec.json.decode(more))
            record["time_us"] = at_us
            yield record


def _connection(limits: Limits) -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError:
        raise QueryError("queries need DuckDB", hint="pip install 'dogwatch[logs]'") from None
    config: Mapping[str, Any] = {
        "threads": limits.threads,
        "memory_limit": f"{limits.memory_bytes // 1024}KiB",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": "",
    }
    return duckdb.connect(":memory:", config=dict(config))


class _alarm:  # noqa: N801 used as a context manager
    """Interrupts a connection when its time is over."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
        self._timer = threading.Timer(seconds, connection.interrupt)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_exc: object) -> None:
        self._timer.cancel()
        self._timer.join()


def _translate(error: Exception, limits: Limits) -> None:
    """Raise what DuckDB's error means, or return."""
    import duckdb

    if isinstance(error, duckdb.InterruptException):
        raise TooLong(
            f"the query took longer than {limits.time_s:g} s", hint="a shorter time, or a narrower condition"
        ) from None
    if isinstance(error, duckdb.OutOfMemoryException):
        raise TooLong(f"the query needs more than {limits.memory_bytes // 2**20} MiB of memory") from None
    if isinstance(error, duckdb.IOException) and "No files found" in str(error):
        raise FileNotFoundError(str(error)) from None
    if isinstance(error, duckdb.Error) and "regex" in str(error).lower():
        raise QueryError(f"a pattern cannot be used: {error}") from None
