"""Fakes for the watch's tests: a probe kind that answers as it is told, a store in memory, a whole watch on a
manual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from dogwatch.config.section import Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import ManualClock
from dogwatch.core.component import Registry
from dogwatch.core.metrics import Family
from dogwatch.core.values import Transition
from dogwatch.probes.env import new_env
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.probes.probe import Attempt, Cancel, Done, Evidence, Phases, Probe, ProbeResult
from dogwatch.probes.spec import ProbeSpec, probes_section
from dogwatch.probes.watch import Watch
from dogwatch.store.protocol import Failure, Ping, ResultRow, TargetState, rows_of
from dogwatch.store.successes import Successes

# What each fake target answers, by its script; "hang" never ends. Cleared by every new world.
SCRIPTS: dict[str, Callable[[Attempt, Done], None]] = {}
LAUNCHED: list[str] = []
CANCELLED: list[str] = []


def good(value: float = 0.01, **values: Any) -> ProbeResult:
    return ProbeResult(
        success=True,
        duration_s=value,
        phases=Phases(resolve_s=0.001, connect_s=0.002, tls_s=0.0, first_byte_s=0.003, transfer_s=0.004),
        values={"status": 200, "body": "ok", **values},
        evidence=lambda: Evidence(headers=(("server", "fake"),), body="the body\n" * 5000),
    )


def bad(reason: str = "refused") -> ProbeResult:
    return ProbeResult(success=False, duration_s=0.5, reason=reason, message=f"no luck: {reason}")


class FakeProbe(Probe, frozen=True, kw_only=True):
    """Answers at once with what SCRIPTS says; good() without a script."""

    kind: ClassVar[str] = "fake"
    variables: ClassVar[Mapping[str, str]] = {"status": "int", "body": "string", "json": "dyn", "data": "map"}
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "status": ("probe_http_status_code", "Response status"),
        "tls_version": ("probe_tls_version_info", "TLS version"),
        "data": ("probe_fake_value{name}", "Numbers by name"),
        "odd_s": ('probe_fake_seconds{phase="odd"}', "A phase"),
    }

    url: str = "fake://"
    limit: int = 0

    def launch(self, attempt: Attempt, done: Done) -> Cancel:
        LAUNCHED.append(attempt.target)
        script = SCRIPTS.get(attempt.target)
        if script is None:
            done(good())
        else:
            script(attempt, done)
        return lambda: CANCELLED.append(attempt.target)

    def address(self) -> str:
        return self.url

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        return [(("url",), "not a url", "")] if not self.url else []


class MemoryStore:
    """Keeps everything in lists; `log` has the order of what was written."""

    trouble = ""

    def __init__(self) -> None:
        self.rows: list[ResultRow] = []
        self.kept_failures: list[Failure] = []
        self.kept_states: dict[str, TargetState] = {}
        self.kept_transitions: list[Transition] = []
        self.kept_pings: list[Ping] = []
        self.state_writes = 0
        self.flushed = 0
        self.broken = False
        self.before_commit: Callable[[], Any] | None = None

    def add_result(self, row: ResultRow) -> None:
        self.rows.append(row)

    def add_successes(self, ended: Successes) -> None:
        for row in rows_of(ended):
            self.add_result(row)

    def add_failure(self, failure: Failure) -> None:
        self.kept_failures.append(failure)

    def add_state(self, state: TargetState) -> None:
        self.state_writes += 1
        self.kept_states[state.target] = state

    async def commit_transition(self, transition: Transition, state: TargetState) -> None:
        if self.before_commit is not None:
            await self.before_commit()
        if self.broken:
            raise RuntimeError("the store is broken")
        self.kept_transitions.append(transition)
        self.kept_states[state.target] = state

    async def commit_ping(self, ping: Ping) -> None:
        self.kept_pings.append(ping)

    async def pings(self, target: str, *, limit: int) -> Sequence[Ping]:
        return [ping for ping in reversed(self.kept_pings) if ping.target == target][:limit]

    async def states(self) -> dict[str, TargetState]:
        return dict(self.kept_states)

    async def flush(self) -> None:
        self.flushed += 1

    def metrics(self) -> Iterable[Family]:
        return ()


class OneSection:
    """A configuration that has probes and nothing else."""

    def __init__(self, specs: list[ProbeSpec]) -> None:
        self._specs = specs

    def get(self, section: Section[Any]) -> Any:
        assert section.key == "probes"
        return self._specs


def spec(name: str, **fields: Any) -> ProbeSpec:
    check = fields.pop("check", None) or FakeProbe(url=fields.pop("url", f"fake://{name}"))
    return ProbeSpec(name=name, check=check, **fields)


class World:
    """A watch over fakes; time passes when told to."""

    def __init__(self, *, store: MemoryStore | None = None, concurrency: int = 100) -> None:
        SCRIPTS.clear()
        LAUNCHED.clear()
        CANCELLED.clear()
        self.clock = ManualClock()
        self.store = store or MemoryStore()
        self.bus = Bus()
        self.env = new_env()
        self.registry: Registry[Probe] = Registry("probe", FakeProbe, HeartbeatProbe)
        self.watch = Watch(
            env=self.env,
            store=self.store,  # type: ignore[arg-type]
            bus=self.bus,
            clock=self.clock,
            section=probes_section(self.registry),
            concurrency=concurrency,
        )

    async def configure(self, *specs: ProbeSpec) -> None:
        change = self.watch.prepare(OneSection(list(specs)))
        await change.start()
        change.swap()
        await change.finish()
        await self.settle()

    async def settle(self) -> None:
        """Let transitions reach the store."""
        for target in list(self.watch.all.values()):
            await self.watch.committed(target)

    async def go(self, seconds: float, *, step_s: float = 0.1) -> None:
        """Let time pass in small steps, with the watch's timer."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            self.watch.turn()
        await self.settle()
