"""The inspection: what was checked, what changed, and what needs a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

import msgspec

from dogwatch.config.status import ReloadRecord
from dogwatch.core.clock import Clock
from dogwatch.engine.port import Runs
from dogwatch.engine.values import Run, RunFilter, RunState
from dogwatch.notify.message import Severity
from dogwatch.notify.view import DestinationView, Outbox
from dogwatch.rules.incident import Incident
from dogwatch.rules.part import Incidents
from dogwatch.rules.planned.part import Planned
from dogwatch.rules.reasons import reason_of
from dogwatch.store.protocol import Availability, Store
from dogwatch.words import SOURCE, Phrase, Words, lasting, words

_CERTIFICATE_DAYS = 21.0
_FULL_RATIO = 0.9
_SHOWN = 20
_READ = 500
_PAUSED_LONG_S = 7 * 86_400.0
_PLACE = re.compile(r"\{(\d+)\}")
_RANK = {"critical": 0, "error": 1, "warning": 2, "info": 3}


class Target(Protocol):
    """A target as views show it."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def since_s(self) -> float: ...
    @property
    def last_message(self) -> str: ...
    @property
    def last_reason(self) -> str: ...
    @property
    def values(self) -> Mapping[str, object]: ...


class Filesystem(Protocol):
    @property
    def mountpoint(self) -> str: ...
    @property
    def used_ratio(self) -> float: ...
    @property
    def error(self) -> str: ...


