"""Random graphs, outcomes, cancels, pauses, crashes and time-outs: what must hold for every run."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.engine import attempts
from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.control import fan_of, opened
from dogwatch.engine.graph import Decision, Plan, Situation, decide
from dogwatch.engine.ledger import Order, StepRow
from dogwatch.engine.spec import JobSpec, Retry, StepSpec
from dogwatch.engine.values import Json, RunState, StepState

S = StepState


class Plain(Action, frozen=True, kw_only=True):
    kind: ClassVar[str] = "plain"

    def plan(self) -> Change:
        return Change(summary="")

    async def apply(self, scene: Scene) -> Outcome:
        return Outcome()


class Over(Plain, frozen=True, kw_only=True):
    kind: ClassVar[str] = "over"
    control: ClassVar[bool] = True
    over: Json = None
    do: Action = Plain()
    parallel: int = 1
    on_error: Literal["stop", "collect"] = "stop"


@st.composite
def jobs(draw: st.DrawFn) -> JobSpec:
    count = draw(st.integers(1, 7))
    steps = []
    for number in range(count):
        earlier = [f"s{other}" for other in range(number)]
        needs = draw(st.none() | st.lists(st.sampled_from(earlier), unique=True) if earlier else st.just([]))
        action: Action = Plain()
        if draw(st.integers(0, 4)) == 0:
            action = Over(
                over=list(range(draw(st.integers(0, 3)))),
                parallel=draw(st.integers(1, 2)),
                on_error=draw(st.sampled_from(["stop", "collect"])),
            )
        steps.append(
            StepSpec(
                name=f"s{number}",
                action=action,
                needs=needs,
                when="maybe" if draw(st.integers(0, 3)) == 0 else None,
                always=draw(st.integers(0, 3)) == 0,
                allow_failure=draw(st.integers(0, 4)) == 0,
                timeout=draw(st.none() | st.just(20.0)),
                retry=Retry(attempts=draw(st.integers(1, 2)), on=draw(st.sampled_from(["transient", "any"]))),
                after_crash=draw(st.sampled_from(["retry", "fail"])),
            )
        )
    # The order in the file need not be the order of the graph.
    order = draw(st.permutations(steps)) if all(spec.needs is not None for spec in steps) else steps
    return JobSpec(
        name="job", steps=list(order), on_error=draw(st.sampled_from(["stop", "collect"])), cleanup_timeout=50.0
    )


class World:
    """Carries decisions out as an executor would, with a clock and events of its own."""

    def __init__(self, job: JobSpec, data: st.DataObject) -> None:
        self.data, self.plan = data, Plan(job)
        self.rows = {row.name: row for row in self.plan.fresh()}
        self.now_s = 1000.0
        self.order = Order()
        self.deadline_s = 1000.0 + data.draw(st.sampled_from([30.0, 1e9]), label="deadline")
        self.running: set[str] = set()
        self.cut: set[str] = set()
        self.began: list[str] = []
        self.verdict = data.draw(st.booleans(), label="maybe")

    def pick(self, *choices: Any, label: str) -> Any:
        return self.data.draw(st.sampled_from(choices), label=label)

    def decide(self) -> Decision:
        situation = Situation(run_id="r", now_s=self.now_s, order=self.order, deadline_s=self.deadline_s)
        before = dict(self.rows)
        decision = decide(self.plan, self.rows, situation, lambda spec: self.verdict)
        for name, row in decision.changed.items():
            self.allowed(before[name], row)
        self.rows.update(decision.changed)
        for name in decision.begin:
            self.begin(name)
        again = decide(self.plan, self.rows, situation, lambda spec: self.verdict)
        if not any(fan_of(self.plan.spec(self.rows[name]).action) for name in decision.begin):
            assert (again.changed, again.begin) == ({}, ()), "a decision leaves nothing to decide at the same time"
            return decision
        return self.decide()

    def allowed(self, before: StepRow, after: StepRow) -> None:
        assert not before.state.ended, f"{before.name} had ended"
        if before.state is S.RUNNING and before.name in self.running:
            raise AssertionError(f"{before.name} runs; only its own end may change it")

    def begin(self, name: str) -> None:
        row = self.rows[name]
        assert name not in self.running, f"{name} twice at once"
        assert row.state is S.RUNNING
        assert not self.order.paused or self.order.cancel or self.now_s >= self.deadline_s
        spec = self.plan.spec(row)
        if not row.of:
            assert all(self.rows[need].state.ended for need in self.plan.needs[name])
        fan = fan_of(spec.action)
        if fan is not None and not row.of:
            self.rows.update({other.name: other for other in opened(row, fan, self.rows, self.now_s)})
            return
        if row.of:
            parent = fan_of(self.plan.specs[row.of].action)
            assert parent is not None
            siblings = [other for other in self.running if self.rows[other].of == row.of]
            assert len(siblings) < parent.parallel
        self.running.add(name)
        self.began.append(name)

    def end(self, name: str, how: str) -> None:
        row = self.rows[name]
        spec = self.plan.spec(row)
        self.running.discard(name)
        if how == "good":
            self.rows[name] = attempts.succeeded(row, {}, "", self.now_s)
        elif how == "wait":
            until_s = self.now_s + 5.0 if self.pick(True, False, label="until") else None
            self.rows[name] = attempts.waiting(row, until_s=until_s, note="", memory=1)
        elif how == "cancelled":
            self.rows[name] = attempts.cancelled(row, "", self.now_s)
        else:
            failure = attempts.Failure(reason="bad", transient=how == "transient")
            self.rows[name] = attempts.failed(
                spec, row, failure, now_s=self.now_s, run_id="r", deadline_s=self.deadline_s
            )

    def crash(self) -> None:
        for name in self.running:
            self.cut.add(name)
            row = self.rows[name]
            self.rows[name] = attempts.recovered(self.plan.spec(row), row, self.now_s)
        self.running.clear()

    def event(self, decision: Decision) -> None:
        """Let something happen, or time pass."""
        what = self.pick("end", "end", "end", "crash", "cancel", "pause", "signal", "time", label="event")
        waiting = [name for name, row in self.rows.items() if row.state is S.WAITING and row.kind == "plain"]
        if what == "end" and self.running:
            name = self.pick(*sorted(self.running), label="which")
            how = "cancelled" if name in decision.cancel else None
            self.end(name, how or self.pick("good", "good", "bad", "transient", "wait", label="how"))
        elif what == "crash" and len(self.cut) < 3:
            self.crash()
        elif what == "cancel":
            self.order = Order(cancel="stop it", paused=self.order.paused)
        elif what == "pause":
            self.order = Order(cancel=self.order.cancel, paused=not self.order.paused)
        elif what == "signal" and waiting:
            name = self.pick(*waiting, label="woken")
            self.rows[name] = msgspec.structs.replace(self.rows[name], signal=(1,))
        elif what == "time":
            self.now_s = decision.wake_s or self.now_s + 1.0

    def finish(self, decision: Decision) -> None:
        """From here on everything goes well: the run must come to its end."""
        self.order = Order(cancel=self.order.cancel)
        if self.running:
            name = min(self.running)
            self.end(name, "cancelled" if name in decision.cancel else "good")
            return
        for name, row in self.rows.items():
            if row.state is S.WAITING:
                self.rows[name] = msgspec.structs.replace(row, signal=(1,))
        self.now_s = max(self.now_s, decision.wake_s or 0.0)


@settings(max_examples=400)
@given(jobs(), st.data())
def test_every_run_ends_with_every_step_in_a_final_state(job: JobSpec, data: st.DataObject) -> None:
    world = World(job, data)
    decision = world.decide()
    for _ in range(data.draw(st.integers(0, 25), label="events")):
        if decision.state is not None:
            break
        assert decision.parked is (not world.running)
        world.event(decision)
        decision = world.decide()
    for _ in range(300):
        if decision.state is not None:
            break
        world.finish(decision)
        decision = world.decide()
    assert decision.state is not None, world.rows
    assert all(row.state.ended for row in world.rows.values())
    assert not world.running
    check_outcome(world, decision)


def check_outcome(world: World, decision: Decision) -> None:
    bad = [
        row
        for row in world.rows.values()
        if not row.of
        and (row.state is S.CANCELLED or (row.state is S.FAILED and not world.plan.specs[row.name].allow_failure))
    ]
    if world.order.cancel:
        assert decision.state is RunState.CANCELLED
    else:
        assert decision.state is (RunState.FAILED if bad else RunState.SUCCEEDED), world.rows
    for spec in world.plan.job.steps:
        row = world.rows[spec.name]
        if row.state is S.SUCCEEDED and not spec.always:
            assert all(world.rows[need].state is not S.CANCELLED for need in world.plan.needs[spec.name])
        if spec.always and not (row.state is S.SKIPPED and spec.when):
            assert row.attempt > 0, f"cleanup {spec.name} was never tried: {row}"
