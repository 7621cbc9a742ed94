"""The part that owns endpoints: lets requests in, stores deliveries together with the runs they start, replays them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.config.part import Configuration, Exchange, Prepared
from dogwatch.config.section import Section
from dogwatch.core.clock import Clock
from dogwatch.core.component import nearest
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import Family, series
from dogwatch.engine.masks import MASK, Masker
from dogwatch.engine.port import Runs, Starter
from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Page, StartRun, Trigger
from dogwatch.errors import (
    ConfigError,
    Conflict,
    NotFound,
    PermanentError,
    TransientError,
    Unreachable,
    UsageError,
)
from dogwatch.notify.ids import Ids
from dogwatch.rules.outside.read import NotAlerts, read_alerts
from dogwatch.store.database import Database
from dogwatch.webhooks import deliveries, keeping, keptpayload
from dogwatch.webhooks.deliveries import Content
from dogwatch.webhooks.delivery import (
    Answer,
    Delivery,
    DeliveryDetail,
    DeliveryState,
    EndpointView,
    Rejection,
)
from dogwatch.webhooks.job_problems import job_problems
from dogwatch.webhooks.keptpayload import Sealer
from dogwatch.webhooks.masks import masked_text
from dogwatch.webhooks.request import Malformed, RawRequest
from dogwatch.webhooks.route import Reading, Route
from dogwatch.webhooks.scheme import Rejected, Verified
from dogwatch.webhooks.schemes import NoScheme
from dogwatch.webhooks.section import HOOKS, Endpoint
from dogwatch.webhooks.view import HookRefusal

log = logging.getLogger(__name__)
T = TypeVar("T")

Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[Any]"]
HOUSEKEEPING_S = 60.0
# All bodies that are being received or worked on, together.
BODIES_MOST = 64 * 1024 * 1024
# And of one address, a proxy perhaps: this part of it.
_SHARE = 2
# A larger body is decoded, filtered and packed in a thread; the event loop goes on meanwhile.
_LARGE = 32 * 1024
_SHOWN_BYTES = 256 * 1024
_LOG_EVERY_S = 60.0
_BUSY_S = 2.0
_RACES = 5
_NOBODY = NoScheme()


class Hooks:
    """Implements config.part.Part and webhooks.view.HooksView.

    jobs: the section of jobs, so that an endpoint whose job does not exist is a configuration error; None to do
    without. sealer: of payloads at rest, by the options in force; None where there is no key.
    """

    name = "webhooks"

    def __init__(
        self,
        database: Database,
        runs: Runs,
        *,
        clock: Clock,
        spawn: Spawn,
        jobs: Section[list[JobSpec]] | None = None,
        bodies_most: int = BODIES_MOST,
        sealer: Callable[[], Sealer | None] = lambda: None,
    ) -> None:
        self._database, self._runs, self._clock, self._spawn = database, runs, clock, spawn
        self._jobs, self._bodies_most, self._sealer = jobs, bodies_most, sealer
        self._sealed_before = False
        self._ids = Ids("dlv")
        self._routes: Mapping[str, Route] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._threads: ThreadPoolExecutor | None = None
        self.held_bytes = 0
        self._held_by: dict[str, int] = {}
        self._unknown = 0

    # -- Part -----------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        endpoints = configuration.get(HOOKS)
        secret: dict[str, list[str]] = {}
        if self._jobs is not None:
            jobs: list[JobSpec] = configuration.get(self._jobs)
            secret = {job.name: [name for name, one in job.parameters.items() if one.secret] for job in jobs}
            problems = list(job_problems(endpoints, jobs))
            if problems:
                raise ConfigError(problems)
        routes = {one.name: Route(one, secret.get(one.job, ())) for one in endpoints}
        return Exchange(partial(self.put_in_force, routes))

    def put_in_force(self, routes: Mapping[str, Route]) -> None:
        for name, route in routes.items():
            if name in self._routes:
                route.adopt(self._routes[name])
        self._routes = routes
        if not self._tasks:
            self._tasks = [self._spawn("webhooks housekeeping", self._keep_house())]

    async def stop(self) -> None:
        await cancel_and_wait(self._tasks)
        self._tasks = []
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    # -- letting in -----------------------------------------------------------------------------------------------

    def admit(self, name: str, *, remote: str, length: int | None) -> _Admission:
        route = self._routes.get(name)
        if route is None:
            # Nothing is kept or said of a name that does not exist: scanners ask for thousands.
            self._unknown += 1
            raise HookRefusal(404, "there is nothing at this address")
        endpoint = route.endpoint
        if not route.allows(remote):
            raise self._refused(route, remote, 403, "not_allowed", "the address is not among those allowed")
        if endpoint.paused:
            raise self._refused(route, remote, 503, "paused", "the endpoint is paused", retry_after_s=60.0)
        if length is not None and length > endpoint.max_size:
            raise self._refused(route, remote, 413, "too_large", _too_large(endpoint))
        return _Admission(self, route, remote)

    def _refused(
        self, route: Route, remote: str, status: int, outcome: str, reason: str, *, retry_after_s: float | None = None
    ) -> HookRefusal:
        route.count(outcome)
        route.rejections.append(
            Rejection(time_s=self._clock.now_s(), remote=remote, status=status, reason=deliveries.clean(reason))
        )
        return HookRefusal(status, reason, retry_after_s=retry_after_s)

    def hold(self, size: int, route: Route, remote: str) -> None:
        """Count bytes of a body. One address gets a part of the memory only, and so cannot keep the others out."""
        mine = self._held_by.get(remote, 0)
        share = max(self._bodies_most // _SHARE, route.endpoint.max_size)
        if self.held_bytes + size > self._bodies_most or mine + size > share:
            told = "too many bodies at the same time"
            raise self._refused(route, remote, 503, "busy", told, retry_after_s=_BUSY_S)
        self.held_bytes += size
        self._held_by[remote] = mine + size

    def give_back(self, size: int, remote: str) -> None:
        self.held_bytes -= size
        left = self._held_by.get(remote, 0) - size
        if left > 0:
            self._held_by[remote] = left
        else:
            self._held_by.pop(remote, None)

    # -- deliveries -----------------------------------------------------------------------------------------------

    async def deliver(self, name: str, request: RawRequest) -> Answer:
        route = self._routes.get(name)
        if route is None:
            raise HookRefusal(404, "there is nothing at this address")
        verified = await self._verify(route, request)
        if route.window is not None and (wait_s := route.window.take(self._clock.monotonic_s())) > 0:
            told = "more deliveries than the endpoint's rate"
            raise self._refused(route, request.remote, 429, "rate_limited", told, retry_after_s=wait_s)
        try:
            reading = await self._run(len(request.body), partial(route.read, request))
        except Malformed as error:
            raise self._refused(route, request.remote, error.status, "malformed", str(error)) from None
        if route.endpoint.alerts and reading.state is DeliveryState.ACCEPTED:
            try:
                reading = self._with_alerts(route, reading)
            except NotAlerts as error:
                raise self._refused(route, request.remote, 422, "malformed", str(error)) from None
        one = self._delivery(route, reading, request)
        try:
            return await self._keep(route, one, reading, verified)
        except (TransientError, Unreachable, PermanentError) as error:
            if not isinstance(error, TransientError):
                log.error("hooks.%s: a delivery cannot be stored: %s", name, error)
            route.count("failed")
            raise HookRefusal(503, "the delivery cannot be stored now", retry_after_s=_BUSY_S) from error

    def _with_alerts(self, route: Route, reading: Reading) -> Reading:
        """Raises: NotAlerts."""
        kind = route.endpoint.alerts
        if not kind:
            return reading
        return msgspec.structs.replace(reading, alerts=read_alerts(kind, reading.payload, self._clock.now_s()))

    async def _verify(self, route: Route, request: RawRequest) -> Verified:
        endpoint = route.endpoint
        check = partial(endpoint.scheme.verify, request, now_s=self._clock.now_s(), tolerance_s=endpoint.tolerance)
        try:
            return await self._run(len(request.body), check)
        except Rejected as error:
            self._log_rejection(route, request.remote, str(error))
            # What was wrong is for us to know: `hook show` says it.
            reason = str(error)
        _ = self._refused(route, request.remote, 401, "bad_signature", reason)
        raise HookRefusal(401, "the signature is not accepted")

    def _log_rejection(self, route: Route, remote: str, reason: str) -> None:
        """Write one line a minute for each endpoint, whatever comes in."""
        now_s = self._clock.monotonic_s()
        route.unlogged += 1
        if now_s - route.logged_s < _LOG_EVERY_S:
            return
        log.warning(
            "hooks.%s: requests with a wrong signature: %d; the last, from %s: %s",
            route.endpoint.name, route.unlogged, deliveries.clean(remote), reason,
        )  # fmt: skip
        route.logged_s, route.unlogged = now_s, 0

    def _delivery(self, route: Route, reading: Reading, request: RawRequest) -> Delivery:
        now_s = self._clock.now_s()
        return Delivery(
            delivery_id=self._ids.new(now_s),
            endpoint=route.endpoint.name,
            state=reading.state,
            reason=reading.reason,
            event=reading.event,
            source_id=reading.source_id,
            remote=request.remote,
            received_s=now_s,
            size_bytes=len(request.body),
        )

    async def _keep(self, route: Route, one: Delivery, reading: Reading, verified: Verified) -> Answer:
        """Store the delivery and its run together; or find that it is known."""
        actor = Actor(kind="webhook", name=one.endpoint, address=one.remote)
        starter, one = await self._starter(route, one, reading, actor)
        content = await self._content(reading, one.size_bytes)
        keep = partial(keeping.store, reading=reading, content=content, verified=verified, route=route)
        for _ in range(_RACES):
            work = partial(keep, one=one, starter=starter)
            known = partial(keeping.duplicate, reading=reading, verified=verified, route=route)
            try:
                answer: Answer | None = await self._database.write(work)
            except deliveries.Known:
                answer = await self._database.write(known)
            except Conflict as error:
                one, starter = _refused_by_job(one, str(error)), None
                continue
            if answer is not None:
                route.count("duplicate" if answer.state == "duplicate" else one.state.value)
                return answer
        raise TransientError("the delivery changes hands too often")

    async def _content(self, reading: Reading, size: int) -> Content:
        """Raises: PermanentError, Unreachable for the key."""
        # The first seals once the library is loaded and the key read: not in the event loop.
        size, self._sealed_before = size if self._sealed_before else _LARGE + 1, True
        payload = await self._run(size, partial(keptpayload.stored, reading.kept, self._sealer()))
        return Content(headers=reading.headers, query=reading.query, payload=payload)

    async def _starter(
        self, route: Route, one: Delivery, reading: Reading, actor: Actor
    ) -> tuple[Starter | None, Delivery]:
        """Return what starts the run, or the delivery as refused with the job's reason."""
        endpoint = route.endpoint
        if one.state is not DeliveryState.ACCEPTED or endpoint.alerts:
            return None, one
        data = {"delivery": one.delivery_id, "event": one.event, "payload": reading.payload}
        if one.replay_of:
            data["replay_of"] = one.replay_of
        request = StartRun(
            job=endpoint.job,
            parameters=reading.parameters,
            actor=actor,
            trigger=Trigger(kind="webhook", name=endpoint.name, data=data),
            # The same delivery never starts two runs, whatever became of a commit's answer.
            key=f"hook/{endpoint.name}/{one.delivery_id}",
            labels=endpoint.labels,
            priority=endpoint.priority,
            withheld=("payload",) if reading.kept.opaque else (),
        )
        try:
            return await self._run(one.size_bytes, partial(self._runs.starter, request)), one
        except (UsageError, Conflict, NotFound) as error:
            told = Masker(reading.kept.hidden).mask(masked_text(str(error), endpoint.scheme.secrets))
            return None, _refused_by_job(one, told)

    async def _run(self, size: int, call: Callable[[], T]) -> T:
        """Call here, or for a large body in a thread."""
        if size <= _LARGE:
            return call()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, "dogwatch-hooks")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    # -- looking and replaying ------------------------------------------------------------------------------------

    async def endpoints(self) -> Sequence[EndpointView]:
        last = await self._database.read(deliveries.newest)
        return [_view(route, last) for route in self._routes.values()]

    async def endpoint(self, name: str) -> EndpointView:
        return _view(self._known(name), await self._database.read(deliveries.newest))

    async def deliveries(
        self,
        *,
        endpoint: str = "",
        state: str = "",
        limit: int = 50,
        cursor: str = "",
        among: Sequence[str] | None = None,
        count: bool = False,
    ) -> Page[Delivery]:
        find = partial(deliveries.find, endpoint=endpoint, state=state, limit=limit, cursor=cursor, among=among)
        return await self._database.read(lambda tx: find(tx, count=count))

    async def delivery(self, delivery_id: str) -> DeliveryDetail:
        one, content = await self._database.read(lambda tx: deliveries.show(tx, delivery_id))
        route = self._routes.get(one.endpoint)
        text, withheld = MASK, ""
        try:
            kept = keptpayload.opened(content.payload, self._sealer())
            if kept.opaque:
                withheld = "it holds a secret that cannot be told from the rest"
            else:
                text = await self._run(
                    one.size_bytes, partial(keptpayload.shown_text, kept, content.headers, _SHOWN_BYTES)
                )
        except PermanentError as error:
            withheld = str(error)
        return DeliveryDetail(
            delivery=one,
            headers=content.headers,
            query=content.query,
            text=masked_text(text, route.endpoint.scheme.secrets if route else ()),
            truncated=not withheld and one.size_bytes > _SHOWN_BYTES,
            withheld=withheld,
        )

    async def replay(self, delivery_id: str, actor: Actor, *, force: bool = False) -> Delivery:
        before, content = await self._database.read(lambda tx: deliveries.show(tx, delivery_id))
        route = self._known(before.endpoint)
        try:
            kept = keptpayload.opened(content.payload, self._sealer())
        except PermanentError as error:
            raise Conflict(f"delivery {before.delivery_id} cannot be replayed: {error}", hint=error.hint) from None
        body = kept.body()
        request = RawRequest(
            headers={**content.headers, **kept.headers},
            query={**content.query, **kept.query},
            body=body,
            remote=before.remote,
        )
        try:
            reading = await self._run(len(body), partial(route.read, request, force=force))
        except Malformed as error:
            raise UsageError(f"delivery {before.delivery_id}: {error}") from None
        reading = msgspec.structs.replace(reading, known_by="")
        try:
            reading = self._with_alerts(route, reading)
        except NotAlerts as error:
            raise UsageError(f"delivery {before.delivery_id}: {error}") from None
        fresh = self._delivery(route, reading, request)
        one = msgspec.structs.replace(fresh, replay_of=before.delivery_id, actor=str(actor))
        starter, one = await self._starter(route, one, reading, actor)
        content = await self._content(reading, one.size_bytes)
        work = partial(keeping.store_replay, reading=reading, content=content, actor=actor, route=route)
        try:
            taken = await self._database.write(partial(work, one=one, starter=starter))
        except Conflict as error:
            taken = await self._database.write(partial(work, one=_refused_by_job(one, str(error)), starter=None))
        route.count("replayed")
        return taken

    def _known(self, name: str) -> Route:
        if name not in self._routes:
            raise NotFound(f"no endpoint is called '{name}'", hint=nearest(name, list(self._routes)))
        return self._routes[name]

    # -- housekeeping and metrics ---------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            try:
                await self.keep_house()
            except TransientError as error:
                log.warning("old deliveries cannot be removed: %s", error)
            await asyncio.sleep(HOUSEKEEPING_S)

    async def keep_house(self) -> None:
        """Forget old deliveries, and what need not be known again."""
        for name in await self._database.read(deliveries.names):
            route = self._routes.get(name)
            # What a removed endpoint left is kept as long as the default says.
            endpoint = route.endpoint if route else Endpoint(name=name, scheme=_NOBODY)
            forget = partial(deliveries.forget, endpoint=name, older_than_s=endpoint.keep, most=endpoint.keep_max)
            while await self._database.write(forget):
                continue
        while await self._database.write(deliveries.forget_seen):
            continue

    def metrics(self) -> Iterable[Family]:
        yield Family(
            "dogwatch_hook_requests_total",
            "counter",
            "Requests to webhook endpoints, by what became of them.",
            [
                (series("dogwatch_hook_requests_total", {"endpoint": name, "outcome": outcome}), float(count))
                for name, route in self._routes.items()
                for outcome, count in sorted(route.counts.items())
            ],
        )
        for name, kind, text, value in (
            ("dogwatch_hook_unknown_total", "counter", "Requests to endpoints that do not exist.", self._unknown),
            ("dogwatch_hook_body_bytes", "gauge", "Memory that bodies of webhooks hold now.", self.held_bytes),
        ):
            yield Family(name, kind, text, [(name, float(value))])


