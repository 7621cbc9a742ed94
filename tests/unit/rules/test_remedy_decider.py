"""What is done about alerts: modes, budgets, backoff, proof, undo, freezes."""

from __future__ import annotations

import itertools

import msgspec
from tests.unit.rules.remedy_room import RESTART, Room, rule

from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.rules.incident import Order
from dogwatch.rules.maintenance import MaintenanceSpec
from dogwatch.rules.remedy.spec import BackoffSpec, BudgetSpec, RemedySpec, UndoSpec
from dogwatch.rules.topology import Node


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
