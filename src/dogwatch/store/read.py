"""Queries of history. They run in a reader's thread, over one snapshot of the file and copies of what is unsealed."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from dogwatch.core.values import Status, Transition
from dogwatch.store.availability import Stretch, account, union
from dogwatch.store.buckets import (
    FIVE_MINUTES_S,
    HOUR_S,
    Bucket,
    SampleBucket,
    merge_into,
    points,
    roll_up,
    roll_up_samples,
    sample_points,
    width_s,
)
from dogwatch.store.columns import ResultColumns, SampleColumns
from dogwatch.store.database import MOST_COUNTED
from dogwatch.store.protocol import (
    Availability,
    Failure,
    Ping,
    Planned,
    Point,
    ResultRow,
    TargetState,
    TransitionFilter,
    TransitionPage,
)
from dogwatch.store.tails import Piece
from dogwatch.store.write import RESULT_BUCKET, SAMPLE_BUCKET, read_bucket

C = TypeVar("C", ResultColumns, SampleColumns)
_state = msgspec.msgpack.Decoder(TargetState).decode
_failure = msgspec.msgpack.Decoder(Failure).decode
_ping = msgspec.msgpack.Decoder(Ping).decode
# Into so many buckets is a period cut that is asked for as one: its ends are as true as those of a chart.
OVERALL_PARTS = 300
_LEVELS = (("5m", FIVE_MINUTES_S), ("1h", HOUR_S))


class Period(msgspec.Struct, frozen=True):
    """A chart's period. width: of the buckets wanted, seconds."""

    since_s: float
    until_s: float
    width: int

    @classmethod
    def of(cls, since_s: float, until_s: float, count: int) -> Period:
        return cls(since_s, until_s, width_s(since_s, until_s, count))

    def at_least(self, width: int) -> Period:
        return self if width <= self.width else Period(self.since_s, self.until_s, width)

    @property
    def first_s(self) -> int:
        """The start of the first bucket: buckets are shown whole."""
        return int(self.since_s // self.width) * self.width

    @property
    def last_s(self) -> int:
        """The end of the last bucket."""
        return -int(-self.until_s // self.width) * self.width


def _unsealed(connection: sqlite3.Connection, owners: str, pieces: Sequence[Piece[C]]) -> list[C]:
    """Return the rows of those pieces that this snapshot of the file has not in a block."""
    if not pieces:
        return []
    found = connection.execute(f"SELECT sealed_seq FROM {owners} WHERE id = ?", (pieces[0].owner_id,)).fetchone()  # noqa: S608
    sealed = found[0] if found else 0
    return [piece.rows for piece in pieces if piece.last_seq > sealed]


def _level(connection: sqlite3.Connection, kind: str, owner_id: int, period: Period) -> tuple[str, Period]:
    """Return the table to read, and the period with a bucket width that it has.

    The finest resolution that still covers the period (or all that is known of it) bounds the width from below;
    among those that give the width, the coarsest costs least.
    """
    oldest = connection.execute(
        f"SELECT start_ms FROM {kind}_block WHERE owner_id = ? ORDER BY end_ms LIMIT 1",  # noqa: S608
        (owner_id,),
    ).fetchone()
    floors: list[tuple[str, int, float]] = [("raw", 1, oldest[0] / 1000 if oldest else float("inf"))]
    for level, width in _LEVELS:
        (first,) = connection.execute(
            f"SELECT min(bucket_s) FROM {kind}_{level} WHERE owner_id = ?",  # noqa: S608
            (owner_id,),
        ).fetchone()
        floors.append((level, width, float("inf") if first is None else first))
    known = max(period.since_s, min(floor for _, _, floor in floors))
    # A coarser bucket begins before the finer rows in it: compare at the coarsest width.
    covering = [(level, width) for level, width, floor in floors if floor // HOUR_S * HOUR_S <= known]
    if not covering:
        return "raw", period
    period = period.at_least(covering[0][1])
    fitting = [level for level, width in covering if period.width % width == 0]
    return fitting[-1], period


def chart(
    connection: sqlite3.Connection, owner_id: int, pieces: Sequence[Piece[ResultColumns]], period: Period
) -> list[Point]:
    return points(_result_buckets(connection, owner_id, pieces, period))


def overall(
    connection: sqlite3.Connection, owner_id: int, pieces: Sequence[Piece[ResultColumns]], period: Period
) -> Point | None:
    """Return all buckets of a period as one, or None where there are none."""
    whole: Bucket | None = None
    for bucket in _result_buckets(connection, owner_id, pieces, period).values():
        if whole is None:
            whole = bucket.copy()
        else:
            whole.merge(bucket)
    return None if whole is None else whole.point(period.since_s)


def _result_buckets(
    connection: sqlite3.Connection, owner_id: int, pieces: Sequence[Piece[ResultColumns]], period: Period
) -> dict[int, Bucket]:
    level, period = _level(connection, "result", owner_id, period)
    since_ms, until_ms = period.first_s * 1000, period.last_s * 1000
    buckets: dict[int, Bucket] = {}
    fresh = _unsealed(connection, "target", pieces)
    if level == "raw":
        fresh = [
            *(ResultColumns.decode(data) for data in _blocks(connection, "result", owner_id, since_ms, until_ms)),
            *fresh,
        ]
    else:
        rows = connection.execute(
            f"SELECT bucket_s, {RESULT_BUCKET} FROM result_{level} "  # noqa: S608
            "WHERE owner_id = ? AND bucket_s >= ? AND bucket_s < ? ORDER BY bucket_s",
            (owner_id, period.first_s, period.last_s),
        )
        merge_into(buckets, ((row[0], read_bucket(row[1:])) for row in rows), period.width)
    for part in fresh:
        merge_into(buckets, roll_up(part, period.width, since_ms=since_ms, until_ms=until_ms).items(), period.width)
    return buckets


def _blocks(connection: sqlite3.Connection, kind: str, owner_id: int, since_ms: int, until_ms: int) -> Iterator[bytes]:
    for (data,) in connection.execute(
        f"SELECT data FROM {kind}_block WHERE owner_id = ? AND end_ms >= ? AND start_ms < ? ORDER BY id",  # noqa: S608
        (owner_id, since_ms, until_ms),
    ):
        yield data


def series(
    connection: sqlite3.Connection,
    wanted: Sequence[tuple[str, int, Sequence[Piece[SampleColumns]]]],
    period: Period,
) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return points of each (name, id, unsealed); series without any in the period are left out."""
    out = []
    for name, owner_id, pieces in wanted:
        found = sample_points(name, _sample_buckets(connection, owner_id, pieces, period))
        if found:
            out.append((name, found))
    return out


def _sample_buckets(
    connection: sqlite3.Connection, owner_id: int, pieces: Sequence[Piece[SampleColumns]], period: Period
) -> dict[int, SampleBucket]:
    level, period = _level(connection, "sample", owner_id, period)
    since_ms, until_ms = period.first_s * 1000, period.last_s * 1000
    buckets: dict[int, SampleBucket] = {}
    fresh = _unsealed(connection, "series", pieces)
    parts: list[tuple[int, SampleBucket]] = []
    if level == "raw":
        blocks = _blocks(connection, "sample", owner_id, since_ms, until_ms)
        fresh = [*(SampleColumns.decode(data) for data in blocks), *fresh]
    else:
        parts.extend(
            (row[0], SampleBucket.of(*row[1:]))
            for row in connection.execute(
                f"SELECT bucket_s, {SAMPLE_BUCKET} FROM sample_{level} "  # noqa: S608
                "WHERE owner_id = ? AND bucket_s >= ? AND bucket_s < ? ORDER BY bucket_s",
                (owner_id, period.first_s, period.last_s),
            )
        )
    for rows in fresh:
        parts.extend(roll_up_samples(rows, period.width).items())
    for bucket_s, part in parts:
        start = bucket_s - bucket_s % period.width
        if start in buckets:
            buckets[start].merge(part)
        elif period.first_s <= start < period.last_s:
            buckets[start] = part
    return buckets


def results(
    connection: sqlite3.Connection,
    owner_id: int,
    pieces: Sequence[Piece[ResultColumns]],
    target: str,
    *,
    limit: int,
    before_s: float | None = None,
) -> list[ResultRow]:
    """Return rows by arrival, newest first."""
    out: list[ResultRow] = []
    for part in reversed(_unsealed(connection, "target", pieces)):
        _take(out, part, target, before_s, limit)
        if len(out) >= limit:
            return out[:limit]
    before_ms = 1 << 62 if before_s is None else int(before_s * 1000) + 1
    for (data,) in connection.execute(
        "SELECT data FROM result_block WHERE owner_id = ? AND start_ms < ? ORDER BY id DESC", (owner_id, before_ms)
    ):
        _take(out, ResultColumns.decode(data), target, before_s, limit)
        if len(out) >= limit:
            break
    return out[:limit]


def _take(out: list[ResultRow], part: ResultColumns, target: str, before_s: float | None, limit: int) -> None:
    if before_s is None:
        part = part.slice(max(0, len(part) - limit + len(out)), len(part))
    rows = part.rows(target)
    rows.reverse()
    out.extend(rows if before_s is None else [row for row in rows if row.time_s < before_s])


def recent(
    connection: sqlite3.Connection,
    wanted: Sequence[tuple[str, int, Sequence[Piece[ResultColumns]]]],
    limit: int,
) -> dict[str, Sequence[ResultRow]]:
    out: dict[str, Sequence[ResultRow]] = {}
    for target, owner_id, pieces in wanted:
        rows = results(connection, owner_id, pieces, target, limit=limit)
        rows.reverse()
        out[target] = rows
    return out


def states(connection: sqlite3.Connection) -> dict[str, TargetState]:
    return {name: _state(data) for name, data in connection.execute("SELECT target, data FROM state")}


def failures(connection: sqlite3.Connection, target: str, limit: int) -> list[Failure]:
    return [_failure(zlib.decompress(data)) for data in _evidence(connection, "failures", target, limit)]


def pings(connection: sqlite3.Connection, target: str, limit: int) -> list[Ping]:
    return [_ping(zlib.decompress(data)) for data in _evidence(connection, "pings", target, limit)]


def _evidence(connection: sqlite3.Connection, table: str, target: str, limit: int) -> Iterator[bytes]:
    query = f"SELECT data FROM {table} WHERE target = ? ORDER BY id DESC LIMIT ?"  # noqa: S608
    for (data,) in connection.execute(query, (target, limit)):
        yield data


_TRANSITION = "SELECT target, time_s, before, after, reason FROM transitions WHERE "


def _transition(row: tuple[str, float, int, int, str]) -> Transition:
    return Transition(target=row[0], time_s=row[1], before=Status(row[2]), after=Status(row[3]), reason=row[4])


def transitions(connection: sqlite3.Connection, target: str | None, since_s: float, limit: int) -> list[Transition]:
    """Return transitions by arrival, newest first."""
    if target is None:
        rows = connection.execute(_TRANSITION + "time_s >= ? ORDER BY id DESC LIMIT ?", (since_s, limit))
    else:
        rows = connection.execute(
            _TRANSITION + "target = ? AND time_s >= ? ORDER BY id DESC LIMIT ?", (target, since_s, limit)
        )
    return [_transition(row) for row in rows]


def find_transitions(
    connection: sqlite3.Connection, wanted: TransitionFilter, limit: int, before: int | None
) -> TransitionPage:
    """Return a page of transitions by arrival, newest first. before: a number that all of the page are below."""
    where, values = _conditions(connection, wanted)
    total = None
    if before is None and not wanted.words:
        counted = f"SELECT count(*) FROM (SELECT 1 FROM transitions WHERE {where} LIMIT {MOST_COUNTED})"  # noqa: S608
        total = int(connection.execute(counted, values).fetchone()[0])
    below = " AND id < :before" if before is not None else ""
    rows = connection.execute(
        f"SELECT target, time_s, before, after, reason, id FROM transitions WHERE {where}{below} "  # noqa: S608
        "ORDER BY id DESC LIMIT :limit",
        {**values, "before": before, "limit": limit + 1},
    ).fetchall()
    return TransitionPage(
        items=[_transition(row[:5]) for row in rows[:limit]],
        total=total,
        before=rows[limit - 1][5] if len(rows) > limit else None,
    )


def _conditions(connection: sqlite3.Connection, wanted: TransitionFilter) -> tuple[str, dict[str, object]]:
    """Return what a WHERE says of a filter, and the values it names."""
    parts = ["time_s >= :since_s"]
    listed: dict[str, object] = {"since_s": wanted.since_s}
    if wanted.until_s is not None:
        parts.append("time_s < :until_s")
        listed["until_s"] = wanted.until_s
    if wanted.targets is not None:
        parts.append("target IN (SELECT value FROM json_each(:targets))")
        listed["targets"] = msgspec.json.encode(list(wanted.targets)).decode()
    if wanted.after:
        parts.append("after IN (SELECT value FROM json_each(:after))")
        listed["after"] = msgspec.json.encode([int(one) for one in wanted.after]).decode()
    if wanted.words:
        # SQLite's own lower() knows ASCII only.
        connection.create_function("lowered", 1, str.lower, deterministic=True)
    for at, word in enumerate(wanted.words):
        parts.append(f"instr(lowered(target || char(10) || reason), :word{at}) > 0")
        listed[f"word{at}"] = word
    return " AND ".join(parts), listed


def availability(
    connection: sqlite3.Connection,
    targets: Sequence[str],
    alive: Sequence[Stretch],
    since_s: float,
    until_s: float,
    planned: Planned,
) -> list[Availability]:
    ran = connection.execute("SELECT since_s, until_s FROM alive WHERE until_s > ? AND since_s < ?", (since_s, until_s))
    stretches = union([*ran.fetchall(), *alive], since_s=since_s, until_s=until_s)
    return [_account(connection, target, stretches, since_s, until_s, planned.get(target, ())) for target in targets]


def _account(
    connection: sqlite3.Connection,
    target: str,
    stretches: Sequence[Stretch],
    since_s: float,
    until_s: float,
    planned: Sequence[Stretch],
) -> Availability:
    within = [
        _transition(row)
        for row in connection.execute(
            _TRANSITION + "target = ? AND time_s > ? AND time_s <= ? ORDER BY time_s, id", (target, since_s, until_s)
        )
    ]
    initial = _status_at(connection, target, since_s)
    return account(target, initial, within, stretches, since_s=since_s, until_s=until_s, planned=planned)


def _status_at(connection: sqlite3.Connection, target: str, time_s: float) -> Status:
    """Return the status at a time: what the newest transition before it led to, or the next one began from."""
    before = connection.execute(
        "SELECT after FROM transitions WHERE target = ? AND time_s <= ? ORDER BY time_s DESC, id DESC LIMIT 1",
        (target, time_s),
    ).fetchone()
    if before is None:
        before = connection.execute(
            "SELECT before FROM transitions WHERE target = ? AND time_s > ? ORDER BY time_s, id LIMIT 1",
            (target, time_s),
        ).fetchone()
    return Status.PENDING if before is None else Status(before[0])


def document(connection: sqlite3.Connection, name: str) -> bytes | None:
    found = connection.execute("SELECT content FROM document WHERE name = ?", (name,)).fetchone()
    return bytes(found[0]) if found else None
