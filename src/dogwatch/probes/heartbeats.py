"""Heartbeats: who called when, and what that means now. The judgement is pure; the ledger holds what was heard.

Ages are counted on the monotonic clock, so that a clock set forwards makes nobody late and one set back hides nobody;
only a cron schedule looks at the wall clock, because that is what it speaks of.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from dogwatch.core.clock import Clock
from dogwatch.core.units import format_duration
from dogwatch.store.protocol import Ping

SIGNALS = ("success", "start", "fail", "exit", "log")
MAX_BODY_BYTES = 10_000
# As Healthchecks: a start so long ago does not belong to this end.
MAX_RUN_S = 72 * 3600.0
# Starts without an end that are kept for a target; of more, the oldest are forgotten.
MAX_RUNS = 20


class HeartbeatSpec(msgspec.Struct, frozen=True, kw_only=True):
    """When calls are expected. cron: "" for every period_s. grace_s: how late is still well."""

    period_s: float = 86400.0
    cron: str = ""
    timezone: str = "UTC"
    grace_s: float = 3600.0
    max_runtime_s: float = 3600.0


class HeartbeatRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard of one target. *_at: seconds on the monotonic clock, None for never.

    good_at: newest success. bad_at: newest failure, if nothing good came since. started_at: since when it runs.
    runs: start of each run that has not ended, by its rid ("" for those without), oldest first. duration_s: of the
    newest whole run. body: of the newest call that had one.
    """

    good_at: float | None = None
    bad_at: float | None = None
    started_at: float | None = None
    runs: Mapping[str, float] = {}
    heard_at: float | None = None
    exit_status: int | None = None
    duration_s: float | None = None
    signal: str = ""
    body: str = ""
    pings: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a record means now. state: new, up, running, late (within the grace) or down.

    reason and message: "" unless it is new or down. due_in_s: until the next call is due, negative when it is late,
    None where nothing is awaited yet.
    """

    state: str
    reason: str = ""
    message: str = ""
    due_in_s: float | None = None


def taken(record: HeartbeatRecord, ping: Ping, at: float) -> HeartbeatRecord:
    """Return the record after a call that came at a monotonic time."""
    changes: dict[str, object] = {"heard_at": at, "signal": ping.signal, "pings": record.pings + 1}
    if ping.body:
        changes["body"] = ping.body
    if ping.signal == "start":
        runs = {rid: since for rid, since in record.runs.items() if rid != ping.rid} | {ping.rid: at}
        changes |= {
            "runs": dict(list(runs.items())[-MAX_RUNS:]),
            "started_at": at if record.started_at is None else record.started_at,
        }
    elif ping.signal != "log":
        good = ping.signal == "success" or (ping.signal == "exit" and not ping.exit_status)
        left, started_at = _left(record, ping.rid, good=good)
        changes |= {
            "good_at": at if good else record.good_at,
            "bad_at": None if good else at,
            "started_at": started_at,
            "runs": left,
            "exit_status": ping.exit_status,
            "duration_s": run_duration(record, at, ping.rid),
        }
    return msgspec.structs.replace(record, **changes)


def _left(record: HeartbeatRecord, rid: str, *, good: bool) -> tuple[dict[str, float], float | None]:
    """Return the starts that still wait for their end after one run has ended, and since when it runs now.

    A failure, and an end that names no run, end all of them, as in Healthchecks. A run that one which began later has
    overtaken is taken for broken off: otherwise a start without an end would be held against the job for ever.
    """
    if not good or not rid:
        return {}, None
    left = {other: since for other, since in record.runs.items() if other != rid}
    if record.started_at is None:
        return left, None
    began_at = record.runs.get(rid, float("-inf"))
    return left, min(
        (since for since in left.values() if since >= record.started_at and since > began_at), default=None
    )


def run_duration(record: HeartbeatRecord, at: float, rid: str = "") -> float | None:
    """Return how long the run that ends now took, None where its start is not known."""
    began_at = record.runs.get(rid)
    if began_at is None or not 0 <= at - began_at <= MAX_RUN_S:
        return None
    return at - began_at


def judge(spec: HeartbeatSpec, record: HeartbeatRecord, *, now_s: float, monotonic_s: float) -> Verdict:
    """Return what a record means now."""
    if record.started_at is not None:
        running_s = monotonic_s - record.started_at
        if running_s > spec.max_runtime_s:
            allowed = format_duration(spec.max_runtime_s)
            message = f"started {format_duration(running_s)} ago and has not finished, allowed {allowed}"
            return Verdict(state="down", reason="late", message=message)
    if record.bad_at is not None:
        status = record.exit_status
        message = "reported a failure" if status is None else f"reported exit status {status}"
        return Verdict(state="down", reason="exit", message=f"{message} {_ago(monotonic_s - record.bad_at)}")
    if record.good_at is None:
        return Verdict(state="new", reason="missing", message="has not called yet")
    due_in_s = _due_in(spec, monotonic_s - record.good_at, now_s)
    if record.started_at is not None:
        return Verdict(state="running", due_in_s=due_in_s)
    if due_in_s >= 0:
        return Verdict(state="up", due_in_s=due_in_s)
    if -due_in_s <= spec.grace_s:
        return Verdict(state="late", due_in_s=due_in_s)
    overdue = f"should have called {_ago(-due_in_s)}, grace {format_duration(spec.grace_s)}"
    last = f"last heard of {_ago(monotonic_s - record.good_at)}"
    return Verdict(state="down", reason="late", message=f"{overdue}; {last}", due_in_s=due_in_s)


def _ago(seconds: float) -> str:
    return f"{format_duration(max(seconds, 0))} ago"


def _due_in(spec: HeartbeatSpec, age_s: float, now_s: float) -> float:
    if not spec.cron:
        return spec.period_s - age_s
    # The second it came in, so that a job that calls at 03:00:00.2 is not asked for again at 03:00:00.
    return next_fire(spec.cron, spec.timezone, int(now_s - age_s)) - now_s


@lru_cache(maxsize=4096)
def next_fire(cron: str, timezone: str, after_s: int) -> float:
    """Return the next time that a cron expression fires, seconds since 1970 UTC.

    Around a change to summer time it does as Debian's cron: a time that the clock skips fires right after the gap, one
    that comes twice fires once; expressions with `*` in hour or minute just go by the clock.
    Raises: ValueError for a bad expression, or one that never fires.
    """
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(cron, datetime.fromtimestamp(after_s, ZoneInfo(timezone)))).timestamp()
    except CronSimError as error:
        raise ValueError(str(error) or "not a cron expression") from error
    except StopIteration as error:
        raise ValueError("it never fires") from error


def slug(name: str) -> str:
    """Return a target's name as it stands in a URL: `Nightly backup (db-1)` → `nightly-backup-db-1`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.]+", "-", plain).strip("-") or "heartbeat"


