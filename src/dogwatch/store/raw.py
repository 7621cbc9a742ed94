"""History as it is kept, for whoever reads all of it: sealed blocks, what is not sealed yet, and roll-ups before that.

Queries run in a reader's thread over one snapshot. Nothing is decoded here: who reads a month decodes only what it
needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from dogwatch.core.values import Status, Transition
from dogwatch.store.buckets import FIVE_MINUTES_S, HOUR_S
from dogwatch.store.columns import ResultColumns, SampleColumns
from dogwatch.store.tails import Piece

C = TypeVar("C", ResultColumns, SampleColumns)
_LEVELS = (("5m", FIVE_MINUTES_S), ("1h", HOUR_S))


class Rolled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A bucket of results where no raw ones are left. end_s: its end. durations_us: sums over successes, all first."""

    end_s: float
    width_s: int
    count: int
    failures: int
    status: int
    durations_us: tuple[int, int, int, int, int, int]


class RawResults(msgspec.Struct, frozen=True, kw_only=True):
    """A target's history of a time, since_s <= time < until_s and some rows around. blocks: as ResultColumns encodes
    them. fresh: not sealed yet. rolled: before the oldest raw row. transitions: in order of their times.
    """

    target: str
    blocks: Sequence[bytes] = ()
    fresh: Sequence[ResultColumns] = ()
    rolled: Sequence[Rolled] = ()
    transitions: Sequence[Transition] = ()


class RawSamples(msgspec.Struct, frozen=True, kw_only=True):
    """A series' history of a time. rolled: (end of the bucket, mean, width) before the oldest raw sample."""

    series: str
    blocks: Sequence[bytes] = ()
    fresh: Sequence[SampleColumns] = ()
    rolled: Sequence[tuple[float, float, int]] = ()


Wanted = Sequence[tuple[str, int, Sequence[Piece[C]]]]


def results(
    connection: sqlite3.Connection, wanted: Wanted[ResultColumns], since_s: float, until_s: float
) -> list[RawResults]:
    since_ms, until_ms = round(since_s * 1000), round(until_s * 1000)
    out = []
    for name, owner_id, pieces in wanted:
        fresh = _unsealed(connection, "target", pieces, since_ms, until_ms)
        floor_ms = _floor(connection, "result", owner_id, fresh)
        out.append(
            RawResults(
                target=name,
                blocks=list(_blocks(connection, "result", owner_id, since_ms, until_ms)),
                fresh=fresh,
                rolled=_rolled(connection, owner_id, since_s, min(until_s, floor_ms / 1000))
                if floor_ms > since_ms
                else (),
                transitions=_transitions(connection, name, since_s, until_s),
            )
        )
    return out


def samples(
    connection: sqlite3.Connection, wanted: Wanted[SampleColumns], since_s: float, until_s: float
) -> list[RawSamples]:
    since_ms, until_ms = round(since_s * 1000), round(until_s * 1000)
    out = []
    for name, owner_id, pieces in wanted:
        fresh = _unsealed(connection, "series", pieces, since_ms, until_ms)
        floor_ms = _floor(connection, "sample", owner_id, fresh)
        rolled: list[tuple[float, float, int]] = []
        if floor_ms > since_ms:
            for level, width, low_s, high_s in _stretches(
                connection, "sample", owner_id, since_s, min(until_s, floor_ms / 1000)
            ):
                rows = connection.execute(
                    f"SELECT bucket_s, sum / count FROM sample_{level} "  # noqa: S608
                    "WHERE owner_id = ? AND bucket_s >= ? AND bucket_s < ? ORDER BY bucket_s",
                    (owner_id, low_s - width, high_s - width),
                )
                rolled += ((float(start + width), mean, width) for start, mean in rows)
        blocks = list(_blocks(connection, "sample", owner_id, since_ms, until_ms))
        if blocks or fresh or rolled:
            out.append(RawSamples(series=name, blocks=blocks, fresh=fresh, rolled=rolled))
    return out