class Collector(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def message(self) -> str: ...


class Host(Protocol):
    """A host as views show it."""

    @property
    def name(self) -> str: ...
    @property
    def filesystems(self) -> Sequence[Filesystem]: ...
    @property
    def collectors(self) -> Sequence[Collector]: ...


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """What an inspection looks at: the whole program, or what one person may see of it; None for what may not be.

    available: of targets over a time. changes: verb and noun of what was changed since a time, from the audit trail.
    """

    clock: Clock
    store: Store
    targets: Callable[[], Sequence[Target]]
    hosts: Callable[[], Sequence[Host]]
    available: Callable[[Sequence[str], float, float], Awaitable[Sequence[Availability]]]
    incidents: Incidents | None = None
    sees_incident: Callable[[Mapping[str, str]], bool] = lambda _labels: True
    windows: Callable[[], Sequence[Planned]] = tuple
    runs: Runs | None = None
    outbox: Outbox | None = None
    reloads: Callable[[], Sequence[ReloadRecord]] = tuple
    findings: Callable[[], Sequence[Mapping[str, object]]] = tuple
    changes: Callable[[float], Awaitable[Sequence[tuple[str, str]]]] | None = None


class Said(msgspec.Struct, frozen=True):
    """One line: a text with placeholders, and its values; where it leads; how bad it is."""

    text: str
    values: tuple[str, ...] = ()
    path: str = ""
    severity: Severity = "info"

    def __str__(self) -> str:
        return _PLACE.sub(lambda place: self.values[int(place[1])], self.text)


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A report over [since_s, until_s]. person: what somebody should see to, the worst first."""

    since_s: float
    until_s: float
    checked: Sequence[Said]
    changed: Sequence[Said]
    person: Sequence[Said]

    @property
    def severity(self) -> Severity:
        return min((one.severity for one in self.person), key=_RANK.__getitem__, default="info")


async def inspect(sources: Sources, *, since_s: float) -> Inspection:
    """Look at everything once, and return what there is to say."""
    until_s = sources.clock.now_s()
    targets, hosts = sources.targets(), sources.hosts()
    incidents = await _incidents(sources, since_s)
    runs = await _runs(sources, since_s)
    found = await sources.available([one.name for one in targets], since_s, until_s) if targets else ()
    destinations = await sources.outbox.destinations() if sources.outbox is not None else ()
    person = [
        *_of_incidents(incidents),
        *_of_targets(targets, until_s, {one.root for one in incidents if one.ended_s is None}),
        *_of_hosts(hosts),
        *_of_runs(runs),
        *_of_messages(destinations),
        *_of_program(sources),
    ]
    return Inspection(
        since_s=since_s,
        until_s=until_s,
        checked=list(_checked(targets, hosts, found)),
        changed=[*_changes(incidents, runs, sources, since_s), *await _audited(sources, since_s)],
        person=sorted(person, key=lambda one: _RANK[one.severity]),
    )


async def _incidents(sources: Sources, since_s: float) -> list[Incident]:
    """Return what was open at some time since then, as far as it is seen."""
    if sources.incidents is None:
        return []
    page = await sources.incidents.find(limit=_READ)
    return [
        one
        for one in page.items
        if sources.sees_incident(one.labels) and (one.ended_s is None or one.ended_s >= since_s) and not one.into
    ]


async def _runs(sources: Sources, since_s: float) -> list[Run]:
    if sources.runs is None:
        return []
    recent = await sources.runs.find(RunFilter(since_s=since_s, limit=_READ))
    waiting = await sources.runs.find(
        RunFilter(states=(RunState.RUNNING, RunState.PAUSED, RunState.QUEUED), limit=_READ)
    )
    known = {run.run_id: run for run in (*waiting.items, *recent.items)}
    return list(known.values())


def _checked(targets: Sequence[Target], hosts: Sequence[Host], found: Sequence[Availability]) -> Iterator[Said]:
    counts = Counter(one.status for one in targets)
    yield Said("targets: {0}, in groups: {1}", (str(len(targets)), str(len({one.group for one in targets}))), "/")
    yield Said(
        "now: {0} up, {1} degraded, {2} down",
        (str(counts["up"]), str(counts["degraded"]), str(counts["down"])),
        "/",
    )
    good = sum(one.up_s + one.degraded_s for one in found)
    judged = good + sum(one.down_s for one in found)
    if judged > 0:
        yield Said("availability {0} %", (f"{int(good / judged * 1e5) / 1e3:.3f}",), "/reports/availability")
    if hosts:
        yield Said("hosts: {0}", (str(len(hosts)),), "/#hosts-title")


def _of_incidents(incidents: Sequence[Incident]) -> Iterator[Said]:
    for one in incidents:
        if one.ended_s is not None:
            continue
        path = f"/incidents/{one.number}"
        if one.acked_by:
            yield Said(
                "incident #{0} is open, {1} has it: {2}", (str(one.number), one.acked_by, one.summary), path, "warning"
            )
        else:
            yield Said("nobody has taken incident #{0}: {1}", (str(one.number), one.summary), path, one.severity)


def _of_targets(targets: Sequence[Target], now_s: float, told: Collection[str]) -> Iterator[Said]:
    """told: targets that an open incident is about."""
    for one in targets:
        path = f"/targets/{_segment(one.name)}"
        days = one.values.get("tls_days_left")
        if isinstance(days, int | float) and days < _CERTIFICATE_DAYS:
            severity: Severity = "error" if days < 7 else "warning"
            yield Said("the certificate of {0} ends in {1} days", (one.name, f"{days:.0f}"), path, severity)
        if one.status == "down" and one.name not in told:
            why = one.last_message or reason_of(one.last_reason)
            yield Said("{0} is down: {1}", (one.name, why), path, "error")
        if one.status == "paused" and now_s - one.since_s > _PAUSED_LONG_S:
            yield Said("{0} has been paused for {1}", (one.name, lasting(now_s - one.since_s)), path, "info")


def _of_hosts(hosts: Sequence[Host]) -> Iterator[Said]:
    for host in hosts:
        path = f"/hosts/{_segment(host.name)}"
        for disk in host.filesystems:
            if disk.error:
                yield Said("{0}: {1} does not answer: {2}", (host.name, disk.mountpoint, disk.error), path, "error")
            elif disk.used_ratio >= _FULL_RATIO:
                full = f"{disk.used_ratio * 100:.0f}"
                yield Said("{0}: {1} is {2} % full", (host.name, disk.mountpoint, full), path, "warning")
        for one in host.collectors:
            if not one.ok:
                yield Said("{0}: {1} is not measured: {2}", (host.name, Phrase(one.name), one.message), path, "warning")


def _of_runs(runs: Sequence[Run]) -> Iterator[Said]:
    for run in runs:
        path = f"/runs/{run.run_id}"
        if not run.state.ended and run.waiting_for.startswith("approval"):
            yield Said("{0} waits for {1}", (run.job, run.waiting_for), path, "warning")
        elif run.state == RunState.FAILED and not run.parent:
            yield Said("{0} failed: {1}", (run.job, run.reason), path, "warning")


def _of_messages(destinations: Sequence[DestinationView]) -> Iterator[Said]:
    for one in destinations:
        if one.dead:
            yield Said(
                "messages to {1} that were given up: {0}",
                (str(one.dead), one.name),
                f"/outbox?destination={one.name}",
                "error",
            )
        if one.trouble:
            yield Said("nothing goes to {0}: {1}", (one.name, one.trouble), "/outbox", "error")


def _of_program(sources: Sources) -> Iterator[Said]:
    for finding in sources.findings():
        yield Said("{0}", (str(finding.get("symptom") or finding.get("key") or ""),), "/settings", "warning")
    history = sources.reloads()
    if history and history[0].outcome == "failed":
        yield Said("the newest configuration has mistakes; the one before is in force", (), "/settings", "error")
    if sources.store.trouble:
        yield Said("history is not being kept: {0}", (sources.store.trouble,), "/", "critical")


def _changes(incidents: Sequence[Incident], runs: Sequence[Run], sources: Sources, since_s: float) -> Iterator[Said]:
    opened = [one for one in incidents if one.opened_s >= since_s]
    closed = [one for one in incidents if one.ended_s is not None]
    yield Said("incidents: {0} opened, {1} ended", (str(len(opened)), str(len(closed))), "/incidents?state=all")
    for one in closed[:_SHOWN]:
        lasted = lasting(max(0.0, (one.ended_s or 0.0) - one.began_s))
        yield Said("#{0} {1}, for {2}", (str(one.number), one.summary, lasted), f"/incidents/{one.number}")
    states = Counter(run.state for run in runs if run.created_s >= since_s)
    if sources.runs is not None:
        done, failed = states[RunState.SUCCEEDED], states[RunState.FAILED]
        yield Said("runs: {0} succeeded, {1} failed", (str(done), str(failed)), "/runs")
    applied = [
        one
        for one in sources.reloads()
        if one.time_s >= since_s and one.outcome == "applied" and one.trigger != "start"
    ]
    for reload in applied[:_SHOWN]:
        what = ", ".join(reload.changed[:10])
        yield Said("the configuration was changed ({0}): {1}", (Phrase(reload.trigger), what), "/settings")
    for window in sources.windows():
        if window.state != "over":
            yield Said("maintenance: {0}", (window.spec.name,), "/maintenance")


async def _audited(sources: Sources, since_s: float) -> list[Said]:
    if sources.changes is None:
        return []
    counts = Counter(await sources.changes(since_s))
    return [
        Said("{0} × {1} {2}", (str(number), Phrase(verb), Phrase(noun)), f"/audit?q=verb:{verb}+noun:{noun}")
        for (verb, noun), number in counts.most_common(_SHOWN)
    ]


def _segment(name: str) -> str:
    return quote(name, safe="", errors="replace")


def text_of(report: Inspection, base_url: str = "", language: str = SOURCE) -> str:
    """Return the report as plain text, for a message or a terminal."""
    out, spoken = [], words(language)
    for title, lines in (
        (Phrase("Needs a person"), report.person),
        (Phrase("Checked"), report.checked),
        (Phrase("Changed"), report.changed),
    ):
        out.append(spoken.say(title))
        lead = lines is report.person
        out += [_line_of(one, base_url, spoken, lead=lead) for one in lines] or [f"  {spoken.say('nothing')}"]
        out.append("")
    return "\n".join(out).rstrip() + "\n"


def _line_of(one: Said, base_url: str, spoken: Words, *, lead: bool) -> str:
    text = " ".join(spoken.say(one.text, *one.values).split())
    mark = f"[{spoken.word(one.severity)}] " if lead else ""
    link = f"  {base_url.rstrip('/')}{one.path}" if lead and base_url and one.path else ""
    return f"  {mark}{text}{link}"
