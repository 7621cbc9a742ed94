"""One batch, one transaction. Runs in the writer's thread; a batch that failed is written again as it is."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence

import msgspec

from dogwatch.store import histogram
from dogwatch.store.batch import Batch
from dogwatch.store.buckets import (
    FIVE_MINUTES_S,
    HOUR_S,
    Bucket,
    SampleBucket,
    merge_into,
    roll_up,
    roll_up_samples,
)
from dogwatch.store.columns import ResultColumns, SampleColumns
from dogwatch.store.ledger import Ledger
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import Failure, Ping, TargetState
from dogwatch.store.tails import Piece

RESULT_BUCKET = (
    "count, failures, sum_us, min_us, max_us, "
    "resolve_us, connect_us, tls_us, first_byte_us, transfer_us, status, sketch"
)
SAMPLE_BUCKET = "count, sum, min, max, last, last_ms"
_BLOCK = "INSERT INTO {kind}_block (owner_id, start_ms, end_ms, last_seq, data) VALUES (?, ?, ?, ?, ?)"
_NEWEST = "SELECT id, length(data), length(target) FROM {table} WHERE target = ? ORDER BY id DESC LIMIT -1 OFFSET ?"
_PACK = msgspec.msgpack.Encoder().encode


def write(connection: sqlite3.Connection, ledger: Ledger, batch: Batch, limits: StoreLimits) -> None:
    """Commit a batch.

    In WAL mode a commit with synchronous=NORMAL survives the death of the process, but not of the machine; with FULL
    the log is on the disk when COMMIT returns, and with it every commit before. Transitions, pings and documents are
    acknowledged, so a batch that has any is FULL.
    Raises: sqlite3.Error, with nothing written.
    """
    connection.execute(
        "PRAGMA synchronous = FULL" if batch.synced or batch.durable() else "PRAGMA synchronous = NORMAL"
    )
    ledger.begin()
    try:
        connection.execute("BEGIN IMMEDIATE")
        _names(connection, batch)
        _journal(connection, ledger, batch)
        _seals(connection, ledger, batch)
        _records(connection, ledger, batch, limits)
        connection.execute(
            "INSERT INTO alive (id, since_s, until_s) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET until_s = excluded.until_s",
            batch.alive,
        )
        ledger.save(connection)
        connection.execute("COMMIT")
    except BaseException:
        ledger.undo()
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _names(connection: sqlite3.Connection, batch: Batch) -> None:
    connection.executemany("INSERT OR IGNORE INTO target (id, name) VALUES (?, ?)", batch.targets)
    connection.executemany("INSERT OR IGNORE INTO series (id, host, name) VALUES (?, ?, ?)", batch.series)


def _journal(connection: sqlite3.Connection, ledger: Ledger, batch: Batch) -> None:
    put = "INSERT INTO {}_journal (first_seq, count, data) VALUES (?, ?, ?)"
    for first_seq, rows in batch.results:
        data = rows.encode()
        connection.execute(put.format("result"), (first_seq, len(rows), data))
        ledger.add("results", 1, len(data))
    for first_seq, samples in batch.samples:
        data = samples.encode()
        connection.execute(put.format("sample"), (first_seq, len(samples), data))
        ledger.add("samples", 1, len(data))
    for kind, below in zip(("result", "sample"), batch.trim, strict=True):
        if below:
            gone = connection.execute(
                f"SELECT count(*), total(length(data)) FROM {kind}_journal WHERE first_seq + count <= ?",  # noqa: S608
                (below,),
            ).fetchone()
            connection.execute(f"DELETE FROM {kind}_journal WHERE first_seq + count <= ?", (below,))  # noqa: S608
            ledger.add(f"{kind}s", -gone[0], -int(gone[1]))


def _seals(connection: sqlite3.Connection, ledger: Ledger, batch: Batch) -> None:
    for piece in batch.result_seals:
        if _claim(connection, "target", piece.owner_id, piece.last_seq):
            _block(connection, ledger, "result", piece)
            fine = roll_up(piece.rows, FIVE_MINUTES_S)
            coarse: dict[int, Bucket] = {}
            merge_into(coarse, ((start, bucket.copy()) for start, bucket in fine.items()), HOUR_S)
            _merge_results(connection, ledger, "5m", piece.owner_id, fine)
            _merge_results(connection, ledger, "1h", piece.owner_id, coarse)
    for sealed in batch.sample_seals:
        if _claim(connection, "series", sealed.owner_id, sealed.last_seq):
            _block(connection, ledger, "sample", sealed)
            _merge_samples(connection, ledger, "5m", sealed.owner_id, roll_up_samples(sealed.rows, FIVE_MINUTES_S))
            _merge_samples(connection, ledger, "1h", sealed.owner_id, roll_up_samples(sealed.rows, HOUR_S))
    for series_id in batch.forget:
        connection.execute(
            "DELETE FROM series WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM sample_block WHERE owner_id = ?1) AND NOT "
            "EXISTS (SELECT 1 FROM sample_5m WHERE owner_id = ?1) AND NOT EXISTS (SELECT 1 FROM sample_1h WHERE "
            "owner_id = ?1)",
            (series_id,),
        )


def _claim(connection: sqlite3.Connection, owners: str, owner_id: int, last_seq: int) -> bool:
    """Move the owner's mark; return False where the piece was sealed before, so that it is rolled up exactly once."""
    claimed = connection.execute(
        f"UPDATE {owners} SET sealed_seq = ?1 WHERE id = ?2 AND sealed_seq < ?1",  # noqa: S608
        (last_seq, owner_id),
    )
    return claimed.rowcount == 1


