"""The probe seam: what a kind of probe is given, and what it hands back."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dogwatch.core.component import Component
from dogwatch.core.units import Expression
from dogwatch.core.values import Value

if TYPE_CHECKING:
    from dogwatch.probes.lane import Landing, Lane

log = logging.getLogger(__name__)
EVIDENCE_BYTES = 16 * 1024
Done = Callable[["ProbeResult"], None]
Cancel = Callable[[], None]


class Phases(msgspec.Struct, frozen=True, gc=False):
    """Where an attempt's time went, seconds; a phase that did not happen is 0.

    first_byte_s: from the request sent to the first byte of the answer. transfer_s: from there to the last.
    """

    resolve_s: float = 0.0
    connect_s: float = 0.0
    tls_s: float = 0.0
    first_byte_s: float = 0.0
    transfer_s: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the target said when it failed, bounded to EVIDENCE_BYTES in all."""

    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    truncated: bool = False


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The result of one attempt.

    success: the target answered as the kind demands; the expectation is applied on top by the watch.
    reason: "" or one of the words in REASONS. message: one sentence for a person, no secrets.
    values: what expectations and metrics read, by the names in the kind's `variables`; heavy ones (body, json,
    headers) only if the attempt wants them.
    evidence: called only when the attempt failed or the expectation did.
    """

    success: bool
    duration_s: float
    reason: str = ""
    message: str = ""
    phases: Phases | None = None
    values: Mapping[str, Any] = {}
    evidence: Callable[[], Evidence] | None = None


# Every word a result's reason may be; they are label values and must not grow without bound.
REASONS = (
    "timeout",
    "resolve",
    "refused",
    "unreachable",
    "reset",
    "tls",
    "certificate",
    "protocol",
    "status",
    "too_large",
    "redirects",
    "mismatch",
    "exit",
    "missing",
    "unhealthy",
    "late",
    "expectation",
    "local",  # this machine could not even ask: no descriptors, no permission, no program
)


class Attempt(msgspec.Struct, kw_only=True):
    """What one attempt is given.

    timeout_s: it must call done within this. wants: names that the expectations read, so that nobody else pays for
    a decoded body. memory: the target's own, kept between attempts and over reloads while its specification stays
    the same (TLS sessions, kept connections, resolved addresses). env: the services of app.py.
    """

    target: str
    timeout_s: float
    env: ProbeEnv
    wants: frozenset[str] = frozenset()
    memory: dict[str, Any]


class ProbeEnv(msgspec.Struct, kw_only=True):
    """Services that probes share; built in app.py, closed by it. Kinds take what they need by name.

    engine: the epoll engine (probes/engine). tasks: keeps the tasks of coroutine probes. extra: what a kind's
    package builds once (heartbeat ledger, curl lane), by kind.
    """

    engine: Any
    tasks: set[asyncio.Task[None]]
    extra: dict[str, Any]


class Probe(Component, frozen=True, kw_only=True):
    """Asks a target how it is, once.

    variables: what its expectations may read, CEL name → CEL type ("int", "double", "string", "bool", "dyn",
    "map", "list"). meanings: what each of them is. metrics: variable → (blackbox_exporter metric name, help).
    expect: CEL over the variables that must be true for success. degraded_if: CEL that, when true on a successful
    attempt, makes the target degraded.
    """

    variables: ClassVar[Mapping[str, str]] = {}
    meanings: ClassVar[Mapping[str, str]] = {}
    # URL schemes by which an ad hoc target names this kind, besides its own name: `wss://…`.
    schemes: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {}

    expect: Expression | None = None
    degraded_if: Expression | None = None

    @abc.abstractmethod
    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        """Start one attempt; call `done` exactly once, from the event loop's thread, unless cancelled before.

        Never raises for anything the target or the network does. The returned function cancels: it releases every
        resource at once, and `done` is not called any more. It may be called after the end, and does nothing then.
        """

    def lane(self, attempt: Attempt, landing: Landing, owner: Any) -> Lane | None:  # noqa: ARG002 - for those who have one
        """Return how attempts at one target run in their usual shape, None where there is only `launch`.

        landing: is told when they end well; owner: goes with them.
        """
        return None

    def address(self) -> str:
        """Return the target as people write it: a URL, `host:port`, a name. No secrets."""
        return self.kind

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        """Return (path, message, hint) for what field types cannot check (a malformed URL); no I/O."""
        return []


class CoroutineProbe(Probe, frozen=True, kw_only=True):
    """A probe whose work is one coroutine: the simple way to write a kind that is not on the hot path."""

    @abc.abstractmethod
    async def run(self, attempt: Attempt) -> ProbeResult:
        """Do one attempt within attempt.timeout_s; what the target does is a result, never an exception."""

    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        loop = asyncio.get_running_loop()
        started_s = loop.time()

        async def work() -> None:
            try:
                async with asyncio.timeout(attempt.timeout_s):
                    result = await self.run(attempt)
            except TimeoutError:
                result = ProbeResult(
                    success=False,
                    duration_s=loop.time() - started_s,
                    reason="timeout",
                    message=f"no answer within {attempt.timeout_s:g} s",
                )
            except Exception as error:
                log.exception("probe %s: the probe itself failed", attempt.target)
                result = ProbeResult(
                    success=False,
                    duration_s=loop.time() - started_s,
                    reason="local",
                    message=f"internal error: {error!r}",
                )
            done(result)

        task = loop.create_task(work(), name=f"probe {attempt.target}")
        attempt.env.tasks.add(task)
        task.add_done_callback(attempt.env.tasks.discard)

        def cancel() -> None:
            task.cancel()

        return cancel


async def attempt_once(probe: Probe, attempt: Attempt) -> ProbeResult:
    """Run one attempt to its end; cancelling this cancels it."""
    future: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()

    def done(result: ProbeResult) -> None:
        if not future.done():
            future.set_result(result)

    cancel = probe.launch(attempt, done)
    try:
        return await future
    finally:
        cancel()


def numeric(values: Mapping[str, Value]) -> dict[str, float]:
    """Return the values that can be metrics, as floats."""
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
