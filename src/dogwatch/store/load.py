"""What is read when the store is opened: names, last numbers, and the rows that were not sealed yet."""

from __future__ import annotations

import sqlite3

from dogwatch.store.columns import ResultColumns, ResultJournal, SampleColumns, SampleJournal, pack_record
from dogwatch.store.intake import Loaded
from dogwatch.store.tails import Tail

# A journal may outlive a series that was forgotten.
_GONE: tuple[None, int] = (None, 0)


def load(connection: sqlite3.Connection, now_s: float) -> Loaded:
    """now_s: monotonic."""
    loaded = Loaded()
    results: dict[int, tuple[Tail[ResultColumns], int]] = {}
    samples: dict[int, tuple[Tail[SampleColumns], int]] = {}
    for owner_id, name, sealed in connection.execute("SELECT id, name, sealed_seq FROM target"):
        tail = loaded.targets[name] = Tail(owner_id, ResultColumns, now_s)
        results[owner_id] = tail, sealed
        loaded.target_id = max(loaded.target_id, owner_id)
        loaded.result_seq = max(loaded.result_seq, sealed)
    for owner_id, host, name, sealed in connection.execute("SELECT id, host, name, sealed_seq FROM series"):
        one = loaded.series.setdefault(host, {})[name] = Tail(owner_id, SampleColumns, now_s)
        samples[owner_id] = one, sealed
        loaded.series_id = max(loaded.series_id, owner_id)
        loaded.sample_seq = max(loaded.sample_seq, sealed)
    _results(connection, loaded, results, now_s)
    _samples(connection, loaded, samples, now_s)
    for attribute, table in (
        ("transition_id", "transitions"),
        ("failure_id", "failures"),
        ("ping_id", "pings"),
        ("alive_id", "alive"),
    ):
        last = connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608
        setattr(loaded, attribute, last or 0)
    newest = connection.execute("SELECT until_s FROM alive ORDER BY id DESC LIMIT 1").fetchone()
    loaded.alive_s = newest[0] if newest else None
    return loaded


def _results(
    connection: sqlite3.Connection,
    loaded: Loaded,
    owners: dict[int, tuple[Tail[ResultColumns], int]],
    now_s: float,
) -> None:
    for first_seq, data in connection.execute("SELECT first_seq, data FROM result_journal ORDER BY first_seq"):
        ids, rows = ResultJournal.decode(data)
        fields = zip(*rows.columns, strict=True)
        for seq, (owner_id, packed) in enumerate(zip(ids, fields, strict=True), first_seq):
            tail, sealed = owners.get(owner_id, _GONE)
            if tail is None or seq <= sealed:
                continue
            if tail.ends_before(packed[0]):
                tail.cut()
            word = tail.rows.word(rows.words[packed[2]])
            tail.rows.add(pack_record(packed[0], packed[1], word, *packed[3:]), packed[0])
            tail.note(seq, now_s)
        loaded.result_seq = max(loaded.result_seq, first_seq + len(ids) - 1)


def _samples(
    connection: sqlite3.Connection,
    loaded: Loaded,
    owners: dict[int, tuple[Tail[SampleColumns], int]],
    now_s: float,
) -> None:
    for first_seq, data in connection.execute("SELECT first_seq, data FROM sample_journal ORDER BY first_seq"):
        ids, rows = SampleJournal.decode(data)
        for seq, (owner_id, time_ms, value) in enumerate(zip(ids, rows.times, rows.values, strict=True), first_seq):
            tail, sealed = owners.get(owner_id, _GONE)
            if tail is None or seq <= sealed:
                continue
            if tail.ends_before(time_ms):
                tail.cut()
            tail.rows.times.append(time_ms)
            tail.rows.values.append(value)
            tail.note(seq, now_s)
        loaded.sample_seq = max(loaded.sample_seq, first_seq + len(ids) - 1)
