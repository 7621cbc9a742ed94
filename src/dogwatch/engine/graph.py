"""What happens next in a run: a pure decision from the steps as they are on disk, the orders and the time.

It reads no clock and no database: the same decider runs live, as a plan and in a backtest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from dogwatch.core.units import format_duration
from dogwatch.engine.attempts import begun, put_off, settled_late
from dogwatch.engine.control import fan_of, gathered
from dogwatch.engine.ledger import Order, StepRow
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.values import RunState, StepState
from dogwatch.errors import DogwatchError

# Whether the condition of a step holds. Raises: DogwatchError where it cannot be said.
Test = Callable[[StepSpec], bool]


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision is made from, beside the steps.

    deadline_s: of the run. stopping: the worker begins nothing any more. parallel: steps of the run at the
    same time, at most.
    """

    run_id: str
    now_s: float
    order: Order = Order()
    deadline_s: float | None = None
    stopping: bool = False
    parallel: int = 64


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now. changed: steps to write, those that begin among them. begin: their attempt starts once written.

    cancel: running steps to be ended, name → reason. state: of the run where it has ended. wake_s: when to look
    again if nothing else happens. parked: nothing runs and nothing can be done before wake_s, a signal or an order.
    """

    changed: Mapping[str, StepRow]
    begin: Sequence[str] = ()
    cancel: Mapping[str, str] = {}
    state: RunState | None = None
    reason: str = ""
    waiting_for: str = ""
    wake_s: float | None = None
    parked: bool = False


class Plan:
    """A job's definition, made ready for many decisions. needs: step → the steps it needs, in writing order."""

    def __init__(self, job: JobSpec) -> None:
        self.job = job
        self.specs: dict[str, StepSpec] = {spec.name: spec for spec in job.steps}
        self.needs: dict[str, tuple[str, ...]] = {}
        before: tuple[str, ...] = ()
        for spec in job.steps:
            self.needs[spec.name] = before if spec.needs is None else tuple(dict.fromkeys(spec.needs))
            before = (spec.name,)
        self._children: dict[str, StepSpec] = {}

    def spec(self, row: StepRow) -> StepSpec:
        """Return what the step does: its own spec, or that of a map's child made from its parent's."""
        if not row.of:
            return self.specs[row.name]
        found = self._children.get(row.name)
        if found is None:
            parent = self.specs[row.of]
            fan = fan_of(parent.action)
            if fan is None:
                raise ValueError(f"{row.of} is no map, and {row.name} is its child")
            found = msgspec.structs.replace(parent, name=row.name, action=fan.do, needs=[], when=None)
            self._children[row.name] = found
        return found

    def fresh(self) -> list[StepRow]:
        """Return the steps of a run that has not begun."""
        return [StepRow(name=spec.name, kind=spec.action.kind) for spec in self.job.steps]


def decide(plan: Plan, rows: Mapping[str, StepRow], situation: Situation, test: Test) -> Decision:
    """Return what to do now. rows: every step by name, in the order of the definition, children of maps as well."""
    return _Decider(plan, rows, situation, test).decide()