class HeartbeatLedger:
    """What was heard of every target, in memory; the store keeps the calls themselves. Owned by the event loop."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._records: dict[str, HeartbeatRecord] = {}
        self._ids: dict[str, str] = {}

    def configure(self, ids: Mapping[str, str]) -> None:
        """Take over the targets of a configuration: name → ping id. What was heard of those that stay is kept.

        Raises: ValueError if two have the same id; then nothing has changed.
        """
        by_id: dict[str, str] = {}
        for target, ping_id in ids.items():
            other = by_id.setdefault(ping_id, target)
            if other != target:
                raise ValueError(f"heartbeats '{other}' and '{target}' have the same ping id")
        self._ids = by_id
        self._records = {target: self._records.get(target, HeartbeatRecord()) for target in ids}

    def find(self, name: str) -> str | None:
        """Return the target behind a ping id or a target's name, None if there is none.

        A target whose id was chosen answers to nothing else: its name may be known to everybody.
        """
        target = self._ids.get(name)
        if target is None and self._ids.get(slug(name)) == name:
            target = name
        return target

    def record(self, target: str) -> HeartbeatRecord:
        return self._records.get(target) or HeartbeatRecord()

    def ping(
        self,
        target: str,
        *,
        signal: str,
        exit_status: int | None = None,
        body: str = "",
        remote: str = "",
        rid: str = "",
    ) -> Ping:
        """Return a call as the store keeps it, bounded; it counts once it was given to `apply`.

        Raises: ValueError for an unknown signal.
        """
        if signal not in SIGNALS:
            raise ValueError(f"'{signal}' is not a heartbeat signal")
        ends = signal in ("success", "fail", "exit")
        return Ping(
            target=target,
            time_s=self.clock.now_s(),
            signal=signal,
            exit_status=exit_status if signal == "exit" else None,
            body=body.encode("utf-8", "replace")[:MAX_BODY_BYTES].decode("utf-8", "ignore"),
            duration_s=run_duration(self.record(target), self.clock.monotonic_s(), rid) if ends else None,
            remote=remote[:100],
            rid=rid[:64],
        )

    def apply(self, ping: Ping) -> None:
        """Let a call that is on disk count, as of now."""
        if ping.target in self._records:
            self._records[ping.target] = taken(self._records[ping.target], ping, self.clock.monotonic_s())

    def restore(self, target: str, pings: Iterable[Ping]) -> None:
        """Rebuild a target's record from stored calls, newest first. A call from the future counts as from now."""
        now_s, monotonic_s = self.clock.now_s(), self.clock.monotonic_s()
        record = HeartbeatRecord()
        # A stable sort from the oldest on: of two calls in the same instant the order is the store's.
        oldest_first = list(pings)[::-1]
        oldest_first.sort(key=lambda ping: ping.time_s)
        for ping in oldest_first:
            record = taken(record, ping, monotonic_s - max(now_s - ping.time_s, 0.0))
            if ping.duration_s is not None:
                record = msgspec.structs.replace(record, duration_s=ping.duration_s)
        if record.pings:
            self._records[target] = record

    def verdict(self, target: str, spec: HeartbeatSpec) -> Verdict:
        return judge(spec, self.record(target), now_s=self.clock.now_s(), monotonic_s=self.clock.monotonic_s())
