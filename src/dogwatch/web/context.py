"""What every handler is given: the program's services, the options, and what web itself keeps."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request
from litestar.di import NamedDependency
from litestar.params import PathParameter, SkipValidation

from dogwatch.access.actor import Actor
from dogwatch.access.identity import Identity, anonymous
from dogwatch.access.permissions import Permission, Rights, allows
from dogwatch.access.service import Access
from dogwatch.app import Services
from dogwatch.core.values import Event
from dogwatch.errors import NotAllowed
from dogwatch.probes.view import TargetView
from dogwatch.store.protocol import Availability, Point, SeriesPoints
from dogwatch.web.assets import Assets
from dogwatch.web.contributions import Place
from dogwatch.web.meter import Meter
from dogwatch.web.options import WebOptions
from dogwatch.web.sight import event_filter, seen_services
from dogwatch.web.snapshot import SnapshotWatch, Summary
from dogwatch.words import COOKIE, SOURCE, Words, choose, words

if TYPE_CHECKING:
    import jinja2

PERIODS_S = {"1h": 3600.0, "24h": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}
AVAILABILITY_PERIODS = ("24h", "7d", "30d")
_AVAILABILITY_FRESH_S = 30.0
# Of a target that is new nothing is known yet; soon there is.
_UNKNOWN_FRESH_S = 2.0
_AVAILABILITY_KEPT = 15_000
# All viewers share one reading of a host's last hour.
_SERIES_FRESH_S = 10.0
_SERIES_KEPT = 1000


class Streams:
    """The live event streams that are open: bounded in number, and ended together when the server stops."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.closing = asyncio.Event()