class _Admission:
    """Memory for one body: counted as it arrives, over all requests."""

    def __init__(self, hooks: Hooks, route: Route, remote: str) -> None:
        self._hooks, self._route, self._remote = hooks, route, remote
        self._held = 0

    @property
    def max_size(self) -> int:
        return self._route.endpoint.max_size

    def hold(self, size: int) -> None:
        if self._held + size > self.max_size:
            told = _too_large(self._route.endpoint)
            raise self._hooks._refused(self._route, self._remote, 413, "too_large", told)  # noqa: SLF001 - its own part
        self._hooks.hold(size, self._route, self._remote)
        self._held += size

    def release(self) -> None:
        if self._held:
            self._hooks.give_back(self._held, self._remote)
            self._held = 0


def _too_large(endpoint: Endpoint) -> str:
    return f"the body is larger than {endpoint.max_size} bytes"


def _refused_by_job(one: Delivery, reason: str) -> Delivery:
    return msgspec.structs.replace(one, state=DeliveryState.REFUSED, reason=reason)


def _view(route: Route, last: Mapping[str, float]) -> EndpointView:
    endpoint = route.endpoint
    return EndpointView(
        name=endpoint.name,
        job=endpoint.job or f"alerts of {endpoint.alerts}",
        signature=endpoint.scheme.kind,
        path=f"/hooks/{endpoint.name}",
        filter=endpoint.filter or "",
        parameters=tuple(endpoint.parameters),
        labels=endpoint.labels,
        paused=endpoint.paused,
        counts=dict(route.counts),
        rejections=tuple(route.rejections),
        last_s=last.get(endpoint.name),
    )
