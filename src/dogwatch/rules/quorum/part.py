"""Reports what this place sees, hears what others see, and raises an alert where enough say that a target is down."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import msgspec

from dogwatch.config.part import Configuration, Exchange, Prepared
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait, woken
from dogwatch.core.metrics import Family, series
from dogwatch.engine.http_types import HttpRequest
from dogwatch.errors import DogwatchError, NotFound
from dogwatch.rules.decider import Truth
from dogwatch.rules.outside import book as outside
from dogwatch.rules.outside.read import OutsideAlert
from dogwatch.rules.quorum.decide import Report, Verdict, View, judge
from dogwatch.rules.quorum.spec import LOCATIONS, Center, Locations, Quorum
from dogwatch.rules.watcher import Alert
from dogwatch.store.database import Database, Tx

if TYPE_CHECKING:
    from dogwatch.engine.http_client import HttpClient

log = logging.getLogger(__name__)
Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[Any]"]
RULE = "quorum"
TOPIC = "quorum"
LOOK_S = 5.0
# It is over when places say so, not by itself.
_FOR_EVER_S = 10 * 365 * 86_400.0


class Watched(Protocol):
    """A target as this place sees it."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def since_s(self) -> float: ...


class LocationsPart:
    """Implements config.part.Part. targets: what is watched here."""

    name = "locations"

    def __init__(
        self, database: Database, *, clock: Clock, spawn: Spawn, targets: Callable[[], Iterable[Watched]]
    ) -> None:
        self._database, self._clock, self._spawn, self._targets = database, clock, spawn, targets
        self.options = Locations()
        self.verdicts: dict[str, Verdict] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._wake = asyncio.Event()
        self._deaf: Callable[[], None] | None = None
        self._client: HttpClient | None = None
        self._failing: dict[str, str] = {}

    # -- Part -----------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        return Exchange(partial(self.put_in_force, configuration.get(LOCATIONS)))

    def put_in_force(self, options: Locations) -> None:
        self.options = options
        known = {one.target for one in options.quorum}
        self.verdicts = {target: one for target, one in self.verdicts.items() if target in known}
        self._wake.set()
        if not self._tasks and (options.quorum or options.report_to):
            self._deaf = self._database.listen(TOPIC, self._wake.set)
            self._tasks = [self._spawn("locations quorum", self._decide()), self._spawn("locations", self._report())]

    async def stop(self) -> None:
        await cancel_and_wait(self._tasks)
        self._tasks = []
        if self._deaf is not None:
            self._deaf()
            self._deaf = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    # -- Hearing and deciding -------------------------------------------------------------------------------------

    async def hear(self, location: str, views: Mapping[str, View]) -> None:
        """Keep what a place says. Raises: NotFound for one that is asked of nothing."""
        if not any(location in one.locations for one in self.options.quorum) or location == self.options.name:
            raise NotFound(f"no quorum asks a place called '{location}'", hint="see locations.quorum")
        wanted = {one.target for one in self.options.quorum if location in one.locations}
        kept = {target: view for target, view in views.items() if target in wanted}
        body = msgspec.json.encode(kept).decode()

        def work(tx: Tx) -> None:
            tx.run(
                "INSERT INTO location_reports (location, body, received_s) VALUES (:location, :body, :received_s)"
                " ON CONFLICT (location) DO UPDATE SET body = excluded.body, received_s = excluded.received_s",
                location=location,
                body=body,
                received_s=tx.now_s,
            )
            tx.notify(TOPIC)

        await self._database.write(work)

    async def decide(self) -> Mapping[str, Verdict]:
        """Look at what all places say, and raise or end alerts where that changed."""
        options = self.options
        if not options.quorum:
            return {}
        reports, now_s = await self._database.read(_reports)
        reports[options.name] = Report(views=self.views(), received_s=now_s)
        found = {one.target: judge(one, reports, now_s, silent_s=options.silent) for one in options.quorum}
        alerts = [
            _alert(one, found[one.target], self._clock.now_s())
            for one in options.quorum
            # Where nothing is known it stays as it was. What is told again changes nothing.
            if found[one.target].truth is not Truth.UNKNOWN and self._changed(one.target, found[one.target])
        ]
        if alerts:
            await self._database.write(lambda tx: outside.take(tx, alerts))
        self.verdicts = found | {
            target: before
            for target, before in self.verdicts.items()
            if target in found and found[target].truth is Truth.UNKNOWN
        }
        return found

    def _changed(self, target: str, verdict: Verdict) -> bool:
        before = self.verdicts.get(target)
        return before is None or before.truth is not verdict.truth

    def views(self) -> dict[str, View]:
        """Return what this place sees of the targets that others are told of."""
        patterns = self.options.targets
        return {
            one.name: View(status=str(one.status), since_s=one.since_s)
            for one in self._targets()
            if not patterns or any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns)
        }

    async def _decide(self) -> None:
        while True:
            try:
                await self.decide()
            except DogwatchError as error:
                log.warning("what places see cannot be looked at: %s", error)
            if await woken(self._wake, LOOK_S):
                self._wake.clear()

    # -- Reporting ------------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            await asyncio.gather(*(self._tell(center) for center in self.options.report_to))
            await asyncio.sleep(self.options.every)

    async def _tell(self, center: Center) -> None:
        why = ""
        try:
            await self.report(center)
        except DogwatchError as error:
            why = str(error)
        if why and not self._failing.get(center.url):
            log.warning("%s is not told what this place sees: %s", center.url, why)
        elif not why and self._failing.get(center.url):
            log.info("%s is told again what this place sees", center.url)
        self._failing[center.url] = why

    async def report(self, center: Center) -> None:
        """Tell what this place sees. Raises: DogwatchError where it was not taken."""
        if self._client is None:
            from dogwatch.engine.http_client import HttpClient

            self._client = HttpClient()
        answer = await self._client.request(
            HttpRequest(
                url=f"{center.url.rstrip('/')}/api/v1/locations/{quote(self.options.name, safe='')}/report",
                method="POST",
                headers=[
                    ("Content-Type", "application/json"),
                    *([("Authorization", f"Bearer {center.token}")] if center.token else []),
                ],
                body=msgspec.json.encode({"views": self.views()}),
                timeout_s=min(10.0, self.options.every),
                body_limit=4096,
                ca_file=center.ca_file,
                cert_file=center.cert_file,
                key_file=center.key_file,
            )
        )
        if answer.status not in (200, 204):
            raise DogwatchError(f"answered {answer.status}")

    def metrics(self) -> Iterable[Family]:
        name = "dogwatch_location_reports_failing"
        values = [(series(name, {"center": url}), float(bool(why))) for url, why in sorted(self._failing.items())]
        yield Family(name, "gauge", "1 where another Dogwatch does not take what this place sees.", values)


def _reports(tx: Tx) -> tuple[dict[str, Report], float]:
    found = {
        str(location): Report(
            views=msgspec.json.decode(str(body), type=dict[str, View]), received_s=float(received_s or 0.0)
        )
        for location, body, received_s in tx.rows("SELECT location, body, received_s FROM location_reports")
    }
    return found, tx.now_s


def _alert(quorum: Quorum, verdict: Verdict, now_s: float) -> OutsideAlert:
    alert = Alert(
        rule=RULE,
        group=quorum.target,
        targets=(quorum.target,),
        since_s=min(verdict.since_s, now_s),
        severity=quorum.severity,
        labels=quorum.labels,
        reason=verdict.reason,
        summary=f"{quorum.target} is down from {len(verdict.down)} of {len(quorum.locations)} places",
        outside=True,
    )
    return OutsideAlert(
        key=f"{RULE}\n{quorum.target}", alert=alert, firing=verdict.truth is Truth.YES, ends_s=now_s + _FOR_EVER_S
    )


def shown(part: LocationsPart) -> Sequence[tuple[Quorum, Verdict | None]]:
    """Return each quorum with what is said of it."""
    return [(one, part.verdicts.get(one.target)) for one in part.options.quorum]