class WebContext:
    """What a handler is given: the program as the one who asks may see it, and who that is. places: the navigation."""

    def __init__(
        self,
        services: Services,
        options: WebOptions,
        assets: Assets,
        templates: Mapping[str, jinja2.Environment],
        meter: Meter,
        places: Sequence[Place] = (),
    ) -> None:
        self.watch = SnapshotWatch(services.watch, services.clock)
        self.services = services
        self.places = places
        self.options = options
        self.assets = assets
        self.templates = templates
        self.meter = meter
        self.streams = Streams(options.streams)
        self.identity: Identity = anonymous()
        # The request, for what only pages ask: language and theme.
        self.asked: Request[Any, Any, Any] | None = None
        # Of this request, for the guard to record.
        self.refusals: list[tuple[str, str, dict[str, str]]] = []
        self._whole = services
        self._series: OrderedDict[tuple[str, tuple[str, ...]], tuple[float, Sequence[SeriesPoints]]] = OrderedDict()
        self._overall: OrderedDict[tuple[str, str], tuple[float, Point | None]] = OrderedDict()
        self._availability: OrderedDict[tuple[str, str], tuple[float, Availability]] = OrderedDict()

    def seen_by(self, identity: Identity) -> WebContext:
        """Return this context for one who asks. Somebody unknown is on a public route, which shows the whole."""
        seen = WebContext.__new__(WebContext)
        # As copy.copy does it, in a fifth of the time: this is done for every request.
        seen.__dict__.update(self.__dict__)
        seen.identity = identity
        seen.refusals = []
        access = self._whole.access
        if access is not None and identity.known:
            seen.services = seen_services(self._whole, self.watch, identity, access)
        else:
            seen.services = msgspec.structs.replace(self._whole, watch=self.watch)
        return seen

    @property
    def words(self) -> Words:
        """Return the language that the viewer chose, or that their browser asks for."""
        if self.asked is None:
            return words(SOURCE)
        return words(choose(self.asked.cookies.get(COOKIE, ""), self.asked.headers.get("accept-language", "")))

    @property
    def theme(self) -> str:
        """Return "light" or "dark" as the viewer chose, "" for as their system has it."""
        theme = self.asked.cookies.get("dogwatch_theme", "") if self.asked is not None else ""
        return theme if theme in ("light", "dark") else ""

    @property
    def access(self) -> Access:
        """Raises: NotAllowed where this program keeps no users."""
        if self._whole.access is None:
            raise NotAllowed("this Dogwatch keeps no users and no audit trail")
        return self._whole.access

    @property
    def actor(self) -> Actor:
        """Who asks, for the audit event of every change."""
        return self.identity.actor

    @property
    def rights(self) -> Rights:
        return self.identity.rights

    def may(self, noun: str, verb: str = "read") -> bool:
        """Return whether the one who asks may do that to anything: for what pages offer."""
        return self.identity.rights.may(Permission(noun, verb))

    def require(self, noun: str, verb: str, labels: Mapping[str, str]) -> None:
        """Raises: NotAllowed where the one who asks may not do that to a thing with these labels. The route's own
        permission has been checked: this is about the thing.
        """
        if not allows(self.identity.rights, Permission(noun, verb), labels):
            if verb != "read":
                self.refusals.append((noun, verb, dict(labels)))
            raise NotAllowed("you may not do that", hint=f"it needs the permission {noun}:{verb} for its labels")

    def event_filter(self) -> Callable[[Event], bool] | None:
        """Return what tells whether a live event may be seen, or None where all may."""
        return event_filter(self._whole, self.identity) if self._whole.access is not None else None

    def targets(self) -> Sequence[TargetView]:
        """Return all targets that are seen; with hundreds of them, a little old."""
        return self.services.watch.targets()

    @property
    def _sees_all(self) -> bool:
        watch = self.services.watch
        return watch is self.watch or bool(getattr(watch, "sees_all", False))

    def targets_now(self) -> Sequence[TargetView]:
        """Return all targets that are seen as they are at this moment, where they are not very many."""
        return self.watch.exact() if self._sees_all else self.services.watch.targets()

    def summary(self) -> Summary:
        """Return what all targets that are seen come to."""
        if self._sees_all:
            return self.watch.summary()
        found = Summary()
        found.add(self.services.watch.targets())
        return found

    def forget_snapshot(self) -> None:
        """See what a write has just changed."""
        self.watch.forget()

    async def host_series(
        self, host: str, names: tuple[str, ...], *, since_s: float, points: int
    ) -> Sequence[SeriesPoints]:
        """Return series of a host until now, up to ten seconds old."""
        now_s = self.services.clock.monotonic_s()
        entry = self._series.get((host, names))
        if entry is not None and 0 <= now_s - entry[0] < _SERIES_FRESH_S:
            return entry[1]
        until_s = self.services.clock.now_s()
        found = await self.services.store.series(host, names, since_s=since_s, until_s=until_s, points=points)
        self._series[host, names] = (now_s, found)
        self._series.move_to_end((host, names))
        while len(self._series) > _SERIES_KEPT:
            self._series.popitem(last=False)
        return found

    async def availability(self, names: Sequence[str], period: str) -> dict[str, Availability]:
        """Return each target's availability over a period of AVAILABILITY_PERIODS, up to half a minute old."""
        now_s = self.services.clock.monotonic_s()
        kept = self._availability
        found = {}
        for name in names:
            entry = kept.get((name, period))
            if entry is None:
                continue
            fresh_s = _UNKNOWN_FRESH_S if entry[1].ratio is None else _AVAILABILITY_FRESH_S
            if 0 <= now_s - entry[0] < fresh_s:
                found[name] = entry[1]
        missing = [name for name in names if name not in found]
        if missing:
            until_s = self.services.clock.now_s()
            for one in await self.available(missing, since_s=until_s - PERIODS_S[period], until_s=until_s):
                found[one.target] = one
                kept[(one.target, period)] = (now_s, one)
                kept.move_to_end((one.target, period))
            while len(kept) > _AVAILABILITY_KEPT:
                kept.popitem(last=False)
        return found

    async def overall(self, name: str, period: str) -> Point | None:
        """Return a period of PERIODS_S of a target as one bucket, up to half a minute old."""
        now_s = self.services.clock.monotonic_s()
        entry = self._overall.get((name, period))
        if entry is not None and 0 <= now_s - entry[0] < _AVAILABILITY_FRESH_S:
            return entry[1]
        until_s = self.services.clock.now_s()
        found = await self.services.store.overall(name, since_s=until_s - PERIODS_S[period], until_s=until_s)
        self._overall[name, period] = (now_s, found)
        self._overall.move_to_end((name, period))
        while len(self._overall) > _SERIES_KEPT:
            self._overall.popitem(last=False)
        return found

    async def available(self, names: Sequence[str], *, since_s: float, until_s: float) -> Sequence[Availability]:
        """Return each target's availability; planned work counts for nobody where this program knows of any."""
        services = self.services
        if services.maintenance is None:
            return await services.store.availability(names, since_s=since_s, until_s=until_s)
        labels = {view.name: view.labels for view in services.watch.targets()}
        targets = {name: labels.get(name, {}) for name in names}
        return await services.maintenance.availability(targets, since_s=since_s, until_s=until_s)


# Handlers name this parameter `ctx`; the application provides it.
Ctx = NamedDependency[SkipValidation[WebContext]]
Segment = Annotated[str, PathParameter()]


def segment(text: str) -> str:
    """Return a path parameter as it was meant; guard.py keeps an encoded slash inside its segment."""
    return text.replace("%2F", "/").replace("%25", "%")