def alive(
    connection: sqlite3.Connection, now: tuple[float, float], since_s: float, until_s: float
) -> list[tuple[float, float]]:
    """Return the stretches of a time in which Dogwatch ran, cut to it. now: the one that goes on."""
    rows = connection.execute(
        "SELECT since_s, until_s FROM alive WHERE until_s > ? AND since_s < ?", (since_s, until_s)
    )
    found = [(float(one), float(two)) for one, two in rows]
    return [(max(one, since_s), min(two, until_s)) for one, two in (*found, now) if two > since_s and one < until_s]


def oldest_s(connection: sqlite3.Connection, kind: str) -> float | None:
    """Return the start of the oldest raw block."""
    (found,) = connection.execute(f"SELECT min(start_ms) FROM {kind}_block").fetchone()  # noqa: S608
    return None if found is None else float(found) / 1000


def _unsealed(
    connection: sqlite3.Connection, owners: str, pieces: Sequence[Piece[C]], since_ms: int, until_ms: int
) -> list[C]:
    if not pieces:
        return []
    found = connection.execute(f"SELECT sealed_seq FROM {owners} WHERE id = ?", (pieces[0].owner_id,)).fetchone()  # noqa: S608
    sealed = found[0] if found else 0
    rows: Iterable[C] = (piece.rows for piece in pieces if piece.last_seq > sealed)
    return [one for one in rows if len(one) and max(one.times) >= since_ms and min(one.times) < until_ms]


def _blocks(connection: sqlite3.Connection, kind: str, owner_id: int, since_ms: int, until_ms: int) -> Iterator[bytes]:
    for (data,) in connection.execute(
        f"SELECT data FROM {kind}_block WHERE owner_id = ? AND end_ms >= ? AND start_ms < ? ORDER BY id",  # noqa: S608
        (owner_id, since_ms, until_ms),
    ):
        yield data


def _floor(connection: sqlite3.Connection, kind: str, owner_id: int, fresh: Sequence[C]) -> int:
    """Return when the oldest raw row was taken, milliseconds."""
    row = connection.execute(
        f"SELECT start_ms FROM {kind}_block WHERE owner_id = ? ORDER BY end_ms LIMIT 1",  # noqa: S608
        (owner_id,),
    ).fetchone()
    starts = [min(one.times) for one in fresh]
    if row is not None:
        starts.append(row[0])
    return min(starts, default=1 << 62)


def _stretches(
    connection: sqlite3.Connection, kind: str, owner_id: int, since_s: float, until_s: float
) -> Iterator[tuple[str, int, float, float]]:
    """Yield what is read from which roll-up, the coarse one first: (level, width, since, until of buckets' ends)."""
    row = connection.execute(
        f"SELECT min(bucket_s) FROM {kind}_5m WHERE owner_id = ?",  # noqa: S608
        (owner_id,),
    ).fetchone()
    fine_s = float("inf") if row[0] is None else row[0] + FIVE_MINUTES_S
    if since_s < fine_s:
        yield "1h", HOUR_S, since_s, min(until_s, fine_s)
    if until_s > fine_s:
        yield "5m", FIVE_MINUTES_S, max(since_s, fine_s), until_s


def _rolled(connection: sqlite3.Connection, owner_id: int, since_s: float, until_s: float) -> list[Rolled]:
    out = []
    for level, width, low_s, high_s in _stretches(connection, "result", owner_id, since_s, until_s):
        rows = connection.execute(
            "SELECT bucket_s, count, failures, status, sum_us, resolve_us, connect_us, tls_us, first_byte_us, "  # noqa: S608
            f"transfer_us FROM result_{level} WHERE owner_id = ? AND bucket_s >= ? AND bucket_s < ? ORDER BY bucket_s",
            (owner_id, low_s - width, high_s - width),
        )
        out += [Rolled(float(row[0] + width), width, row[1], row[2], row[3], tuple(row[4:])) for row in rows]
    return out


def _transitions(connection: sqlite3.Connection, target: str, since_s: float, until_s: float) -> list[Transition]:
    return [
        Transition(target=target, time_s=time_s, before=Status(before), after=Status(after), reason=reason)
        for time_s, before, after, reason in connection.execute(
            "SELECT time_s, before, after, reason FROM transitions "
            "WHERE target = ? AND time_s >= ? AND time_s < ? ORDER BY time_s, id",
            (target, since_s, until_s),
        )
    ]
