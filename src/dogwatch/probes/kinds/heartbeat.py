"""The `heartbeat` kind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta

from dogwatch.core.units import Seconds, format_duration
from dogwatch.probes.heartbeats import HeartbeatLedger, HeartbeatRecord, HeartbeatSpec, Verdict, next_fire, slug
from dogwatch.probes.probe import Attempt, Cancel, Done, Evidence, Probe, ProbeResult

_ID = r"^[A-Za-z0-9._~-]{1,100}$"


class HeartbeatProbe(Probe, frozen=True, kw_only=True):
    """Waits to be called: a job calls `/ping/<id>` when it is done, and is down when it does not.

    `/ping/<id>` is a success, `/start` and `/fail` after it say so, a number after it is an exit status, `/log` only
    keeps what is sent along. A failure counts at once, until the next success. While a job runs (after `/start`) it is
    not late. Until the first call it is pending.

    period: time between calls; default 1d. cron: expected times instead of period, five fields. timezone: that `cron`
    speaks of; default UTC. grace: how late a call may be; default 1h. max_runtime: how long after `/start` the end must
    come; default: the grace. id: what stands in the URL: whoever knows it can call, so make it long and random;
    default: the target's name in a form fit for URLs.
    """

    kind: ClassVar[str] = "heartbeat"
    short: ClassVar[str] = "period"
    variables: ClassVar[dict[str, str]] = {
        "new": "bool",
        "state": "string",
        "late": "bool",
        "running": "bool",
        "signal": "string",
        "age_s": "double",
        "due_in_s": "double",
        "last_duration_s": "double",
        "exit_status": "int",
        "body": "string",
        "pings": "int",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "new": "whether it never called",
        "state": "new, up, running, late or down",
        "late": "whether a call is due and has not come",
        "running": "whether a run has begun and not ended",
        "signal": "newest call: success, start, fail, exit or log",
        "age_s": "time since the newest call",
        "due_in_s": "time until the next call is due; negative when it is late",
        "last_duration_s": "how long the newest whole run took",
        "exit_status": "exit status of the newest run",
        "body": "what the newest call with a body sent",
        "pings": "how many calls there were",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        "late": ("probe_heartbeat_late", "Whether a call is due and has not come"),
        "running": ("probe_heartbeat_running", "Whether a run was started and has not ended"),
        "age_s": ("probe_heartbeat_age_seconds", "Time since the newest call"),
        "due_in_s": ("probe_heartbeat_due_seconds", "Time until the next call is due; negative when it is late"),
        "last_duration_s": ("probe_heartbeat_last_run_seconds", "Duration of the newest run from its start to its end"),
    }

    period: Annotated[float, Meta(ge=1, extra={"unit": "duration"})] = 86400.0
    cron: str = ""
    timezone: str = "UTC"
    grace: Seconds = 3600.0
    max_runtime: Seconds | None = None
    id: Annotated[str, Meta(pattern=_ID)] | None = None

    def ping_id(self, target: str) -> str:
        """Return what stands in the URL of a target of this kind."""
        return self.id or slug(target)

    def spec(self) -> HeartbeatSpec:
        return HeartbeatSpec(
            period_s=self.period,
            cron=self.cron,
            timezone=self.timezone,
            grace_s=self.grace,
            max_runtime_s=self.grace if self.max_runtime is None else self.max_runtime,
        )

    def address(self) -> str:
        # Never the id: it is what a caller must know.
        grace = f"grace {format_duration(self.grace)}"
        return f"cron {self.cron}, {grace}" if self.cron else f"every {format_duration(self.period)}, {grace}"

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return [(("timezone",), f"there is no time zone '{self.timezone}'", "such as Europe/Berlin")]
        if self.cron:
            try:
                next_fire(self.cron, self.timezone, 1_800_000_000)
            except ValueError as error:
                return [(("cron",), f"'{self.cron}' is not a cron expression: {error}", "such as 30 3 * * *")]
        return []

    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        # What there is to know is in memory; later, so that `done` is never called from within `launch`.
        return asyncio.get_running_loop().call_soon(lambda: done(self.result(attempt))).cancel

    def result(self, attempt: Attempt) -> ProbeResult:
        """Return what the ledger (`env.extra["heartbeat"]`) knows now."""
        ledger: HeartbeatLedger | None = attempt.env.extra.get("heartbeat")
        if ledger is None:
            return ProbeResult(success=False, duration_s=0.0, reason="local", message="nobody takes heartbeat calls")
        record = ledger.record(attempt.target)
        verdict = ledger.verdict(attempt.target, self.spec())
        return ProbeResult(
            success=not verdict.reason,
            duration_s=record.duration_s or 0.0,
            reason=verdict.reason,
            message=verdict.message,
            values=_values(record, verdict, ledger.clock.monotonic_s()),
            evidence=lambda: Evidence(body=record.body),
        )


def _values(record: HeartbeatRecord, verdict: Verdict, monotonic_s: float) -> dict[str, Any]:
    values: dict[str, Any] = {
        "new": verdict.state == "new",
        "state": verdict.state,
        "late": verdict.due_in_s is not None and verdict.due_in_s < 0,
        "running": record.started_at is not None,
        "signal": record.signal,
        "body": record.body,
        "pings": record.pings,
    }
    if record.heard_at is not None:
        values["age_s"] = monotonic_s - record.heard_at
    optional = {
        "due_in_s": verdict.due_in_s,
        "last_duration_s": record.duration_s,
        "exit_status": record.exit_status,
    }
    return values | {name: value for name, value in optional.items() if value is not None}