class _Decider:
    def __init__(self, plan: Plan, rows: Mapping[str, StepRow], situation: Situation, test: Test) -> None:
        self._plan, self._situation, self._test = plan, situation, test
        self._rows = dict(rows)
        self._changed: dict[str, StepRow] = {}
        self._begin: list[str] = []
        self._cancel: dict[str, str] = {}
        self._children: dict[str, list[str]] = {}
        for row in rows.values():
            if row.of:
                self._children.setdefault(row.of, []).append(row.name)
        self._busy: Counter[str] = Counter()
        for row in rows.values():
            self._count(row, 1)

    def decide(self) -> Decision:
        written: dict[str, StepRow] | None = None
        while written != self._changed:
            written = dict(self._changed)
            self._end_early()
            self._end_maps()
            self._go_on(held=self._held())
        return self._decision()

    def _held(self) -> bool:
        """Return whether nothing may begin. A run that must end is not kept from its cleanup by a pause."""
        order, deadline_s = self._situation.order, self._situation.deadline_s
        must_end = bool(order.cancel) or (deadline_s is not None and self._situation.now_s >= deadline_s)
        return self._situation.stopping or (order.paused and not must_end)

    # -- what ends before its time -----------------------------------------------------------------------------------

    def _end_early(self) -> None:
        """End what a cancel, a time-out or a failure leaves no room for."""
        why, state = self._why()
        if why:
            self._close([spec.name for spec in self._plan.job.steps if not spec.always], why, state)
        late = f"cleanup took longer than {format_duration(self._plan.job.cleanup_timeout)}"
        for name, limit_s in self._cleanup_limits().items():
            if self._situation.now_s >= limit_s:
                self._close([name], late, StepState.CANCELLED)

    def _why(self) -> tuple[str, StepState]:
        """Return why the run ends, and what becomes of steps that have not begun."""
        situation = self._situation
        if situation.order.cancel:
            return situation.order.cancel, StepState.CANCELLED
        deadline_s = situation.deadline_s
        if deadline_s is not None and situation.now_s >= deadline_s and not self._others_ended():
            return f"the run took longer than {format_duration(self._plan.job.timeout)}", StepState.CANCELLED
        if self._plan.job.on_error == "stop":
            for row in self._failures():
                return f"{row.name} failed", StepState.SKIPPED
        return "", StepState.SKIPPED

    def _failures(self) -> list[StepRow]:
        """Return the failed steps that fail the run, the first first."""
        failed = [
            row for row in self._top() if row.state is StepState.FAILED and not self._plan.specs[row.name].allow_failure
        ]
        return sorted(failed, key=lambda row: row.ended_s or 0.0)

    def _cleanup_limits(self) -> dict[str, float]:
        """Return until when cleanup steps that began may run: it counts once all other steps have ended."""
        others = [row for row in self._top() if not self._plan.specs[row.name].always]
        if not all(row.state.ended for row in others):
            return {}
        last_s = max((row.ended_s or 0.0 for row in others), default=0.0)
        return {
            row.name: max(last_s, row.started_s) + self._plan.job.cleanup_timeout
            for row in self._top()
            if self._plan.specs[row.name].always and row.started_s is not None and not row.state.ended
        }

    def _close(self, names: Sequence[str], why: str, pending: StepState) -> None:
        for name in names:
            for row in self._with_children(name):
                if self._is_open_map(row):
                    continue  # it ends with its children
                if row.state is StepState.RUNNING:
                    self._cancel.setdefault(row.name, why)
                elif not row.state.ended:
                    self._change(settled_late(row, why, pending, self._situation.now_s))

    # -- maps --------------------------------------------------------------------------------------------------------

    def _end_maps(self) -> None:
        """Stop the rest of a map after a failure where it says so, and end it once its children have."""
        for name, children in self._children.items():
            parent = self._rows[name]
            fan = fan_of(self._plan.specs[name].action)
            if not self._is_open_map(parent) or fan is None:
                continue
            failed = [child for child in children if self._rows[child].state is StepState.FAILED]
            if failed and fan.on_error == "stop":
                for child in children:
                    row = self._rows[child]
                    if row.state is StepState.RUNNING:
                        self._cancel.setdefault(child, f"{failed[0]} failed")
                    elif not row.state.ended:
                        self._change(settled_late(row, f"{failed[0]} failed", StepState.SKIPPED, self._situation.now_s))
            rows = [self._rows[child] for child in children]
            if all(row.state.ended for row in rows):
                self._change(gathered(parent, rows, self._situation.now_s))

    # -- what begins -------------------------------------------------------------------------------------------------

    def _go_on(self, *, held: bool) -> None:
        """Skip what cannot run, begin what can."""
        for name in list(self._rows):
            row = self._rows[name]
            if row.state is StepState.PENDING:
                self._consider(row, held=held)
            elif row.state is StepState.WAITING and name not in self._children:
                self._wake(row, held=held)

    def _consider(self, row: StepRow, *, held: bool) -> None:
        spec = self._plan.spec(row)
        if not row.of:
            needs = [self._rows[need] for need in self._plan.needs[row.name]]
            if not all(need.state.ended for need in needs):
                return
            bad = next((need.name for need in needs if not self._good(need)), "")
            if bad and not spec.always:
                self._change(
                    settled_late(row, f"needs {bad}, which did not succeed", StepState.SKIPPED, self._situation.now_s)
                )
                return
        # A step that never began holds the run's limit in wake_s (_wake_at), no time of its own.
        backs_off = row.attempt > 0 and row.wake_s is not None and row.wake_s > self._situation.now_s
        if held or backs_off or not self._room(row):
            return
        if row.attempt == 0 and not row.of and spec.when is not None and not self._holds(row, spec):
            return
        self._start(row)

    def _holds(self, row: StepRow, spec: StepSpec) -> bool:
        now_s = self._situation.now_s
        try:
            if self._test(spec):
                return True
            self._change(settled_late(row, f"its condition was false: {spec.when}", StepState.SKIPPED, now_s))
        except DogwatchError as error:
            self._change(settled_late(row, f"its condition cannot be decided: {error}", StepState.FAILED, now_s))
        return False

    def _wake(self, row: StepRow, *, held: bool) -> None:
        if held:
            return
        situation = self._situation
        if row.signal is None and not row.woken:
            spec = self._plan.spec(row)
            late = put_off(spec, row, situation.now_s, situation.run_id, situation.deadline_s)
            if late is not None:
                self._change(late)
                return
            if row.wake_s is None or row.wake_s > situation.now_s:
                return
        if self._room(row):
            self._start(row)

    def _start(self, row: StepRow) -> None:
        self._change(begun(row, self._situation.now_s))
        self._begin.append(row.name)
        if row.of and self._rows[row.of].state is StepState.WAITING:
            self._change(msgspec.structs.replace(self._rows[row.of], state=StepState.RUNNING, reason=""))

    def _room(self, row: StepRow) -> bool:
        if self._busy[""] >= self._situation.parallel:
            return False
        if not row.of or row.state is StepState.WAITING:
            return True
        fan = fan_of(self._plan.specs[row.of].action)
        return fan is not None and self._is_open_map(self._rows[row.of]) and self._busy[row.of] < fan.parallel

    def _count(self, row: StepRow, by: int) -> None:
        """Keep count of the steps that run, and of each map's children that run or wait."""
        if row.state is StepState.RUNNING and row.name not in self._children:
            self._busy[""] += by
        if row.of and row.state in (StepState.RUNNING, StepState.WAITING):
            self._busy[row.of] += by

    def _good(self, row: StepRow) -> bool:
        """Return whether what needs this step may begin: it succeeded, may fail, or was left out by its condition."""
        if row.state is StepState.SUCCEEDED:
            return True
        if row.state is StepState.FAILED:
            return self._plan.specs[row.name].allow_failure
        if row.state is StepState.SKIPPED:
            return all(self._good(self._rows[need]) for need in self._plan.needs[row.name])
        return False

    # -- what it comes to --------------------------------------------------------------------------------------------

    def _decision(self) -> Decision:
        if all(row.state.ended for row in self._top()):
            state, reason = self._outcome()
            return Decision(changed=self._changed, state=state, reason=reason)
        waiting = [
            row for row in self._rows.values() if row.state is StepState.WAITING and row.name not in self._children
        ]
        works = any(row.state is StepState.RUNNING and row.name not in self._children for row in self._rows.values())
        if not works:
            self._rest()
        limits = self._limits()
        if not works:
            self._wake_at(limits)
        sleeping = [row.wake_s for row in self._rows.values() if row.wake_s is not None and self._sleeps(row)]
        times = [time_s for time_s in (*limits.values(), *sleeping) if time_s > self._situation.now_s]
        return Decision(
            changed=self._changed,
            begin=tuple(self._begin),
            cancel=self._cancel,
            waiting_for="" if works or not waiting else waiting[0].reason,
            wake_s=min(times, default=None),
            parked=not works,
        )

    def _outcome(self) -> tuple[RunState, str]:
        if self._situation.order.cancel:
            return RunState.CANCELLED, self._situation.order.cancel
        for row in self._failures():
            return RunState.FAILED, f"{row.name} failed: {row.reason}" if row.reason else f"{row.name} failed"
        for row in self._top():
            if row.state is StepState.CANCELLED:
                return RunState.FAILED, row.reason
        return RunState.SUCCEEDED, ""

    def _limits(self) -> dict[str, float]:
        """Return when a limit is reached that nothing else would notice, by a step that it ends."""
        limits: dict[str, float] = {}
        for row in self._rows.values():
            if row.state is not StepState.WAITING or row.name in self._children:
                continue
            timeout_s = self._plan.spec(row).timeout
            if timeout_s is not None and row.started_s is not None:
                limits[row.name] = row.started_s + timeout_s
        for name, limit_s in self._cleanup_limits().items():
            limits[name] = min(limit_s, limits.get(name, limit_s))
        open_steps = [row.name for row in self._top() if not self._plan.specs[row.name].always and not row.state.ended]
        if self._situation.deadline_s is not None and open_steps:
            limit_s = self._situation.deadline_s
            limits[open_steps[0]] = min(limit_s, limits.get(open_steps[0], limit_s))
        return limits

    def _wake_at(self, limits: Mapping[str, float]) -> None:
        """A run that is parked is woken by its steps' times only: let them hold the limits, too."""
        for name, limit_s in limits.items():
            row = self._rows[name]
            if row.wake_s is None or row.wake_s > limit_s:
                self._change(msgspec.structs.replace(row, wake_s=limit_s))

    def _rest(self) -> None:
        """A map none of whose items runs waits, as they do: nothing of a parked run is written as running."""
        for name, children in self._children.items():
            parent = self._rows[name]
            if parent.state is StepState.RUNNING and self._is_open_map(parent):
                waiting = sum(self._rows[child].state is StepState.WAITING for child in children)
                reason = f"{waiting} of {len(children)} items wait"
                self._change(msgspec.structs.replace(parent, state=StepState.WAITING, reason=reason))

    def _sleeps(self, row: StepRow) -> bool:
        return row.state in (StepState.PENDING, StepState.WAITING)

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _top(self) -> Iterator[StepRow]:
        return (self._rows[name] for name in self._plan.specs)

    def _with_children(self, name: str) -> Iterator[StepRow]:
        yield self._rows[name]
        for child in self._children.get(name, ()):
            yield self._rows[child]

    def _is_open_map(self, row: StepRow) -> bool:
        """Return whether it is a map whose list has been filled in, and that goes on."""
        going = row.state in (StepState.RUNNING, StepState.WAITING)
        return going and row.name in self._children and row.memory is not None

    def _others_ended(self) -> bool:
        """Return whether every step that is no cleanup has ended."""
        return all(row.state.ended for row in self._top() if not self._plan.specs[row.name].always)

    def _change(self, row: StepRow) -> None:
        self._count(self._rows[row.name], -1)
        self._count(row, 1)
        self._rows[row.name] = row
        self._changed[row.name] = row
