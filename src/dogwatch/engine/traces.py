"""Traces of our own runs, sent to an OpenTelemetry collector: a span for each run, and below it one for each step.

OTLP over HTTP with JSON, which every collector takes. Ids are made of the run's, so that what is sent twice after a
restart is the same span.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dogwatch import __version__
from dogwatch.config.part import Configuration, Prepared
from dogwatch.config.section import Fault, Section
from dogwatch.core.clock import Clock
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import Family
from dogwatch.core.units import Seconds, Secret
from dogwatch.engine.http_types import HttpRequest
from dogwatch.engine.port import Runs
from dogwatch.engine.tracing import span_of, trace_of
from dogwatch.engine.values import Run, RunFilter, RunState, StepRun, StepState
from dogwatch.errors import DogwatchError, NotFound

Spawn = Callable[[str, Coroutine[None, None, None]], "asyncio.Task[None]"]
_log = logging.getLogger(__name__)
_PAGE = 200
_WAITING = 1000
_REMEMBERED = 20_000
# What ended shortly before a start may not have been sent.
_BACK_S = 600.0
_LONGEST_S = 60.0


class TracesOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where traces of runs go.

    url: of a collector that speaks OTLP over HTTP, without the path; "" for none. headers: further ones; never shown.
    service: their `service.name`. every: how often to look for runs that ended, at the latest. timeout: of a request.
    ca_file: certificates that are trusted in place of the system's. verify: whether certificates are checked.
    """

    url: str = ""
    headers: Mapping[str, Secret] = {}
    service: str = "dogwatch"
    every: Seconds = 5.0
    timeout: Seconds = 10.0
    ca_file: str = ""
    verify: bool = True


def _check(options: TracesOptions) -> Iterable[Fault]:
    if options.url:
        try:
            parts = urlsplit(options.url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            good = False
        if not good:
            yield Fault(("url",), "is not an http or https address", "http://localhost:4318")
    if options.every < 0.1:
        yield Fault(("every",), "must be at least 100ms")


TRACES: Section[TracesOptions] = Section(
    key="traces",
    type=TracesOptions,
    doc="Traces of runs and their steps, for an OpenTelemetry collector.",
    default=TracesOptions,
    check=_check,
)


def request_body(service: str, runs: Iterable[tuple[Run, Sequence[StepRun]]]) -> bytes:
    """Return the body of an export request."""
    spans = [span for run, steps in runs for span in spans_of(run, steps)]
    resource = [_attribute("service.name", service), _attribute("service.version", __version__)]
    scope = {"scope": {"name": "dogwatch.engine", "version": __version__}, "spans": spans}
    return msgspec.json.encode({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]})


def spans_of(run: Run, steps: Sequence[StepRun]) -> Iterator[dict[str, Any]]:
    """Yield the span of a run that has ended, and of its steps that began."""
    trace, root = trace_of(run.run_id), span_of(run.run_id)
    begin_s = run.started_s or run.created_s
    end_s = max(run.ended_s or begin_s, begin_s)
    about = {
        "dogwatch.run.id": run.run_id,
        "dogwatch.run.state": run.state.value,
        "dogwatch.job": run.job,
        "dogwatch.run.attempt": run.attempt,
        "dogwatch.run.trigger": run.trigger.kind,
        "dogwatch.run.actor": f"{run.actor.kind}:{run.actor.name}",
        "dogwatch.worker": run.worker,
        **{f"dogwatch.label.{name}": value for name, value in run.labels.items()},
    }
    error = run.reason if run.state == RunState.FAILED else None
    span = _span(trace, root, f"job {run.job}", (begin_s, end_s), about, error)
    if run.parent:
        parent, step = run.parent
        # A run has a trace of its own; what started it is linked.
        span["links"] = [{"traceId": trace_of(parent), "spanId": span_of(parent, step, 1)}]
    yield span
    for one in steps:
        if one.started_s is None:
            continue
        step_about = {
            "dogwatch.run.id": run.run_id,
            "dogwatch.step": one.name,
            "dogwatch.step.state": one.state.value,
            "dogwatch.action": one.kind,
            "dogwatch.step.attempt": one.attempt,
        }
        times = (one.started_s, max(one.ended_s or end_s, one.started_s))
        found = _span(
            trace,
            span_of(run.run_id, one.name, one.attempt),
            f"{one.kind} {one.name}",
            times,
            step_about,
            one.reason if one.state == StepState.FAILED else None,
        )
        yield {**found, "parentSpanId": root}


def _span(
    trace: str,
    span: str,
    name: str,
    times_s: tuple[float, float],
    about: Mapping[str, object],
    error: str | None,
) -> dict[str, Any]:
    begin_s, end_s = times_s
    return {
        "traceId": trace,
        "spanId": span,
        "name": name,
        "kind": 1,
        # 64-bit numbers are strings in this form of the protocol.
        "startTimeUnixNano": str(int(begin_s * 1e6) * 1000),
        "endTimeUnixNano": str(int(end_s * 1e6) * 1000),
        "attributes": [_attribute(key, value) for key, value in about.items() if value != ""],
        "status": {"code": 1} if error is None else {"code": 2, "message": error[:500]},
    }


