"""What waits for the disk: bounded buffers and the newest rows of every owner. Owned by the event loop; no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Final

import msgspec

from dogwatch.core.values import Transition
from dogwatch.store.batch import Batch, Waiter
from dogwatch.store.columns import (
    ResultColumns,
    ResultJournal,
    SampleColumns,
    SampleJournal,
    flags_of,
    milliseconds,
    record_head,
    success_tail,
)
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import Failure, Ping, ResultRow, TargetState, rows_of
from dogwatch.store.successes import Successes
from dogwatch.store.tails import Tail, overdue
from dogwatch.store.text import clean

TABLES = ("results", "samples", "states", "failures", "transitions", "pings", "documents")
# Names, and records that may wait. Names stay as long as there is history of them.
MAX_TARGETS, MAX_SERIES = 100_000, 100_000
MAX_FAILURES, MAX_TRANSITIONS, MAX_PINGS, MAX_DOCUMENTS = 1_000, 10_000, 10_000, 100
MAX_DOCUMENT_BYTES = 1024 * 1024
# Bounds of text that comes from outside, characters.
_NAME, _WORD, _REASON, _MESSAGE, _BODY, _HEADERS = 1024, 64, 1024, 4096, 65_536, 100
_JOURNAL_ROWS: Final = 20_000
# Blocks sealed in one commit: some 0.5 ms each, and a transition may wait behind it.
_SEALS = 64
_SWEEP = 200
# A series that got nothing for this long is looked at for removal.
_IDLE_S = 7200.0


class Loaded:
    """What the file had when it was opened. Numbers are the last that were used."""

    __slots__ = (
        "alive_id",
        "alive_s",
        "failure_id",
        "pieces",
        "ping_id",
        "result_seq",
        "sample_seq",
        "series",
        "series_id",
        "target_id",
        "targets",
        "transition_id",
    )  # fmt: skip

    def __init__(self) -> None:
        self.targets: dict[str, Tail[ResultColumns]] = {}
        self.series: dict[str, dict[str, Tail[SampleColumns]]] = {}
        self.target_id = self.series_id = self.result_seq = self.sample_seq = 0
        self.transition_id = self.failure_id = self.ping_id = self.alive_id = self.pieces = 0
        self.alive_s: float | None = None


class Intake:
    """Takes rows, bounded; gives them out as batches. lost: rows by table that were refused or given up."""

    def __init__(self, loaded: Loaded, limits: StoreLimits) -> None:
        self.limits = limits
        self.targets = loaded.targets
        self.hosts = loaded.series
        self.lost = dict.fromkeys(TABLES, 0)
        self.waiting = dict.fromkeys(TABLES, 0)
        self.series_count = sum(map(len, loaded.series.values()))
        self._last = loaded
        self._new = Batch()
        self._results = ResultJournal()
        self._samples = SampleJournal()
        self._sweep_at = 0
        self.result_seals = [piece for tail in self.targets.values() for piece in tail.sealing]
        self.sample_seals = [piece for tail in self._series() for piece in tail.sealing]

    def _series(self) -> Iterable[Tail[SampleColumns]]:
        return chain.from_iterable(host.values() for host in self.hosts.values())

    def capacity(self, table: str) -> int:
        return {
            "results": self.limits.buffer_rows,
            "samples": self.limits.buffer_rows,
            "states": MAX_TARGETS,
            "failures": MAX_FAILURES,
            "transitions": MAX_TRANSITIONS,
            "pings": MAX_PINGS,
            "documents": MAX_DOCUMENTS,
        }[table]

    def _admit(self, table: str) -> bool:
        if self.waiting[table] >= self.capacity(table):
            self.lost[table] += 1
            return False
        self.waiting[table] += 1
        return True

    def successes(self, ended: Successes, now_s: float) -> None:
        """Take what `result` would take of each, with one look at the bounds for all. On the path of every attempt."""
        names, durations_s, connects_s = ended.targets, ended.durations_s, ended.connects_s
        first_bytes_s = ended.first_bytes_s
        room = self.limits.buffer_rows - self.waiting["results"]
        if len(names) > room or len(self._results) + len(names) >= _JOURNAL_ROWS:
            for row in rows_of(ended):
                self.result(row, now_s)
            return
        time_ms = round(ended.time_s * 1000)
        head = record_head(time_ms, flags_of(ended.status, success=True))
        targets, seq = self.targets, self._last.result_seq
        owners: list[int] = []
        records: list[bytes] = []
        for index in range(len(names)):
            tail = targets.get(names[index])
            if tail is None:
                tail = self._new_target(names[index], now_s)
                if tail is None:
                    self.lost["results"] += 1
                    continue
            if tail.ends_before(time_ms):
                self.result_seals.append(tail.cut())
            record = head + success_tail(durations_s[index], connects_s[index], first_bytes_s[index])
            tail.rows.add(record, time_ms)
            seq += 1
            tail.note(seq, now_s)
            owners.append(tail.owner_id)
            records.append(record)
        self._results.add_successes(owners, records)
        self._last.result_seq = seq
        self.waiting["results"] += len(records)

    def result(self, row: ResultRow, now_s: float) -> None:
        tail = self.targets.get(row.target) or self._new_target(row.target, now_s)
        waiting = self.waiting
        if tail is None or waiting["results"] >= self.limits.buffer_rows:
            self.lost["results"] += 1
            return
        reason = row.reason
        if reason and (not reason.isascii() or len(reason) > _WORD):
            reason = clean(reason, _WORD)
            row = msgspec.structs.replace(row, reason=reason)
        time_ms = round(row.time_s * 1000)
        if tail.ends_before(time_ms):
            self.result_seals.append(tail.cut())
        record = tail.rows.pack(row)
        tail.rows.add(record, time_ms)
        self._last.result_seq = seq = self._last.result_seq + 1
        tail.note(seq, now_s)
        waiting["results"] += 1
        journal = self._results
        journal.add(tail.owner_id, record, reason)
        if len(journal) >= _JOURNAL_ROWS:
            self._turn_results()

    def samples(self, host: str, time_s: float, samples: Iterable[tuple[str, float]], now_s: float) -> None:
        tails = self.hosts.get(host)
        if tails is None:
            tails = self.hosts[host] = {}
        time_ms = milliseconds(time_s)
        journal = self._samples
        last, room = self._last, self.limits.buffer_rows - self.waiting["samples"]
        count = 0
        for name, value in samples:
            # A value that is no number has no mean, least and most either.
            if not math.isfinite(value):
                continue
            tail = tails.get(name) or self._new_series(host, name, tails, now_s)
            if tail is None or count >= room:
                self.lost["samples"] += 1
                continue
            count += 1
            if tail.ends_before(time_ms):
                self.sample_seals.append(tail.cut())
            tail.rows.times.append(time_ms)
            tail.rows.values.append(value)
            last.sample_seq += 1
            tail.note(last.sample_seq, now_s)
            journal.owners.append(tail.owner_id)
            journal.times.append(time_ms)
            journal.values.append(value)
        self.waiting["samples"] += count
        if len(journal) >= _JOURNAL_ROWS:
            self._turn_samples()

    def _new_target(self, name: str, now_s: float) -> Tail[ResultColumns] | None:
        fit = clean(name, _NAME)
        if fit != name:
            return self.targets.get(fit) or self._new_target(fit, now_s)
        if len(self.targets) >= MAX_TARGETS:
            return None
        self._last.target_id += 1
        self._new.targets.append((self._last.target_id, name))
        tail = self.targets[name] = Tail(self._last.target_id, ResultColumns, now_s)
        return tail

    def _new_series(
        self, host: str, name: str, tails: dict[str, Tail[SampleColumns]], now_s: float
    ) -> Tail[SampleColumns] | None:
        fit = clean(name, _NAME)
        if fit != name and fit in tails:
            return tails[fit]
        if self.series_count >= MAX_SERIES:
            return None
        self._last.series_id += 1
        self.series_count += 1
        self._new.series.append((self._last.series_id, clean(host, _NAME), fit))
        tail = tails[fit] = Tail(self._last.series_id, SampleColumns, now_s)
        return tail

    def state(self, state: TargetState) -> None:
        name = clean(state.target, _NAME)
        if name not in self._new.states and not self._admit("states"):
            return
        self._new.states[name] = state if name == state.target else msgspec.structs.replace(state, target=name)

    def failure(self, failure: Failure) -> None:
        if not self._admit("failures"):
            return
        self._last.failure_id += 1
        body = clean(failure.body, _BODY)
        headers = tuple((clean(name, _WORD), clean(value, _MESSAGE)) for name, value in failure.headers[:_HEADERS])
        fit = msgspec.structs.replace(
            failure,
            target=clean(failure.target, _NAME),
            reason=clean(failure.reason, _WORD),
            message=clean(failure.message, _MESSAGE),
            headers=headers,
            body=body,
            truncated=failure.truncated or len(body) < len(failure.body) or len(headers) < len(failure.headers),
        )
        self._new.failures.append((self._last.failure_id, fit))

    def transition(self, transition: Transition, waiter: Waiter) -> None:
        if not self._admit("transitions"):
            waiter.set_result(None)
            return
        self._last.transition_id += 1
        fit = msgspec.structs.replace(
            transition, target=clean(transition.target, _NAME), reason=clean(transition.reason, _REASON)
        )
        self._new.transitions.append((self._last.transition_id, fit))
        self._new.announced.append(waiter)

    def ping(self, ping: Ping, waiter: Waiter) -> bool:
        """Return whether there was room."""
        if not self._admit("pings"):
            return False
        self._last.ping_id += 1
        fit = msgspec.structs.replace(
            ping,
            target=clean(ping.target, _NAME),
            signal=clean(ping.signal, _WORD),
            body=clean(ping.body, _BODY),
            remote=clean(ping.remote, _WORD),
            rid=clean(ping.rid, _WORD),
        )
        self._new.pings.append((self._last.ping_id, fit, waiter))
        return True

    def document(self, name: str, content: bytes, waiter: Waiter) -> bool:
        """Return whether there was room."""
        if not self._admit("documents"):
            return False
        self._new.documents.append((clean(name, _NAME), content, waiter))
        return True

    def flush(self, waiter: Waiter) -> None:
        self._new.flushed.append(waiter)

    def empty(self) -> bool:
        new = self._new
        return not (any(self.waiting.values()) or new.flushed or self.result_seals or self.sample_seals or new.forget)

    def urgent(self) -> bool:
        """Return whether somebody waits for the next batch."""
        return self._new.durable() or bool(self._new.flushed) or bool(self.result_seals) or bool(self.sample_seals)

    def collect(self) -> Batch:
        """Return everything that waits as a batch; at most some blocks to seal."""
        self._turn_results()
        self._turn_samples()
        batch, self._new = self._new, Batch()
        batch.result_seals, self.result_seals = self.result_seals[:_SEALS], self.result_seals[_SEALS:]
        room = _SEALS - len(batch.result_seals)
        batch.sample_seals, self.sample_seals = self.sample_seals[:room], self.sample_seals[room:]
        return batch

    def written(self, batch: Batch) -> None:
        """Take note that a batch is on the disk, or was given up."""
        for table, count in batch.counts().items():
            self.waiting[table] -= count
        for piece in batch.result_seals:
            piece.tail.sealed(piece)
        for sealed in batch.sample_seals:
            sealed.tail.sealed(sealed)

    def refuse(self, batch: Batch | None, error: Exception) -> None:
        """Tell those who wait for a batch (None: the next one) that it cannot be written now.

        Pings and documents go back to their callers; transitions stay, and their callers go on.
        """
        batch = batch or self._new
        for table, rows in (("pings", batch.pings), ("documents", batch.documents)):
            self.waiting[table] -= len(rows)
            for _, _, waiter in rows:
                if not waiter.done():
                    waiter.set_exception(error)
        batch.pings, batch.documents = [], []
        announce(batch.announced)
        batch.announced = []

    def give_up(self, batch: Batch) -> None:
        """Count what a batch has as lost."""
        for table, count in batch.counts().items():
            self.lost[table] += count

    def sweep(self, now_s: float) -> float:
        """Cut what is open for too long, let go of idle series; return the age of the oldest unsealed row, seconds."""
        self.result_seals += overdue(iter(self.targets.values()), now_s, _SWEEP)
        self.sample_seals += overdue(iter(self._series()), now_s, _SWEEP)
        opened = [now_s - tail.opened_s for tail in self.targets.values() if len(tail.rows)]
        opened += [now_s - tail.opened_s for tail in self._series() if len(tail.rows)]
        self._new.trim = self._trim()
        self._forget(now_s)
        return max(opened, default=0.0)

    def _trim(self) -> tuple[int, int]:
        results = (tail.oldest_seq() for tail in self.targets.values())
        samples = (tail.oldest_seq() for tail in self._series())
        return (
            min((seq for seq in results if seq is not None), default=self._last.result_seq + 1),
            min((seq for seq in samples if seq is not None), default=self._last.sample_seq + 1),
        )

    def _forget(self, now_s: float) -> None:
        """Ask the writer to remove some idle series, if they have no history left."""
        idle = [
            tail.owner_id
            for tail in self._series()
            if now_s - tail.touched_s > _IDLE_S and not len(tail.rows) and not tail.sealing
        ]
        # A different part each time, so that those with history do not stand before the others.
        if idle:
            self._sweep_at %= len(idle)
            self._new.forget += idle[self._sweep_at : self._sweep_at + _SWEEP]
            self._sweep_at += _SWEEP

    def forgotten(self, gone: set[int]) -> None:
        """Let go of series that the writer removed; one that came back in the meantime is written again."""
        for host, tails in self.hosts.items():
            for name in [name for name, tail in tails.items() if tail.owner_id in gone]:
                tail = tails[name]
                if len(tail.rows) or tail.sealing:
                    self._new.series.append((tail.owner_id, clean(host, _NAME), name))
                else:
                    del tails[name]
                    self.series_count -= 1

    def _turn_results(self) -> None:
        if len(self._results):
            self._new.results.append((self._last.result_seq - len(self._results) + 1, self._results))
            self._results = ResultJournal()

    def _turn_samples(self) -> None:
        if len(self._samples):
            self._new.samples.append((self._last.sample_seq - len(self._samples) + 1, self._samples))
            self._samples = SampleJournal()

    def next_alive(self) -> int:
        self._last.alive_id += 1
        return self._last.alive_id


def announce(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