def _block(
    connection: sqlite3.Connection, ledger: Ledger, kind: str, piece: Piece[ResultColumns] | Piece[SampleColumns]
) -> None:
    data = piece.rows.encode()
    times = piece.rows.times
    connection.execute(_BLOCK.format(kind=kind), (piece.owner_id, min(times), max(times), piece.last_seq, data))
    ledger.add(f"{kind}s", 1, len(data))


def read_bucket(row: Sequence[object]) -> Bucket:
    """Return a roll-up from its RESULT_BUCKET columns."""
    bucket = Bucket()
    (
        bucket.count, bucket.failures, bucket.sum_us, bucket.min_us, bucket.max_us,
        *phases, bucket.status, sketch,
    ) = row  # type: ignore[assignment] # fmt: skip
    bucket.phases_us = phases  # type: ignore[assignment]
    bucket.bins = histogram.decode(sketch)  # type: ignore[arg-type]
    return bucket


def _merge_results(
    connection: sqlite3.Connection, ledger: Ledger, level: str, owner_id: int, buckets: dict[int, Bucket]
) -> None:
    table = f"result_{level}"
    rows = []
    for bucket_s, bucket in buckets.items():
        found = connection.execute(
            f"SELECT {RESULT_BUCKET} FROM {table} WHERE owner_id = ? AND bucket_s = ?",  # noqa: S608
            (owner_id, bucket_s),
        ).fetchone()
        if found:
            bucket.merge(read_bucket(found))
        else:
            ledger.add(f"results_{level}", 1, 0)
        rows.append(
            (
                owner_id, bucket_s, bucket.count, bucket.failures, bucket.sum_us, bucket.min_us, bucket.max_us,
                *bucket.phases_us, bucket.status, histogram.encode(bucket.bins),
            )
        )  # fmt: skip
    marks = ", ".join("?" * 14)
    connection.executemany(
        f"INSERT OR REPLACE INTO {table} (owner_id, bucket_s, {RESULT_BUCKET}) VALUES ({marks})",  # noqa: S608
        rows,
    )


def _merge_samples(
    connection: sqlite3.Connection, ledger: Ledger, level: str, owner_id: int, buckets: dict[int, SampleBucket]
) -> None:
    table = f"sample_{level}"
    rows = []
    for bucket_s, bucket in buckets.items():
        found = connection.execute(
            f"SELECT {SAMPLE_BUCKET} FROM {table} WHERE owner_id = ? AND bucket_s = ?",  # noqa: S608
            (owner_id, bucket_s),
        ).fetchone()
        if found:
            before = SampleBucket.of(*found)
            before.merge(bucket)
            bucket = before  # noqa: PLW2901
        else:
            ledger.add(f"samples_{level}", 1, 0)
        rows.append((owner_id, bucket_s, bucket.count, bucket.sum, bucket.min, bucket.max, bucket.last, bucket.last_ms))
    connection.executemany(
        f"INSERT OR REPLACE INTO {table} (owner_id, bucket_s, {SAMPLE_BUCKET}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        rows,
    )


def _records(connection: sqlite3.Connection, ledger: Ledger, batch: Batch, limits: StoreLimits) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO state (target, data) VALUES (?, ?)",
        [(name, pack_state(state)) for name, state in batch.states.items()],
    )
    for number, one in batch.transitions:
        put = connection.execute(
            "INSERT INTO transitions (id, target, time_s, before, after, reason) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            (number, one.target, one.time_s, int(one.before), int(one.after), one.reason),
        )
        if put.rowcount == 1:
            ledger.add("transitions", 1, 2 * len(one.target) + len(one.reason))
    for number, failure in batch.failures:
        _evidence(connection, ledger, "failures", number, failure, limits.failures_per_target)
    for number, ping, _ in batch.pings:
        _evidence(connection, ledger, "pings", number, ping, limits.pings_per_target)
    connection.executemany(
        "INSERT OR REPLACE INTO document (name, content) VALUES (?, ?)",
        [(name, content) for name, content, _ in batch.documents],
    )


def _evidence(
    connection: sqlite3.Connection, ledger: Ledger, table: str, number: int, record: Failure | Ping, keep: int
) -> None:
    data = zlib.compress(_PACK(record), 6)
    put = connection.execute(
        f"INSERT INTO {table} (id, target, data) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",  # noqa: S608
        (number, record.target, data),
    )
    if put.rowcount != 1:
        return
    ledger.add(table, 1, len(data) + 2 * len(record.target))
    gone = connection.execute(_NEWEST.format(table=table), (record.target, keep)).fetchall()
    if gone:
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(row[0],) for row in gone])  # noqa: S608
        ledger.add(table, -len(gone), -sum(size + 2 * name for _, size, name in gone))


def pack_state(state: TargetState) -> bytes:
    return _PACK(state)