def _attribute(key: str, value: object) -> dict[str, Any]:
    return {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}}


class TracesPart:
    """Looks for runs that ended, and sends them. counts: sent, failed (requests), dropped (runs)."""

    name = "traces"

    def __init__(self, runs: Runs, *, clock: Clock, spawn: Spawn) -> None:
        self.options = TracesOptions()
        self.counts = {"sent": 0, "failed": 0, "dropped": 0}
        self.trouble = ""
        self._runs = runs
        self._spawn = spawn
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._open: set[str] = set()
        self._done: OrderedDict[str, int] = OrderedDict()
        self._waiting: deque[tuple[Run, Sequence[StepRun]]] = deque()
        self._since_s = clock.now_s() - _BACK_S

    def prepare(self, configuration: Configuration) -> Prepared:
        return _PreparedTraces(self, configuration.get(TRACES))

    def begin(self) -> None:
        if self.options.url and self._task is None:
            self._task = self._spawn("traces", self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait([task])

    def metrics(self) -> Iterable[Family]:
        name = "dogwatch_traces_total"
        yield Family(
            name,
            "counter",
            "Traces of runs: sent, dropped, and requests that failed.",
            [(f'{name}{{outcome="{outcome}"}}', float(count)) for outcome, count in self.counts.items()],
        )

    async def _run(self) -> None:
        from dogwatch.engine.http_client import HttpClient

        client = HttpClient(user_agent="dogwatch-traces")
        pause_s = 0.0
        try:
            while True:
                await self.look()
                if self._waiting and not await self.send(client):
                    pause_s = min(_LONGEST_S, max(1.0, 2 * pause_s))
                else:
                    pause_s = 0.0
                await asyncio.sleep(max(self.options.every, pause_s))
        finally:
            await client.close()

    async def look(self) -> None:
        """Find runs that ended since the last look."""
        try:
            page = await self._runs.find(RunFilter(limit=_PAGE))
            found = {run.run_id: run for run in page.items}
            for run_id in self._open - found.keys():
                try:
                    found[run_id] = await self._runs.show(run_id)
                except NotFound:
                    self._open.discard(run_id)
            for run in found.values():
                await self._take(run)
        except DogwatchError as error:
            self._fail(f"runs cannot be read: {error}")

    async def _take(self, run: Run) -> None:
        if not run.state.ended:
            self._open.add(run.run_id)
            # A rerun of what failed goes on under the same id.
            self._done.pop(run.run_id, None)
            return
        self._open.discard(run.run_id)
        if self._done.get(run.run_id) == run.attempt or (run.ended_s or 0) < self._since_s:
            return
        self._done[run.run_id] = run.attempt
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.counts["dropped"] += 1
        self._waiting.append((run, await self._runs.steps(run.run_id)))

    async def send(self, client: Any) -> bool:
        """Send what waits; return whether it was taken."""
        options, batch = self.options, list(self._waiting)
        path = "" if options.url.rstrip("/").endswith("/v1/traces") else "/v1/traces"
        request = HttpRequest(
            url=options.url.rstrip("/") + path,
            method="POST",
            headers=[("Content-Type", "application/json"), *options.headers.items()],
            body=request_body(options.service, batch),
            timeout_s=options.timeout,
            verify=options.verify,
            ca_file=options.ca_file,
        )
        try:
            answer = await client.request(request)
        except (DogwatchError, OSError) as error:
            self._fail(f"traces cannot be sent: {error}")
            return False
        if not 200 <= answer.status < 300:
            self._fail(f"traces cannot be sent: the collector answered {answer.status}")
            if answer.status >= 500 or answer.status in (401, 403, 404, 408, 429):
                return False
            # It will never take these.
            self.counts["dropped"] += len(batch)
        else:
            self.counts["sent"] += len(batch)
            self.trouble = ""
        for _ in batch:
            self._waiting.popleft()
        return True

    def _fail(self, message: str) -> None:
        if message != self.trouble:
            _log.warning("%s", message)
        self.trouble = message
        self.counts["failed"] += 1


class _PreparedTraces:
    def __init__(self, part: TracesPart, options: TracesOptions) -> None:
        self._part = part
        self._options = options
        self._changed = options != part.options

    async def start(self) -> None:
        """Nothing is opened beforehand."""

    def swap(self) -> None:
        self._part.options = self._options

    async def finish(self) -> None:
        if self._changed:
            await self._part.stop()
        self._part.begin()

    async def discard(self) -> None:
        """Nothing was begun."""
