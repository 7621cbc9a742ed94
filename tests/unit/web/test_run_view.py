"""The graph of steps, their timeline, and what each order would do."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dogwatch.access.actor import SYSTEM
from dogwatch.engine.values import Run, RunState, StepRun, StepState, Trigger
from dogwatch.web import run_view


def run(state: RunState = RunState.RUNNING, **more: Any) -> Run:
    return Run(run_id="r", job="j", state=state, actor=SYSTEM, trigger=Trigger(), created_s=100.0, **more)


def step(name: str, state: StepState = StepState.PENDING, needs: tuple[str, ...] = (), **more: Any) -> StepRun:
    return StepRun(run_id="r", name=name, kind=more.pop("kind", "exec"), state=state, needs=needs, **more)


@given(
    st.integers(2, 40).flatmap(
        lambda count: st.lists(st.sets(st.integers(0, count - 1)), min_size=count, max_size=count)
    )
)
def test_every_step_is_drawn_to_the_right_of_what_it_needs(needs: list[set[int]]) -> None:
    steps = [
        step(f"s{at}", needs=tuple(f"s{need}" for need in sorted(wanted) if need < at))
        for at, wanted in enumerate(needs)
    ]
    drawn = run_view.graph(steps)
    assert drawn is not None
    at = {node.step.name: node for node in drawn.nodes}
    for one in steps:
        for need in one.needs:
            assert at[one.name].x > at[need].x
    assert len({(node.x, node.y) for node in drawn.nodes}) == len(steps)
    assert all(node.x + run_view.NODE_WIDTH <= drawn.width for node in drawn.nodes)
    assert all(node.y + run_view.NODE_HEIGHT <= drawn.height for node in drawn.nodes)
    assert len(drawn.edges) == sum(len(one.needs) for one in steps)


def test_a_circle_is_drawn_all_the_same() -> None:
    assert run_view.graph([step("a", needs=("b",)), step("b", needs=("a",))]) is not None


def test_items_of_a_map_are_counted_in_its_node() -> None:
    items = [step("m[0]", StepState.SUCCEEDED), step("m[1]", StepState.RUNNING), step("m[2]")]
    drawn = run_view.graph([step("a"), step("m", StepState.RUNNING, ("a",)), *items])
    assert drawn is not None
    assert [(node.title, node.note) for node in drawn.nodes] == [("a", "exec"), ("m", "1 of 3")]


def test_one_step_or_hundreds_are_no_graph() -> None:
    assert run_view.graph([step("a")]) is None
    assert run_view.graph([step(f"s{at}") for at in range(151)]) is None


def test_the_timeline_is_shares_of_the_run() -> None:
    steps = [
        step("a", StepState.SUCCEEDED, started_s=110.0, ended_s=120.0),
        step("b", StepState.RUNNING, started_s=120.0),
        step("c"),
    ]
    bars = run_view.timeline(run(started_s=110.0), steps, 130.0)
    assert [(bar.start, bar.length) for bar in bars] == [(0.0, 0.5), (0.5, 0.5), (0.0, 0.0)]
    assert [bar.duration_s for bar in bars] == [10.0, 10.0, None]


def test_a_clock_that_jumped_back_draws_no_negative_bar() -> None:
    steps = [step("a", StepState.SUCCEEDED, started_s=90.0, ended_s=80.0)]
    (bar,) = run_view.timeline(run(started_s=110.0), steps, 70.0)
    assert bar.start == 0.0
    assert 0.0 < bar.length <= 1.0
    assert bar.duration_s == 0.0


def test_orders_fit_the_state() -> None:
    def keys(state: RunState, *steps: StepRun) -> list[str]:
        return [order.key for order in run_view.orders(run(state), steps)]

    assert keys(RunState.RUNNING, step("a", StepState.RUNNING)) == ["pause", "cancel"]
    assert keys(RunState.PAUSED, step("a")) == ["resume", "cancel"]
    assert keys(RunState.SCHEDULED, step("a")) == ["cancel"]
    assert keys(RunState.SUCCEEDED, step("a", StepState.SUCCEEDED)) == ["rerun"]
    assert keys(RunState.FAILED, step("a", StepState.SUCCEEDED), step("b", StepState.FAILED)) == [
        "rerun-failed",
        "rerun",
    ]
    assert keys(RunState.FAILED, step("b", StepState.FAILED)) == ["rerun"]
    waiting = step("ok", StepState.WAITING, kind="approve")
    assert keys(RunState.RUNNING, waiting) == ["approve-ok", "reject-ok", "pause", "cancel"]
    assert keys(RunState.RUNNING, step("w", StepState.WAITING, kind="wait")) == ["pause", "cancel"]


def test_a_cancel_says_what_it_ends_and_what_never_begins() -> None:
    steps = [step("a", StepState.RUNNING), step("b", StepState.WAITING), *(step(f"p{at}") for at in range(9))]
    cancel = run_view.orders(run(), steps)[-1]
    assert cancel.effects[0] == "Ends what runs: a."
    assert cancel.effects[1] == "Does not begin, cleanup steps excepted: b, p0, p1, p2, p3, p4 and 4 more."
