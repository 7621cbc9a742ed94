"""What the decider says, case by case."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
import pytest

from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.attempts import MOST_CUTS, Failure, begun, failed, recovered, share, succeeded, waiting
from dogwatch.engine.control import opened
from dogwatch.engine.graph import Decision, Plan, Situation, decide
from dogwatch.engine.ledger import Order, StepRow
from dogwatch.engine.spec import JobSpec, Retry, StepSpec
from dogwatch.engine.values import Json, RunState, StepState
from dogwatch.errors import PermanentError

S = StepState


class Nothing(Action, frozen=True, kw_only=True):
    kind: ClassVar[str] = "nothing"

    def plan(self) -> Change:
        return Change(summary="nothing")

    async def apply(self, scene: Scene) -> Outcome:
        return Outcome()


class Each(Action, frozen=True, kw_only=True):
    kind: ClassVar[str] = "each"
    control: ClassVar[bool] = True
    over: Json = None
    do: Action = Nothing()
    parallel: int = 2
    on_error: Literal["stop", "collect"] = "stop"

    def plan(self) -> Change:
        return Change(summary="each")

    async def apply(self, scene: Scene) -> Outcome:
        raise AssertionError


def step(name: str, **options: Any) -> StepSpec:
    return StepSpec(name=name, **{"action": Nothing(), **options})


class Game:
    """A run whose steps are ended by hand."""

    def __init__(self, *steps: StepSpec, **job: Any) -> None:
        self.plan = Plan(JobSpec(name="job", steps=list(steps), **job))
        self.rows = {row.name: row for row in self.plan.fresh()}
        self.situation = Situation(run_id="r", now_s=1000.0)
        self.false: set[str] = set()

    def be(self, **changes: Any) -> None:
        self.situation = msgspec.structs.replace(self.situation, **changes)

    def decide(self) -> Decision:
        decision = decide(self.plan, self.rows, self.situation, lambda spec: spec.name not in self.false)
        self.rows.update(decision.changed)
        for name in decision.begin:
            each = self.plan.spec(self.rows[name]).action
            if isinstance(each, Each):
                self.rows.update({row.name: row for row in opened(self.rows[name], each, self.rows, 1000.0)})
                return self.decide()
        return decision

    def good(self, name: str, **outputs: Json) -> None:
        self.rows[name] = succeeded(self.rows[name], outputs, "", self.situation.now_s)

    def bad(self, name: str, **how: Any) -> None:
        row = self.rows[name]
        failure = Failure(**{"reason": "exit 1", **how})
        self.rows[name] = failed(
            self.plan.spec(row), row, failure, now_s=self.situation.now_s, run_id="r", deadline_s=None
        )

    def wait(self, name: str, until_s: float | None = None) -> None:
        self.rows[name] = waiting(self.rows[name], until_s=until_s, note=f"approval of {name}", memory=7)

    def states(self) -> str:
        return " ".join(f"{name}:{row.state.value}" for name, row in self.rows.items())


def test_steps_follow_the_one_before_unless_they_say_otherwise() -> None:
    game = Game(step("a"), step("b"), step("free", needs=[]), step("c", needs=["a", "free"]))
    assert game.decide().begin == ("a", "free")
    game.good("a")
    assert game.decide().begin == ("b",)
    game.good("free")
    assert game.decide().begin == ("c",)
    game.good("b")
    assert game.decide().state is None
    game.good("c")
    assert game.decide().state is RunState.SUCCEEDED


def test_a_job_without_steps_succeeds() -> None:
    assert Game().decide().state is RunState.SUCCEEDED


def test_the_first_failure_cancels_what_runs_skips_the_rest_and_cleans_up() -> None:
    game = Game(
        step("a", needs=[]), step("b", needs=[]), step("c", needs=["b"]), step("clean", needs=["c"], always=True)
    )
    game.decide()
    game.bad("a")
    decision = game.decide()
    assert decision.cancel == {"b": "a failed"}
    assert game.rows["c"].state is S.SKIPPED
    assert decision.begin == ("clean",), "what it needs has ended"
    game.rows["b"] = msgspec.structs.replace(game.rows["b"], state=S.CANCELLED, ended_s=1001.0)
    assert game.decide().state is None
    game.good("clean")
    decision = game.decide()
    assert (decision.state, decision.reason) == (RunState.FAILED, "a failed: exit 1")


def test_collect_goes_on_with_what_does_not_depend_on_the_failure() -> None:
    game = Game(
        step("a", needs=[]), step("b", needs=["a"]), step("c", needs=["b"]), step("d", needs=[]), on_error="collect"
    )
    game.decide()
    game.bad("a")
    assert game.decide().cancel == {}
    assert game.states() == "a:failed b:skipped c:skipped d:running"
    assert game.rows["c"].reason == "needs b, which did not succeed"
    game.good("d")
    assert game.decide().state is RunState.FAILED


def test_an_allowed_failure_fails_nothing() -> None:
    game = Game(step("lint", allow_failure=True), step("build"))
    game.decide()
    game.bad("lint")
    assert game.decide().begin == ("build",)
    game.good("build")
    assert game.decide().state is RunState.SUCCEEDED


def test_a_step_left_out_by_its_condition_does_not_hold_up_the_next() -> None:
    game = Game(step("a"), step("b", when="false"), step("c"))
    game.false = {"b"}
    game.decide()
    game.good("a")
    assert game.decide().begin == ("c",)
    assert (game.rows["b"].state, game.rows["b"].reason) == (S.SKIPPED, "its condition was false: false")


def test_a_condition_that_cannot_be_decided_fails_its_step() -> None:
    game = Game(step("a", when="steps.x"))

    def test(spec: StepSpec) -> bool:
        raise PermanentError("no such key: x")

    decision = decide(game.plan, game.rows, game.situation, test)
    assert decision.state is RunState.FAILED
    assert decision.reason == "a failed: its condition cannot be decided: no such key: x"


def test_a_cancel_ends_all_but_cleanup_which_still_begins() -> None:
    game = Game(
        step("a"), step("b"), step("w", needs=[]), step("clean", needs=["b"], always=True), step("late", always=True)
    )
    game.decide()
    game.wait("w")
    game.be(order=Order(cancel="by user:ann", paused=True))
    decision = game.decide()
    assert decision.cancel == {"a": "by user:ann"}
    assert decision.begin == ("clean",), "a pause does not keep a run that must end from its cleanup"
    assert game.states() == "a:running b:cancelled w:cancelled clean:running late:pending"
    game.rows["a"] = msgspec.structs.replace(game.rows["a"], state=S.CANCELLED, ended_s=1001.0)
    game.bad("clean")
    assert game.decide().begin == ("late",)
    game.good("late")
    decision = game.decide()
    assert (decision.state, decision.reason) == (RunState.CANCELLED, "by user:ann")


def test_the_runs_time_is_over_and_cleanup_has_a_time_of_its_own() -> None:
    game = Game(step("a"), step("b"), step("clean", needs=["a"], always=True), timeout=60.0, cleanup_timeout=10.0)
    game.be(deadline_s=1060.0)
    assert game.decide().wake_s == 1060.0
    game.be(now_s=1060.0)
    assert game.decide().cancel == {"a": "the run took longer than 1m"}
    assert game.rows["b"].state is S.CANCELLED
    game.be(now_s=1062.0)
    game.rows["a"] = msgspec.structs.replace(game.rows["a"], state=S.CANCELLED, ended_s=1062.0, reason="late")
    decision = game.decide()
    assert decision.begin == ("clean",)
    assert decision.wake_s == 1072.0
    game.be(now_s=1072.0)
    assert game.decide().cancel == {"clean": "cleanup took longer than 10s"}
    game.rows["clean"] = msgspec.structs.replace(game.rows["clean"], state=S.CANCELLED, ended_s=1072.0)
    decision = game.decide()
    assert (decision.state, decision.reason) == (RunState.FAILED, "late")


def test_a_run_that_succeeds_before_its_deadline_is_not_undone_by_it() -> None:
    game = Game(step("a"), step("clean", always=True))
    game.be(deadline_s=1060.0)
    game.decide()
    game.good("a")
    game.decide()
    game.be(now_s=1100.0)
    game.good("clean")
    assert game.decide().state is RunState.SUCCEEDED


def test_paused_begins_nothing_and_what_runs_ends_by_itself() -> None:
    game = Game(step("a"), step("b"))
    game.decide()
    game.be(order=Order(paused=True))
    assert (game.decide().cancel, game.decide().parked) == ({}, False)
    game.good("a")
    decision = game.decide()
    assert (decision.begin, decision.parked, decision.state) == ((), True, None)
    game.be(order=Order())
    assert game.decide().begin == ("b",)


def test_a_worker_that_stops_begins_nothing() -> None:
    game = Game(step("a"))
    game.be(stopping=True)
    assert game.decide().begin == ()


def test_a_retry_waits_its_full_jitter_and_what_was_asked_for() -> None:
    game = Game(step("a", retry=Retry(attempts=3, base=10.0, cap=60.0)))
    game.decide()
    game.bad("a", retry_after_s=100.0)
    row = game.rows["a"]
    assert row.state is S.PENDING
    assert row.wake_s == 1000.0 + 100.0 + 10.0 * share("r", "a", 1)
    decision = game.decide()
    assert (decision.begin, decision.wake_s, decision.parked) == ((), row.wake_s, True)
    game.be(now_s=row.wake_s)
    assert game.decide().begin == ("a",)
    assert game.rows["a"].attempt == 2


def test_no_retry_after_the_last_attempt_nor_of_what_is_not_transient() -> None:
    game = Game(step("a", retry=Retry(attempts=3, on="transient")))
    game.decide()
    game.bad("a")
    assert game.rows["a"].state is S.FAILED
    game = Game(step("a", retry=Retry(attempts=2, on="transient")))
    game.decide()
    game.bad("a", transient=True)
    game.be(now_s=2000.0)
    game.decide()
    game.bad("a", transient=True)
    assert game.rows["a"].state is S.FAILED


def test_a_step_that_waits_for_its_retry_has_failed_when_the_run_stops() -> None:
    game = Game(step("a", needs=[], retry=Retry(attempts=3)), step("b", needs=[]))
    game.decide()
    game.bad("a", reason="first")
    game.bad("b")
    assert game.decide().state is RunState.FAILED
    assert (game.rows["a"].state, game.rows["a"].reason) == (S.FAILED, "first")


def test_a_wait_is_woken_by_a_signal_or_its_time_and_goes_on_in_the_same_attempt() -> None:
    game = Game(step("a"))
    game.decide()
    game.wait("a")
    decision = game.decide()
    assert (decision.parked, decision.waiting_for, decision.wake_s) == (True, "approval of a", None)
    game.rows["a"] = msgspec.structs.replace(game.rows["a"], signal=("yes",))
    assert game.decide().begin == ("a",)
    row = game.rows["a"]
    assert (row.attempt, row.memory, row.signal, row.taken, row.woken) == (1, 7, None, ("yes",), True)
    game.wait("a", until_s=1005.0)
    assert game.decide().begin == ()
    game.be(now_s=1005.0)
    assert game.decide().begin == ("a",)
    assert game.rows["a"].attempt == 1


def test_an_attempt_cut_after_it_was_woken_keeps_what_woke_it() -> None:
    game = Game(step("a"))
    game.decide()
    game.wait("a")
    game.rows["a"] = msgspec.structs.replace(game.rows["a"], signal=("yes",))
    game.decide()
    game.rows["a"] = recovered(game.plan.specs["a"], game.rows["a"], 1000.0)
    assert game.decide().begin == ("a",)
    assert (game.rows["a"].taken, game.rows["a"].memory) == (("yes",), 7)


def test_a_waiting_attempt_has_a_time_out_as_well() -> None:
    game = Game(step("a", timeout=30.0), step("b", needs=[]))
    game.decide()
    game.wait("a")
    game.wait("b")
    decision = game.decide()
    assert decision.wake_s == 1030.0
    assert decision.changed["a"].wake_s == 1030.0, "it is parked, and only a step's time wakes it"
    assert game.rows["b"].wake_s is None, "b would take it for its own time"
    game.be(now_s=1030.0)
    assert game.decide().state is RunState.FAILED
    assert (game.rows["a"].state, game.rows["a"].reason) == (S.FAILED, "took longer than 30s")
    assert game.rows["b"].state is S.CANCELLED


def test_the_deadline_of_the_run_wakes_a_parked_run() -> None:
    game = Game(step("a"), step("b"))
    game.be(deadline_s=1060.0)
    game.decide()
    game.wait("a")
    assert game.decide().changed["a"].wake_s == 1060.0
    game.be(now_s=1060.0)
    decision = game.decide()
    assert (decision.state, decision.begin) == (RunState.FAILED, ())


def test_a_limit_held_by_a_step_that_never_began_does_not_hold_it_up() -> None:
    game = Game(step("clean", needs=[], always=True), step("a"))
    game.be(deadline_s=1060.0)
    game.decide()
    game.wait("clean")
    assert game.decide().changed["a"].wake_s == 1060.0
    game.good("clean")
    assert game.decide().begin == ("a",)


@pytest.mark.parametrize("after_crash", ["retry", "fail"])
def test_a_cut_attempt_is_retried_or_failed_as_the_step_says(after_crash: Literal["retry", "fail"]) -> None:
    spec = step("a", after_crash=after_crash)
    row = begun(StepRow(name="a", kind="nothing"), 1000.0)
    row = recovered(spec, row, 1001.0)
    assert row.cut
    assert row.state is (S.PENDING if after_crash == "retry" else S.FAILED)


def test_what_kills_its_worker_each_time_ends_somewhere() -> None:
    spec, row = step("a"), StepRow(name="a", kind="nothing")
    times = 0
    while row.state is S.PENDING:
        times += 1
        row = recovered(spec, begun(row, 1000.0), 1001.0)
    assert (times, row.attempt) == (1 + MOST_CUTS, 1)


def test_a_map_does_each_item_so_many_at_a_time_and_gathers_their_outputs_in_order() -> None:
    game = Game(step("m", action=Each(over=["x", "y", "z"])), step("after"))
    assert set(game.decide().begin) == {"m[0]", "m[1]"}
    game.good("m[1]", n=1)
    assert game.decide().begin == ("m[2]",)
    game.good("m[2]", n=2)
    assert game.decide().begin == ()
    game.good("m[0]", n=0)
    assert game.decide().begin == ("after",)
    assert game.rows["m"].outputs == {"items": [{"n": 0}, {"n": 1}, {"n": 2}]}


@pytest.mark.parametrize(("on_error", "rest"), [("stop", S.SKIPPED), ("collect", S.RUNNING)])
def test_a_maps_own_rule_after_a_failure(on_error: Literal["stop", "collect"], rest: StepState) -> None:
    game = Game(step("m", action=Each(over=[1, 2, 3], on_error=on_error)))
    game.decide()
    game.bad("m[0]")
    decision = game.decide()
    assert (decision.cancel == {"m[1]": "m[0] failed"}) is (on_error == "stop")
    assert game.rows["m[2]"].state is rest
    game.good("m[1]")
    if on_error == "collect":
        game.decide()
        game.good("m[2]")
    decision = game.decide()
    assert decision.state is RunState.FAILED
    assert decision.reason == "m failed: m[0] failed: exit 1 (1 of 3)"


def test_a_parked_map_waits_as_its_items_do_and_runs_again_with_one_of_them() -> None:
    game = Game(step("m", action=Each(over=[1, 2, 3])))
    game.decide()
    game.wait("m[0]")
    game.wait("m[1]")
    decision = game.decide()
    assert (decision.parked, decision.waiting_for) == (True, "approval of m[0]")
    assert (game.rows["m"].state, game.rows["m"].reason) == (S.WAITING, "2 of 3 items wait")
    game.rows["m[1]"] = msgspec.structs.replace(game.rows["m[1]"], signal=("yes",))
    assert game.decide().begin == ("m[1]",)
    assert game.rows["m"].state is S.RUNNING
    game.wait("m[1]")
    game.decide()
    game.be(order=Order(cancel="enough"))
    assert game.decide().state is RunState.CANCELLED
    assert game.rows["m"].state is S.CANCELLED


def test_items_that_succeeded_before_a_rerun_are_not_repeated() -> None:
    game = Game(step("m", action=Each(over=["x", "y"])))
    done = StepRow(name="m[0]", kind="nothing", of="m", item="x", state=S.SUCCEEDED, outputs={"n": 0})
    gone = StepRow(name="m[2]", kind="nothing", of="m", index=2, item="z", state=S.SUCCEEDED)
    game.rows |= {"m[0]": done, "m[2]": gone}
    assert game.decide().begin == ("m[1]",)
    game.good("m[1]", n=1)
    assert game.decide().state is RunState.SUCCEEDED
    assert game.rows["m"].outputs == {"items": [{"n": 0}, {"n": 1}]}


def test_a_map_over_nothing_and_over_no_list() -> None:
    parent = begun(StepRow(name="m", kind="each"), 1.0)
    (row,) = opened(parent, Each(over=[]), {}, 2.0)
    assert (row.state, row.outputs) == (S.SUCCEEDED, {"items": []})
    with pytest.raises(PermanentError, match="m maps over string, not a list"):
        opened(parent, Each(over="abc"), {}, 2.0)


def test_only_so_many_steps_at_a_time() -> None:
    game = Game(*(step(f"s{number}", needs=[]) for number in range(5)))
    game.be(parallel=2)
    assert game.decide().begin == ("s0", "s1")
    game.good("s0")
    assert game.decide().begin == ("s2",)
