"""One watched target: its specification, what is remembered of it, and what an attempt's result means for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dogwatch.core.values import Status, Transition
from dogwatch.expressions.conditions import ConditionFailure, compile_condition
from dogwatch.probes.lane import Lane
from dogwatch.probes.metrics import named_numbers
from dogwatch.probes.probe import Attempt, Evidence, Phases, Probe, ProbeEnv, ProbeResult
from dogwatch.probes.schedule import Due
from dogwatch.probes.spec import COMMON_VARIABLES, ProbeSpec, fingerprint, variables
from dogwatch.probes.view import TargetView
from dogwatch.rules.thresholds import Observation, Policy, Seen, State, decode, encode, is_steady, step
from dogwatch.store.protocol import Failure, ResultRow, TargetState

_NO_PHASES = Phases()
_PLAIN = (bool, int, float, str)
_SHOWN_CHARS = 500
_MESSAGE_CHARS = 1000
# What is the same in the same answer, whenever it comes.
TIMELESS = frozenset({"status", "body", "json", "http_version", "content_length", "body_bytes"})
# As expectations name them, in the order of Phases.
PHASE_NAMES = ("resolve", "connect", "tls", "first_byte", "transfer")


class Rules:
    """A specification's conditions, compiled.

    wants: what attempts must provide. common: which of the variables that the watch provides are read. heavy: values
    that may be too large to be kept with the target.
    """

    __slots__ = ("common", "degraded", "expect", "heavy", "plain", "policy", "timeless", "wants")

    def __init__(self, spec: ProbeSpec) -> None:
        check = spec.check
        known = variables(check)
        self.expect = compile_condition(check.expect, known) if check.expect else None
        self.degraded = compile_condition(check.degraded_if, known) if check.degraded_if else None
        read: frozenset[str] = frozenset().union(*(rule.names for rule in (self.expect, self.degraded) if rule))
        self.common = frozenset(name for name in COMMON_VARIABLES if name in read and name not in check.variables)
        self.wants = read - self.common
        plain = ("int", "double", "bool")
        heavy = [name for name, kind in known.items() if kind not in plain and (name in self.wants or kind != "string")]
        self.heavy = tuple(heavy) if any(known[name] not in plain for name in self.wants) else ()
        self.policy: Policy = spec.policy
        self.timeless = self.wants <= TIMELESS and not self.common
        # Whether an expectation on the kind's own values is all there is to judge.
        self.plain = self.degraded is None and not self.common


class Target(Due):
    """What the watch knows of one target. Owned by the event loop's thread.

    running: an attempt is under way, waiting retries included. tries: of this attempt so far. waiters: who wants the
    result of the attempt under way. commit: the newest transition on its way to disk. gone: no longer configured;
    what still arrives for it is dropped. settle_s: when its second attempt is due, where the first came early.
    """

    __slots__ = (
        "_easy",
        "_last",
        "_looked_at",
        "_passed",
        "attempt",
        "cancel",
        "check",
        "commit",
        "config_paused",
        "every_s",
        "failed",
        "fingerprint",
        "flying",
        "gone",
        "jitter_s",
        "labels_text",
        "lane",
        "laned",
        "last_lateness_s",
        "last_success",
        "last_time_s",
        "memory",
        "observed_s",
        "on_done",
        "queued",
        "reasons",
        "rules",
        "running",
        "saved",
        "saved_s",
        "settle_s",
        "skipped",
        "spec",
        "spread_s",
        "started_s",
        "state",
        "succeeded",
        "tries",
        "waiters",
    )  # fmt: skip

    def __init__(self, spec: ProbeSpec, env: ProbeEnv, *, now_s: float) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {}
        self.state = State(since_s=now_s)
        self.fingerprint = fingerprint(spec)
        self.settle_s: float | None = None
        self.jitter_s = 0.0
        self.running = False
        self.queued = False
        self.gone = False
        self.config_paused = False
        self.tries = 0
        self.started_s = 0.0
        self.observed_s: float | None = None
        self.cancel: Callable[[], None] | None = None
        self.on_done: Callable[[ProbeResult], None] | None = None
        self.waiters: list[asyncio.Future[ProbeResult]] = []
        self.commit: asyncio.Task[None] | None = None
        self.saved: State | None = None
        self.saved_s = 0.0
        # The last result; while it is still the lane's, None, and made when somebody looks.
        self._last: ProbeResult | None = None
        # The lane of this attempt, once asked for; and the one whose attempt is under way.
        self.lane: Lane | None = None
        self.laned: Attempt | None = None
        self.flying: Lane | None = None
        self.last_time_s: float | None = None
        self.last_success = False
        self.last_lateness_s = 0.0
        self.succeeded = self.failed = self.skipped = 0
        self.reasons: dict[str, int] = {}
        self.labels_text: Any = None
        self._easy = False
        self.adopt(spec, Rules(spec), env)

    def adopt(self, spec: ProbeSpec, rules: Rules, env: ProbeEnv) -> None:
        """Take over a specification of the same identity; everything remembered stays."""
        self.spec = spec
        # Of the specification, for those who ask at every attempt.
        self.every_s, self.spread_s = spec.every, spec.jitter
        self.check: Probe = spec.check
        self.rules = rules
        self.labels_text = None
        self._looked_at: State | None = None
        # The answer that met the expectation last: whatever is the same meets it as well.
        self._passed: object = None
        self.attempt = Attempt(target=spec.name, timeout_s=spec.timeout, env=env, wants=rules.wants, memory=self.memory)

    @property
    def last_result(self) -> ProbeResult | None:
        if self._last is None and self.last_time_s is not None and self.lane is not None:
            self._last = self._kept(self.lane.result())
        return self._last

    def hold(self) -> None:
        """Keep the last result here, whatever becomes of the lane that told it."""
        self._last = self.last_result

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def status(self) -> Status:
        return self.state.status

    def restore(self, stored: TargetState) -> None:
        """Take over what a store kept. Of another identity only a pause by hand is: it was meant for the name."""
        state = decode(stored.decider) if stored.fingerprint == self.fingerprint else None
        if state is None:
            self.state = msgspec.structs.replace(self.state, paused=stored.paused)
            return
        self.state = self.saved = state
        self.config_paused = state.paused and not stored.paused

    def stored(self) -> TargetState:
        """Return what must survive a restart. paused: by hand; a pause by the configuration ends with it."""
        return TargetState(
            target=self.name,
            status=self.state.status,
            since_s=self.state.since_s,
            fingerprint=self.fingerprint,
            decider=encode(self.state),
            paused=self.state.paused and not self.config_paused,
        )

    def passes(self, lane: Lane) -> bool:
        """Return whether an attempt that ended well is one more like all before: nothing but its figures to be kept."""
        if self.state is not self._looked_at:
            self._look()
        if not (self._easy and lane.small) or self.waiters:
            return False
        rules = self.rules
        if rules.timeless and lane.answer is self._passed:
            return True
        try:
            if rules.expect is None or rules.expect.test(lane.values()):
                self._passed = lane.answer
                return True
        except ConditionFailure:
            pass  # whoever judges it in full says why
        return False

    def _look(self) -> None:
        """See whether one more quick success would change nothing in this state; states are never changed in place."""
        rules, state = self.rules, self.state
        self._looked_at = state
        self._easy = rules.plain and state.status is Status.UP and is_steady(rules.policy, state)

    def note(self, now_s: float, monotonic_s: float) -> None:
        """Count an attempt that `passes`."""
        self.observed_s = monotonic_s
        self.succeeded += 1
        self.last_success = True
        self.last_time_s = now_s
        self._last = None

    def judge(self, result: ProbeResult) -> tuple[ProbeResult, bool]:
        """Return the result with the expectation applied, and whether it is degraded."""
        rules = self.rules
        expect = rules.expect
        if not result.success or (expect is None and rules.degraded is None):
            return result, False
        values = result.values if not rules.common else _with_common(result)
        if expect is not None:
            try:
                met, why = expect.test(values), ""
            except ConditionFailure as failure:
                met, why = False, str(failure)
            if not met:
                why = why or expect.explain(values) or "the expectation was false"
                return msgspec.structs.replace(result, success=False, reason="expectation", message=why), False
        if rules.degraded is None:
            return result, False
        try:
            if not rules.degraded.test(values):
                return result, False
            return msgspec.structs.replace(result, message=rules.degraded.holds(values)), True
        except ConditionFailure as failure:
            # It answered as it should; that the slow condition cannot be decided is shown, but is not the target's.
            return msgspec.structs.replace(result, message=str(failure)), False

    def observe(self, seen: Seen, *, now_s: float, monotonic_s: float, why: str = "") -> Transition | None:
        """Let the decider see one thing; return the transition, if there was one."""
        elapsed_s = 0.0 if self.observed_s is None else monotonic_s - self.observed_s
        self.observed_s = monotonic_s
        if seen is Seen.GOOD and is_steady(self.rules.policy, self.state):
            return None
        observation = Observation(self.spec.name, seen, elapsed_s, why)
        self.state, transition = step(self.rules.policy, self.state, observation, now_s)
        return transition

    def count(self, result: ProbeResult, now_s: float) -> None:
        """Count a judged result, and remember it as the target's last."""
        if result.success:
            self.succeeded += 1
        else:
            self.failed += 1
            self.reasons[result.reason] = self.reasons.get(result.reason, 0) + 1
        self.show(result, now_s)

    def show(self, result: ProbeResult, now_s: float) -> None:
        """Remember a result as the target's last, without counting it."""
        self.last_success = result.success
        self.last_time_s = now_s
        self._last = self._kept(result)

    def _kept(self, result: ProbeResult) -> ProbeResult:
        """Return a result as it stays with the target."""
        # The evidence holds on to the whole answer, and so may the values.
        values = result.values
        heavy = self.rules.heavy
        if heavy:
            values = {**values}
            for name in heavy:
                if name in values and not _is_light(values[name]):
                    numbers = named_numbers(values[name]) if name in self.check.metrics else ()
                    if numbers:
                        values[name] = dict(numbers)
                    else:
                        del values[name]
        if heavy or result.evidence is not None:
            # Written out: a third of what msgspec.structs.replace costs, and this is done for every attempt.
            result = ProbeResult(
                success=result.success,
                duration_s=result.duration_s,
                reason=result.reason,
                message=result.message,
                phases=result.phases,
                values=values,
            )
        return result

    def row(self, result: ProbeResult, now_s: float) -> ResultRow:
        phases = result.phases or _NO_PHASES
        return ResultRow(
            self.spec.name,
            now_s,
            result.success,
            int(self.state.status),
            result.duration_s,
            phases.resolve_s,
            phases.connect_s,
            phases.tls_s,
            phases.first_byte_s,
            phases.transfer_s,
            result.reason,
        )

    def failure(self, result: ProbeResult, now_s: float) -> Failure:
        """Return why an attempt failed, with bounded evidence."""
        evidence = result.evidence() if result.evidence is not None else Evidence()
        limit = self.spec.keep_body
        body, truncated = evidence.body, evidence.truncated
        if len(body.encode(errors="replace")) > limit:
            body, truncated = body.encode(errors="replace")[:limit].decode(errors="ignore"), True
        return Failure(
            target=self.name,
            time_s=now_s,
            reason=result.reason,
            message=result.message[:_MESSAGE_CHARS],
            headers=evidence.headers,
            body=body,
            truncated=truncated,
        )

    def view(self, schedule_s: float) -> TargetView:
        """Return the target as it is now. schedule_s: the time of the schedule."""
        last, spec, state = self.last_result, self.spec, self.state
        return TargetView(
            name=spec.name,
            kind=self.check.kind,
            address=self.check.address(),
            group=spec.group,
            labels=spec.labels,
            status=state.status.word,
            since_s=state.since_s,
            every_s=spec.every,
            timeout_s=spec.timeout,
            last_time_s=self.last_time_s,
            last_success=self.last_success if last else None,
            last_duration_s=last.duration_s if last else None,
            last_phases=last.phases if last else None,
            last_reason=last.reason if last else "",
            last_message=last.message if last else "",
            consecutive_failures=state.bad,
            lateness_s=self.last_lateness_s,
            next_s=max(0.0, self.due_s - schedule_s) if self.planned else None,
            depends_on=spec.depends_on,
            values=light(last.values) if last else {},
        )


def _with_common(result: ProbeResult) -> dict[str, Any]:
    return {
        **result.values,
        "duration_s": result.duration_s,
        "phases": dict(zip(PHASE_NAMES, msgspec.structs.astuple(result.phases or _NO_PHASES), strict=True)),
    }


def light(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are small enough to keep and show."""
    return {name: value for name, value in values.items() if _is_light(value)}


def _is_light(value: Any) -> bool:
    return type(value) in _PLAIN and not (type(value) is str and len(value) > _SHOWN_CHARS)


def close_memory(memory: dict[str, Any]) -> None:
    """Release what a target's attempts kept: connections."""
    for kept in memory.values():
        close = getattr(kept, "close", None)
        if callable(close):
            close()
    memory.clear()
