"""The running program as one person may see and change it: what may not be seen is not there.

Handlers are given these services instead of the program's own, so that none can forget. Every change goes between two
audit events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import msgspec

from dogwatch.access.actor import Subject
from dogwatch.access.identity import Identity
from dogwatch.access.permissions import Filter, Permission, everything
from dogwatch.access.service import Access
from dogwatch.app import Services
from dogwatch.config.status import ReloadControl, ReloadPlan, ReloadRecord
from dogwatch.core.component import nearest
from dogwatch.core.metrics import Family
from dogwatch.core.values import Event, Transition
from dogwatch.errors import NotAllowed, NotFound
from dogwatch.hosts.view import HostsView, HostView
from dogwatch.probes.probe import ProbeResult
from dogwatch.probes.view import TargetView, WatchView
from dogwatch.rules.incident import Note
from dogwatch.store.protocol import Store, TransitionFilter, TransitionPage
from dogwatch.web.seen_logs import SeenLogs
from dogwatch.web.seen_runs import SeenRuns, seen_plan, sees_all_runs

_INCIDENTS_KNOWN = 10_000
_RUNS = Permission("run", "read")
_SEEN = tuple((noun, "read") for noun in ("probe", "host", "log", "program"))


def host_labels(name: str) -> Mapping[str, str]:
    """Return the labels of a host: its name is one, so that a role can be limited to some."""
    return {"host": name}


class SeenWatch:
    """See WatchView."""

    def __init__(self, inner: WatchView, identity: Identity, access: Access) -> None:
        self._inner = inner
        self._identity = identity
        self._access = access
        self._sees = identity.rights.filter("probe")
        self.sees_all = self._sees is everything

    def targets(self) -> Sequence[TargetView]:
        views = self._inner.targets()
        if self._sees is everything:
            return views
        seen = [view for view in views if self._sees(view.labels)]
        names = {view.name for view in seen}
        return [_without_others(view, names) for view in seen]

    def target(self, name: str) -> TargetView:
        if self._sees is everything:
            return self._inner.target(name)
        try:
            view = self._inner.target(name)
        except NotFound:
            view = None
        if view is None or not self._sees(view.labels):
            # The nearest name must not be one that is not seen.
            raise NotFound(f"there is no target '{name}'", hint=nearest(name, [one.name for one in self.targets()]))
        return _without_others(view, {one for one in view.depends_on if self._is_seen(one)})

    def _is_seen(self, name: str) -> bool:
        try:
            return self._sees(self._inner.target(name).labels)
        except NotFound:
            return False

    async def _allowed(self, name: str, verb: str) -> Subject:
        view = self.target(name)
        subject = Subject(noun="probe", name=view.name, labels=view.labels)
        if not self._identity.rights.filter("probe", verb)(view.labels):
            await self._access.note_refusal(self._identity.actor, verb, subject, f"needs probe:{verb}")
            raise NotAllowed(f"you may not do that to {view.name}", hint=f"it needs the permission probe:{verb}")
        return subject

    async def pause(self, name: str) -> TargetView:
        subject = await self._allowed(name, "change")
        work = lambda: self._inner.pause(name)  # noqa: E731
        return await self._access.carry_out(self._identity.actor, "pause", subject, work)

    async def resume(self, name: str) -> TargetView:
        subject = await self._allowed(name, "change")
        work = lambda: self._inner.resume(name)  # noqa: E731
        return await self._access.carry_out(self._identity.actor, "resume", subject, work)

    async def run_now(self, name: str) -> ProbeResult:
        subject = await self._allowed(name, "run")
        work = lambda: self._inner.run_now(name)  # noqa: E731
        return await self._access.carry_out(self._identity.actor, "run", subject, work)

    async def run_ad_hoc(
        self, kind: str, options: Mapping[str, Any], *, timeout_s: float
    ) -> tuple[ProbeResult, list[Family]]:
        return await self._inner.run_ad_hoc(kind, options, timeout_s=timeout_s)

    async def ping(
        self, name: str, *, signal: str, exit_status: int | None, body: str, remote: str, rid: str = ""
    ) -> None:
        await self._inner.ping(name, signal=signal, exit_status=exit_status, body=body, remote=remote, rid=rid)

    def metrics(self) -> Iterable[Family]:
        return self._inner.metrics()


def _without_others(view: TargetView, names: Set[str]) -> TargetView:
    """Return a view that names no dependency that is not seen."""
    if all(name in names for name in view.depends_on):
        return view
    return msgspec.structs.replace(view, depends_on=[name for name in view.depends_on if name in names])


class SeenHosts:
    """See HostsView."""

    def __init__(self, inner: HostsView, sees: Filter) -> None:
        self._inner = inner
        self._sees = sees

    def hosts(self) -> Sequence[HostView]:
        return [host for host in self._inner.hosts() if self._sees(host_labels(host.name))]

    def host(self, name: str) -> HostView:
        if not self._sees(host_labels(name)):
            raise NotFound(f"no host '{name}'")
        return self._inner.host(name)

    def metrics(self) -> Iterable[Family]:
        return self._inner.metrics()


class SeenStore:
    """The store, of whose calls all but one name a target, which the watch has been asked for before."""

    def __init__(self, inner: Store, watch: WatchView) -> None:
        self._inner = inner
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def transitions(
        self, target: str | None = None, *, since_s: float = 0.0, limit: int = 100
    ) -> Sequence[Transition]:
        if target is not None:
            return await self._inner.transitions(target, since_s=since_s, limit=limit)
        return (await self.find_transitions(TransitionFilter(since_s=since_s), limit=limit)).items

    async def find_transitions(
        self, wanted: TransitionFilter, *, limit: int, before: int | None = None
    ) -> TransitionPage:
        seen = {view.name for view in self._watch.targets()}
        among = seen if wanted.targets is None else seen.intersection(wanted.targets)
        wanted = msgspec.structs.replace(wanted, targets=sorted(among))
        return await self._inner.find_transitions(wanted, limit=limit, before=before)


class SeenReload:
    """Reloads: told to whoever may see the program, and audited."""

    def __init__(self, inner: ReloadControl, identity: Identity, access: Access) -> None:
        self._inner = inner
        self._identity = identity
        self._access = access
        self._sees = identity.rights.filter("program") is everything

    def history(self) -> Sequence[ReloadRecord]:
        return self._inner.history() if self._sees else ()

    async def plan(self) -> ReloadPlan:
        return await self._inner.plan()

    async def reload(self, trigger: str) -> ReloadRecord:
        return await self._access.carry_out(
            self._identity.actor,
            "reload",
            Subject(noun="program", name="configuration"),
            lambda: self._inner.reload(trigger),
            failed=lambda one: "; ".join(one.problems)[:1000] if one.outcome == "failed" else "",
        )


def seen_services(services: Services, shared: WatchView, identity: Identity, access: Access) -> Services:
    """Return the program as this one sees it. shared: the watch that all requests share.

    This is done for every request, so that what is seen whole costs little.
    """
    rights = identity.rights
    watch = SeenWatch(shared, identity, access)
    changes: dict[str, Any] = {"watch": watch, "reload": SeenReload(services.reload, identity, access)}
    if not rights.whole(_SEEN):
        changes |= _seen_parts(services, shared, watch, identity)
    if not sees_all_runs(identity):
        runs = SeenRuns(services.runs, identity, access)
        changes["runs"], changes["plan"] = runs, seen_plan(services.plan, runs)
    return msgspec.structs.replace(services, **changes)


def _seen_parts(services: Services, shared: WatchView, watch: SeenWatch, identity: Identity) -> dict[str, Any]:
    rights = identity.rights
    changes: dict[str, Any] = {}
    if rights.filter("host") is not everything:
        changes["hosts"] = SeenHosts(services.hosts, rights.filter("host"))
    if rights.filter("probe") is not everything:
        changes["store"] = SeenStore(services.store, watch)
    if services.logs is not None and rights.filter("log") is not everything:
        changes["logs"] = SeenLogs(services.logs, rights.filter("log"))
    if rights.filter("program") is not everything:
        changes["findings"] = tuple
    if rights.restricted("probe", "host", "program"):
        whole = msgspec.structs.replace(services, watch=shared)
        changes["metrics"] = lambda: _seen_metrics(whole, identity)
    return changes


def _seen_metrics(services: Services, identity: Identity) -> Iterable[Family]:
    """Yield the families with the series that may be seen: of a target by its labels, the others by whole."""
    rights = identity.rights
    sees = rights.filter("probe")
    seen = {f'target="{_escaped(view.name)}"' for view in services.watch.targets() if sees(view.labels)}
    hosts = {family.name for family in services.hosts.metrics()} if rights.filter("host") is not everything else set()
    for family in services.metrics():
        if family.name in hosts:
            continue
        # What counts over all targets tells of those that are not seen.
        whole = rights.filter("program") is everything and sees is everything
        series = [
            (text, value)
            for text, value in family.series
            if (_target_of(text) in seen if 'target="' in text else whole or family.name in _HARMLESS)
        ]
        if series:
            yield Family(family.name, family.kind, family.help, series)


_HARMLESS = frozenset({"dogwatch_build_info"})


def _target_of(text: str) -> str:
    """Return `target="…"` of a series as it is written there."""
    start = text.index('target="')
    end = start + len('target="')
    while text[end] != '"':
        end += 2 if text[end] == "\\" else 1
    return text[start : end + 1]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def event_filter(services: Services, identity: Identity) -> Any:
    """Return what tells whether a live event may be seen, or None where all may."""
    rights = identity.rights
    if not rights.restricted("probe", "host", "program", "incident"):
        return None
    incidents = _incident_filter(services, rights.filter("incident"))
    probes, hosts, program = rights.filter("probe"), rights.filter("host"), rights.filter("program")

    def sees(event: Event) -> bool:
        if event.topic in ("result", "transition", "target"):
            name = _of(event.data, "target") or _of(event.data, "name")
            try:
                return probes(services.watch.target(name).labels)
            except NotFound:
                return False
        if event.topic == "run":
            return rights.may(_RUNS)  # says only that something has changed
        if event.topic == "incident":
            return incidents(event.data)
        if event.topic == "sample":
            return hosts(host_labels(_of(event.data, "host")))
        return program is everything

    return sees


def _incident_filter(services: Services, sees: Filter) -> Callable[[object], bool]:
    """Return what tells whether an entry of a timeline may be told. An incident that is over is known no more: what
    was found while it was open counts.
    """
    known: OrderedDict[int, bool] = OrderedDict()

    def told(data: object) -> bool:
        if sees is everything or services.incidents is None or not isinstance(data, Note):
            return sees is everything
        incident = services.incidents.state.incidents.get(data.number)
        if incident is not None:
            known[data.number] = sees(incident.labels)
            while len(known) > _INCIDENTS_KNOWN:
                known.popitem(last=False)
        return known.get(data.number, False)

    return told


def _of(data: object, field: str) -> str:
    value = data.get(field) if isinstance(data, Mapping) else getattr(data, field, None)
    return str(value or "")
