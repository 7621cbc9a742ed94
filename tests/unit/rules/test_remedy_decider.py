"""What is done about alerts: modes, budgets, backoff, proof, undo, freezes; services that start, are ready, live."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide
from dogwatch.rules.escalation import Escalation, IncidentOptions, Policy
from dogwatch.rules.escalation import Step as Told
from dogwatch.rules.incident import Decisions, Note, Order, State
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec, build_maintenance
from dogwatch.rules.remedy.budget import room
from dogwatch.rules.remedy.compile import Wanted, remedies_of
from dogwatch.rules.remedy.services import (
    ActionSpec,
    LivenessSpec,
    ReadinessSpec,
    ServiceSpec,
    StartupSpec,
)
from dogwatch.rules.remedy.spec import BackoffSpec, BudgetSpec, DoSpec, RemediationOptions, RemedySpec, UndoSpec
from dogwatch.rules.remedy.values import Budget, Remedies, Result, Start, Use
from dogwatch.rules.spec import DOWN_RULE, RuleSpec
from dogwatch.rules.topology import Node, Topology
from dogwatch.rules.watcher import Alert, AlertEdge, Became

START = 1_800_000_000.0
RESTART = DoSpec(action=ExecAction(run="restart"), name="restart", verify=60.0)
NODES = (Node(name="host"), Node(name="shop", depends_on=("host",)), Node(name="a"), Node(name="b"), Node(name="c"))


def rule(*do: DoSpec, **changes: Any) -> RuleSpec:
    base = {
        "name": "bad", "when": "probe.success", "do": do or (RESTART,), "mode": "auto",
        "budget": BudgetSpec(max=10, per=3600.0, at_once=10),
        "remedy": RemedySpec(backoff=BackoffSpec(base=30.0, cap=100.0, reset=600.0), cooldown=0.0),
    }  # fmt: skip
    return RuleSpec(**{**base, **changes})


class Room:
    """Drives both deciders with a clock of its own, and keeps all that was decided."""

    def __init__(
        self,
        *rules: RuleSpec,
        services: Sequence[ServiceSpec] = (),
        freeze: Sequence[MaintenanceSpec] = (),
        most: Any = "auto",
        nodes: Sequence[Node] = NODES,
    ) -> None:
        wanted = Wanted(rules=rules, services=services, options=RemediationOptions(mode=most))
        remedies: Remedies = remedies_of(wanted, lambda _host, script: ExecAction(run=script), nodes)
        options = IncidentOptions(
            notify=("ops",),
            settle=30.0,
            escalations=(Escalation(name="up", steps=(Told(after=3600.0, notify=("boss",)),)),),
        )
        self.setting = Setting(
            policy=Policy(options),
            topology=Topology(nodes),
            calendar=Calendar(),
            remedies=remedies,
            freeze=Calendar(build_maintenance(one, shared_zones()) for one in freeze),
        )
        self.state, self.now_s = State(), START
        self.out: dict[tuple[str, str], Alert] = {}
        self.notes: list[Note] = []
        self.starts: list[Start] = []
        self.every: list[Decisions] = []

    def feed(self, *inputs: Any) -> Decisions:
        orders = [one for one in inputs if isinstance(one, Order | Result)]
        edges = tuple(one for one in inputs if not isinstance(one, Order | Result))
        seen = [Moment(time_s=self.now_s, edges=edges)] if edges or not orders else []
        self.state, decisions = decide(self.setting, self.state, seen, orders, now_s=self.now_s)
        self.notes += decisions.notes
        self.starts += decisions.starts
        self.every.append(decisions)
        return decisions

    def down(self, *targets: str, name: str = "bad", **labels: str) -> None:
        edges = []
        for target in targets:
            alert = Alert(
                rule=name, group=target, targets=(target,), since_s=self.now_s, severity="error", labels=labels,
                summary=f"{target} is bad", escalation="up", notify=("ops",),
            )  # fmt: skip
            self.out[name, target] = alert
            edges.append(AlertEdge(time_s=self.now_s, fired=True, alert=alert))
        self.feed(*edges)

    def up(self, *targets: str, name: str = "bad") -> None:
        self.feed(
            *(AlertEdge(time_s=self.now_s, fired=False, alert=self.out.pop((name, target))) for target in targets)
        )

    def wait(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + 5.0)
            self.feed()

    def ended(self, *, ok: bool = True, start: int = -1, **changes: Any) -> None:
        self.feed(Result(key=self.starts[start].key, ok=ok, **{"reason": "" if ok else "exit code 1", **changes}))

    @property
    def kinds(self) -> list[str]:
        return [note.kind for note in self.notes if note.kind not in ("opened", "joined", "told", "ended", "resolved")]

    @property
    def told(self) -> list[str]:
        parts = [part for one in self.every for notice in one.notices for part in notice.parts]
        return [f"{part.kind} {','.join(part.to)}" for part in parts]


def test_it_acts_at_once_where_nothing_above_can_be_the_cause_and_the_probe_proves_it() -> None:
    room = Room(rule())
    room.down("a")
    assert [(one.number, one.step, one.job, one.attempt) for one in room.starts] == [
        (1, "restart", "remedy:bad:restart", 1)
    ]
    room.ended()
    room.wait(20)
    room.up("a")
    assert room.kinds == ["acting", "acted", "helped"]
    # It was over before people are told of anything.
    assert room.told == []
    room.wait(3600)
    assert room.state.remedy.episodes == {}


def test_what_could_have_a_cause_waits_until_it_would_have_shown() -> None:
    room = Room(rule())
    room.down("shop")
    room.wait(25)
    assert room.starts == []
    room.wait(10)
    assert len(room.starts) == 1


def test_only_the_cause_is_acted_upon() -> None:
    room = Room(rule())
    room.down("host", "shop")
    room.wait(60)
    assert [start.group for start in room.starts] == ["host"]


def test_a_plan_says_what_it_would_do_and_does_nothing() -> None:
    room = Room(rule(mode="plan"))
    room.down("a")
    room.wait(3600)
    assert room.starts == []
    (note,) = [note for note in room.notes if note.kind == "planned"]
    assert "would run restart for a" in note.text
    assert "10 of 10 in 1h" in note.text
    assert room.told[:2] == ["opened ops", "planned ops"]


def test_one_switch_turns_all_into_plans() -> None:
    room = Room(rule(), most="plan")
    room.down("a")
    room.wait(60)
    assert (room.starts, room.kinds) == ([], ["planned"])


def test_without_a_proof_the_next_step_follows_and_then_it_is_given_up_and_escalated() -> None:
    again = msgspec.structs.replace(RESTART, name="reboot")
    room = Room(rule(RESTART, again, remedy=RemedySpec(escalate=("phone",))))
    room.down("a")
    room.ended()
    room.wait(70)
    assert [start.step for start in room.starts] == ["restart", "reboot"]
    room.ended(ok=False)
    room.wait(10)
    assert room.kinds == ["acting", "acted", "failed", "acting", "failed", "gave up"]
    # Whoever is next is told before their time, and whoever is named.
    assert room.told[-1] == "spent ops,boss,phone"
    room.wait(7200)
    assert len(room.starts) == 2


def test_the_wait_between_attempts_grows_and_is_reset_when_all_was_well_for_long() -> None:
    room = Room(rule(msgspec.structs.replace(RESTART, attempts=4)))
    room.down("a")
    times = []
    for _ in range(4):
        times.append(room.now_s)
        room.ended(ok=False)
        before = len(room.starts)
        for _turn in range(100):
            if len(room.starts) > before or "gave up" in room.kinds:
                break
            room.wait(5)
    assert [round(two - one) for one, two in itertools.pairwise(times)] == [30, 60, 100]
    room.up("a")
    room.wait(50)
    room.down("a")
    # It remembers: 100 seconds from when it was well.
    assert len(room.starts) == 4
    room.wait(55)
    assert len(room.starts) == 5
    room.ended()
    room.up("a")
    room.wait(1000)
    room.down("a")
    assert len(room.starts) == 6


def test_after_a_success_it_cools_down() -> None:
    room = Room(rule(remedy=RemedySpec(cooldown=300.0, backoff=BackoffSpec(base=0.0, reset=0.0))))
    room.down("a")
    room.ended()
    room.up("a")
    room.wait(30)
    room.down("a")
    room.wait(200)
    assert len(room.starts) == 1
    assert "held" in room.kinds
    room.wait(100)
    assert len(room.starts) == 2


def test_a_budget_bounds_the_number_and_those_at_once() -> None:
    room = Room(rule(budget=BudgetSpec(max=2, per=600.0, at_once=1)))
    room.down("a", "b", "c")
    assert [start.group for start in room.starts] == ["a"]
    room.ended()
    room.up("a")
    room.wait(10)
    assert [start.group for start in room.starts] == ["a", "b"]
    room.ended()
    room.up("b")
    room.wait(300)
    assert len(room.starts) == 2
    held = [note.text for note in room.notes if note.kind == "held" and note.target == "c"]
    assert any("1 of 1 at once" in text for text in held)
    room.wait(350)
    assert [start.group for start in room.starts] == ["a", "b", "c"]


def test_a_share_of_a_group_is_at_least_one() -> None:
    nodes = [Node(name=f"w{number}", labels={"group": "web"}) for number in range(10)]
    room = Room(rule(budget=BudgetSpec(max=100, group="web", at_once="25%")), nodes=nodes)
    room.down(*(node.name for node in nodes))
    assert len(room.starts) == 2
    small = Room(rule(budget=BudgetSpec(max=100, group="web", at_once="5%")), nodes=nodes)
    small.down(*(node.name for node in nodes))
    assert len(small.starts) == 1


def test_two_remedies_of_one_group_draw_on_one_budget() -> None:
    budget = BudgetSpec(max=1, group="web")
    room = Room(rule(budget=budget), rule(name="slow", budget=budget))
    room.down("a")
    room.down("b", name="slow")
    assert len(room.starts) == 1


def test_nothing_is_done_in_a_freeze_and_what_still_is_bad_then_follows() -> None:
    freeze = MaintenanceSpec(name="xmas", from_="2027-01-15T08:00", to="2027-01-15T09:00")
    room = Room(rule(), freeze=[freeze])
    room.down("a")
    room.wait(60)
    assert (room.starts, room.kinds) == ([], ["held"])
    room.wait(3600)
    assert len(room.starts) == 1


def test_whoever_acknowledges_takes_it_over() -> None:
    room = Room(rule(msgspec.structs.replace(RESTART, attempts=3)))
    room.down("a")
    room.ended(ok=False)
    room.feed(Order(verb="ack", actor="user:anna", number=1))
    room.wait(600)
    assert len(room.starts) == 1
    assert "user:anna has taken it over" in [note.text for note in room.notes]
    room.feed(Order(verb="unack", actor="user:anna", number=1))
    room.wait(10)
    assert len(room.starts) == 2


def test_approval_is_asked_for_and_a_no_ends_it() -> None:
    room = Room(rule(mode="approve"))
    room.down("a")
    room.wait(35)
    assert (room.kinds, room.starts[0].mode) == (["asked"], "approve")
    assert "asked ops" in room.told
    room.ended(ok=False, declined=True, acted=False, reason="rejected by user:anna")
    room.wait(3600)
    assert room.kinds == ["asked", "declined"]
    assert len(room.starts) == 1


def test_an_approval_that_is_needed_no_more_is_withdrawn() -> None:
    room = Room(rule(mode="approve", budget=BudgetSpec(max=1)))
    room.down("a")
    room.wait(35)
    room.up("a")
    (cancel,) = [cancel for one in room.every for cancel in one.cancels]
    assert cancel.key == room.starts[0].key
    room.ended(ok=False, refused=True, acted=False, reason="it is well again")
    assert room.kinds == ["asked", "withdrawn"]
    # What was never done is not paid for.
    room.wait(60)
    room.down("b")
    room.wait(35)
    assert len(room.starts) == 2


def test_an_approval_without_answer_counts_as_a_step_that_failed() -> None:
    room = Room(rule(mode="approve"))
    room.down("a")
    room.wait(35)
    room.ended(ok=False, acted=False, reason="nobody answered within 30m")
    assert room.kinds == ["asked", "failed", "gave up"]


def test_what_did_not_help_is_taken_back_before_the_next_step() -> None:
    undone = msgspec.structs.replace(RESTART, undo=UndoSpec(action=ExecAction(run="back")))
    room = Room(rule(undone, msgspec.structs.replace(RESTART, name="second")))
    room.down("a")
    room.ended()
    room.wait(65)
    assert [(start.step, start.undo) for start in room.starts] == [("restart", False), ("restart", True)]
    room.ended()
    room.wait(5)
    assert [(start.step, start.undo) for start in room.starts][2:] == [("second", False)]
    assert room.kinds == ["acting", "acted", "failed", "undoing", "undone", "acting"]


def test_what_is_undone_when_all_is_well_is_undone_then() -> None:
    out = msgspec.structs.replace(
        RESTART, name="out", verify=0.0, undo=UndoSpec(action=ExecAction(run="back")), undo_when="recovered"
    )
    room = Room(rule(out))
    room.down("a")
    room.ended()
    room.wait(600)
    assert len(room.starts) == 1
    room.up("a")
    assert [(start.step, start.undo) for start in room.starts][1:] == [("out", True)]
    room.ended()
    room.wait(10)
    assert room.kinds == ["acting", "acted", "undoing", "undone"]


def test_an_incident_that_comes_and_goes_never_uses_a_key_twice() -> None:
    room = Room(rule(remedy=RemedySpec(cooldown=0.0, backoff=BackoffSpec(base=0.0, reset=0.0))))
    for _ in range(8):
        room.down("a")
        room.wait(5)
        room.ended()
        room.up("a")
        room.wait(5)
    assert room.state.last < 8, "it is held as one incident"
    assert len(room.starts) == 8
    assert len({start.key for start in room.starts}) == 8


def test_a_refused_start_is_tried_again_and_not_counted() -> None:
    room = Room(rule(budget=BudgetSpec(max=1)))
    room.down("a")
    room.ended(ok=False, refused=True, acted=False, reason="budget web: 1 of 1 in 1h are used up", retry_s=60.0)
    room.wait(55)
    assert len(room.starts) == 1
    room.wait(10)
    assert len(room.starts) == 2
    assert room.starts[0].key != room.starts[1].key


def test_the_same_inputs_give_the_same_decisions_byte_for_byte() -> None:
    def run() -> bytes:
        room = Room(rule(msgspec.structs.replace(RESTART, attempts=2), budget=BudgetSpec(max=3, at_once=2)))
        room.down("a", "b", "c")
        room.ended(start=0)
        room.ended(start=1, ok=False)
        room.wait(200)
        room.up("a", "b", "c")
        room.wait(60)
        return msgspec.json.encode([room.notes, room.starts, list(room.state.remedy.uses.items())])

    assert run() == run()


def test_a_rehearsal_takes_actions_to_end_well_and_keeps_to_the_budget() -> None:
    test = Room(rule(budget=BudgetSpec(max=2, per=600.0, at_once=1)))
    test.setting = msgspec.structs.replace(test.setting, rehearsed=True)
    test.down("a", "b", "c")
    assert [start.group for start in test.starts] == ["a", "b"]
    test.wait(70)
    # The signals do not say that it helped.
    assert test.kinds.count("failed") == 2
    test.wait(600)
    assert [start.group for start in test.starts] == ["a", "b", "c"]


# Services.


def service(**changes: Any) -> ServiceSpec:
    base = {
        "name": "shop", "unit": "shop.service", "mode": "auto",
        "startup": StartupSpec(probes=("starts",), within=120.0),
        "readiness": ReadinessSpec(
            probes=("ready",),
            out=ActionSpec(action=ExecAction(run="out")),
            back=ActionSpec(action=ExecAction(run="in")),
        ),
        "liveness": LivenessSpec(probes=("lives",)),
        "budget": BudgetSpec(max=20, at_once=5),
        "remedy": RemedySpec(cooldown=0.0, backoff=BackoffSpec(base=0.0, reset=0.0)),
    }  # fmt: skip
    return ServiceSpec(**{**base, **changes})


def became(room: Room, target: str) -> None:
    room.feed(Became(time_s=room.now_s, target=target))


def test_startup_gates_the_others() -> None:
    room = Room(services=[service()], nodes=())
    room.down("lives", "ready", name=DOWN_RULE)
    room.wait(60)
    assert room.starts == []
    assert "shop has not started yet" in [note.text for note in room.notes]
    became(room, "starts")
    room.wait(5)
    assert sorted(start.job for start in room.starts) == [
        "remedy:service:shop:liveness:restart",
        "remedy:service:shop:readiness:take-out",
    ]


def test_what_does_not_start_within_its_time_is_restarted() -> None:
    room = Room(services=[service()], nodes=())
    room.wait(5)
    room.down("starts", name=DOWN_RULE)
    room.wait(100)
    assert room.starts == []
    room.wait(30)
    assert [start.job for start in room.starts] == ["remedy:service:shop:startup:restart"]
    # It begins anew: again it has its time.
    room.ended()
    room.wait(110)
    assert len(room.starts) == 1
    room.wait(20)
    assert len(room.starts) == 2
    room.ended()
    became(room, "starts")
    room.up("starts", name=DOWN_RULE)
    # Once it has started, its startup probe means nothing any more.
    room.wait(5)
    room.down("starts", name=DOWN_RULE)
    room.wait(600)
    assert len(room.starts) == 2


def test_readiness_takes_out_and_puts_back_and_liveness_restarts_which_begins_anew() -> None:
    room = Room(services=[service()], nodes=())
    became(room, "starts")
    room.down("ready", name=DOWN_RULE)
    room.ended()
    room.up("ready", name=DOWN_RULE)
    room.ended()
    assert [(start.job.rpartition(":")[2], start.undo) for start in room.starts] == [
        ("take-out", False),
        ("undo", True),
    ]
    room.down("lives", name=DOWN_RULE)
    assert room.starts[-1].job == "remedy:service:shop:liveness:restart"
    room.ended()
    assert room.state.remedy.lives["shop"].started is False
    room.up("lives", name=DOWN_RULE)
    room.down("ready", name=DOWN_RULE)
    room.wait(30)
    assert len(room.starts) == 3
    became(room, "starts")
    room.wait(5)
    assert len(room.starts) == 4


# Budgets are never exceeded, whatever happens.

_EVENT = st.one_of(
    st.tuples(st.just("down"), st.sampled_from("abc")),
    st.tuples(st.just("up"), st.sampled_from("abc")),
    st.tuples(st.just("wait"), st.sampled_from([5.0, 20.0, 65.0, 200.0])),
    st.tuples(st.just("ok"), st.integers(0, 30)),
    st.tuples(st.just("fail"), st.integers(0, 30)),
    st.tuples(st.just("refuse"), st.integers(0, 30)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_EVENT, max_size=40), st.integers(1, 4), st.integers(1, 2))
def test_a_budget_is_never_exceeded(events: Sequence[tuple[str, Any]], most: int, at_once: int) -> None:
    steps = (msgspec.structs.replace(RESTART, attempts=3, undo=UndoSpec(action=ExecAction(run="back"))), RESTART)
    steps = (steps[0], msgspec.structs.replace(RESTART, name="second"))
    test = Room(rule(*steps, budget=BudgetSpec(max=most, per=300.0, at_once=at_once)))
    answered: set[str] = set()
    times: dict[str, float] = {}
    for kind, what in events:
        if kind == "down" and ("bad", what) not in test.out:
            test.down(what)
        elif kind == "up" and ("bad", what) in test.out:
            test.up(what)
        elif kind == "wait":
            test.wait(what)
        elif kind in ("ok", "fail", "refuse") and what < len(test.starts):
            key = test.starts[what].key
            if key not in answered:
                answered.add(key)
                test.ended(start=what, ok=kind == "ok", refused=kind == "refuse", acted=kind != "refuse")
                if kind == "refuse":
                    times.pop(key, None)
        for start in test.starts:
            if not start.undo and start.key not in answered:
                times.setdefault(start.key, start.time_s)
        assert len({start.key for start in test.starts}) == len(test.starts)
        for at in times.values():
            assert sum(at <= other < at + 300.0 for other in times.values()) <= most
        open_now = [start for start in test.starts if not start.undo and start.key not in answered]
        assert len(open_now) <= at_once
        incidents = [one for decisions in test.every for one in decisions.ended]
        assert {one.number for one in incidents} | set(test.state.incidents) == set(range(1, test.state.last + 1))


@given(st.lists(st.floats(0, 1000), max_size=20), st.integers(1, 5), st.floats(0, 1000))
def test_when_a_budget_says_to_come_back_there_is_room(times: Sequence[float], most: int, now_s: float) -> None:
    budget = Budget(scope="x", max=most, per_s=300.0, at_once=100)
    uses = [
        Use(key=str(at), time_s=time_s, until_s=time_s, open=False)
        for at, time_s in enumerate(times)
        if time_s <= now_s
    ]
    found = room(budget, uses, now_s)
    if not found.ok:
        assert room(budget, uses, now_s + found.retry_s + 0.001).ok
        assert not room(budget, uses, now_s + found.retry_s * 0.99 - 0.001).ok
