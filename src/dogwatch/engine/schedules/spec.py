"""The `schedules` section: which job starts when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dogwatch.core.units import Seconds
from dogwatch.engine.values import Json


class Blackout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A window in which no fire starts: `cron` with `duration`, or `from` and `to`.

    cron: when it begins. duration: how long it lasts then. to: its end, written alike; the fire at the end itself
    starts. time_zone: of all these; "" for the schedule's own. note: why.
    """

    cron: str = ""
    duration: Seconds | None = None
    from_: Annotated[
        str, Meta(description="A time of day (`22:00`), or a date and time for a window that comes once.")
    ] = msgspec.field(default="", name="from")
    to: str = ""
    time_zone: str = ""
    note: str = ""


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Starts a job again and again. When: exactly one of `cron`, `every`, or `at` and `calendar`.

    name: by which it is known; what follows from it (`~`, jitter) changes with it. doc: what it is for. job: the job's
    name. parameters: what its runs are given. cron: five fields, or six with the second first; `@daily` and its like;
    `~` in a field is a value that follows from the schedule's name. every: an interval that no clock change stretches.
    anchor: a moment that the intervals go through; default: the start, else midnight UTC. at: times of day (`06:30`),
    or single moments (`2026-12-24T18:00`). calendar: dates (`2026-12-24`, or `12-24` for every year) on which it fires
    at the times of `at`, else at midnight. time_zone: what all times are in. start, end: nothing fires before and
    after. jitter: each fire starts up to this much later; how much follows from name and fire time. blackout: windows
    in which no fire starts. blackout_policy: skip: such fires are left out; defer: one starts when the window ends.
    misfire: what becomes of fires that nobody was there to start: none of them, the latest, or all. misfire_after: how
    late a fire is started before it counts as missed. misfire_limit: at most so many are made up for. paused: it does
    not fire. priority: of its runs; higher goes first. labels: of the schedule, and added to its runs' own.
    """

    name: str
    job: str
    doc: str = ""
    parameters: Mapping[str, Json] = {}
    cron: str = ""
    every: Seconds | None = None
    anchor: str = ""
    at: list[str] = []
    calendar: list[str] = []
    time_zone: str = "UTC"
    start: str = ""
    end: str = ""
    jitter: Seconds = 0.0
    blackout: list[Blackout] = []
    blackout_policy: Literal["skip", "defer"] = "skip"
    misfire: Literal["skip", "latest", "all"] = "latest"
    misfire_after: Seconds = 30.0
    misfire_limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    paused: bool = False
    priority: int | None = None
    labels: Mapping[str, str] = {}


# What decides when it fires: a change of any of these begins anew, without misfires for the time before.
_TIMING = (
    *("name", "cron", "every", "anchor", "at", "calendar", "time_zone", "start", "end"),
    *("jitter", "blackout", "blackout_policy", "paused"),
)


def timing_digest(spec: ScheduleSpec) -> str:
    """Return the identity of when a schedule fires."""
    import hashlib

    content = msgspec.json.encode([getattr(spec, name) for name in _TIMING], order="deterministic")
    return hashlib.sha256(content).hexdigest()[:16]


def describe(spec: ScheduleSpec) -> str:
    """Return when it fires, for a person: `*/5 * * * *`, `every 15m`, `at 06:30`."""
    from dogwatch.core.units import format_duration

    if spec.cron:
        when = spec.cron
    elif spec.every is not None:
        when = f"every {format_duration(spec.every)}"
    else:
        dates = f"{', '.join(spec.calendar)} " if spec.calendar else ""
        when = f"{dates}at {', '.join(spec.at) or '00:00'}"
    return when if spec.every is not None or spec.time_zone == "UTC" else f"{when} ({spec.time_zone})"
