"""From alerts to incidents and notices: causes, flapping, maintenance, silences, escalation, storms."""

from __future__ import annotations

import time

from tests.unit.rules.desk_room import START, Room, options

from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.rules.desk import explained
from dogwatch.rules.escalation import (
    Escalation,
    Flapping,
    IncidentOptions,
    OnCall,
    Rotation,
    Step,
    Throttle,
    check_incidents,
)
from dogwatch.rules.incident import Order, Silence
from dogwatch.rules.maintenance import MaintenanceSpec, build_maintenance, check_maintenance
from dogwatch.rules.topology import Node
from dogwatch.rules.watcher import Alert, AlertEdge


def test_one_outage_is_told_once_and_its_end_once() -> None:
    room = Room()
    room.down("lone")
    assert room.told == []
    room.wait(40)
    room.wait(600)
    room.up("lone")
    room.wait(600)
    assert room.told == ["#1 opened: lone is down", "#1 resolved: lone is down"]
    assert [one.state for one in room.ended] == ["resolved"]


def test_what_ends_before_it_has_settled_is_told_to_nobody() -> None:
    room = Room()
    room.down("lone")
    room.wait(20)
    room.up("lone")
    room.wait(100)
    assert (room.told, room.state.incidents) == ([], {})


def test_one_incident_names_the_cause_and_what_it_explains_in_order() -> None:
    room = Room()
    # The symptoms show before their cause does.
    for name in ("pay", "shop", "host", "box"):
        room.down(name)
        room.wait(5)
    room.wait(60)
    assert room.told == ["#1 opened: host is down; explains 3 more"]
    assert [one.alert.group for one in explained(room.state, 1)] == ["pay", "shop", "host", "box"]
    room.up("host", "box", "shop", "pay")
    assert room.told[1:] == ["#1 resolved: host is down"]


def test_a_cause_that_shows_late_takes_the_incident_of_its_symptom_in() -> None:
    room = Room()
    room.down("shop")
    room.wait(60)
    room.down("host")
    room.wait(60)
    assert room.told[0] == "#1 opened: shop is down"
    assert "#1 merged: shop is down: its cause is #2" in room.told
    assert room.open == ["host"]
    assert (room.ended[0].state, room.ended[0].into) == ("merged", 2)


def test_a_symptom_that_outlives_its_cause_is_told_by_itself() -> None:
    room = Room()
    room.down("host", "shop")
    room.wait(60)
    room.up("host")
    room.wait(20)
    assert room.open == ["host"]
    room.wait(60)
    assert room.open == ["shop"]
    assert [one.state for one in room.ended] == ["resolved"]
    assert "#2 opened: shop is down" in room.told


def test_a_circle_of_dependencies_hides_nothing() -> None:
    room = Room(nodes=[Node(name="a", depends_on=("b",)), Node(name="b", depends_on=("a",))])
    room.down("a", "b")
    room.wait(60)
    assert sorted(room.open) == ["a", "b"]


def test_flapping_is_held_and_let_go_after_a_quiet_time() -> None:
    room = Room(options(flapping=Flapping(times=4, within=3600.0, quiet=900.0)))
    for _ in range(50):
        room.down("lone")
        room.wait(40)
        room.up("lone")
        room.wait(20)
    told_of_flapping = len(room.told)
    # Three times it came and went; from the fourth on it is held.
    assert told_of_flapping <= 3 * 2 + 2
    assert room.state.incidents
    room.wait(800)
    assert room.open == ["lone"]
    room.wait(200)
    assert room.open == []
    assert len(room.told) == told_of_flapping + 1


def test_maintenance_opens_nothing_and_what_lasts_longer_is_told_after_it() -> None:
    window = MaintenanceSpec(name="patching", targets=("host",), from_="2027-01-15T08:00", to="2027-01-15T08:10")
    room = Room(windows=[window])
    room.down("host", "shop")
    room.down("lone")
    room.wait(590)
    # What depends on the host is under its maintenance, too.
    assert room.open == ["lone"]
    room.wait(20)
    assert room.open == ["lone"]
    room.wait(40)
    assert room.open == ["lone", "host"]


def test_maintenance_mutes_what_is_open() -> None:
    window = MaintenanceSpec(name="patching", targets=("lone",), from_="2027-01-15T08:05", to="2027-01-15T08:10")
    room = Room(options(remind=60.0), windows=[window])
    room.down("lone")
    room.wait(290)
    before = len(room.told)
    assert before > 2
    room.wait(300)
    assert len(room.told) - before <= 1
    room.wait(120)
    assert len(room.told) > before + 1


def test_windows_recur_in_their_time_zone_over_a_change_of_summer_time() -> None:
    spec = MaintenanceSpec(name="night", cron="0 2 * * *", duration=3600.0, time_zone="Europe/Zurich")
    window = build_maintenance(spec, shared_zones())
    # 2027-03-27 02:30 is UTC+1; on the 29th it is UTC+2.
    assert window.end(1_806_111_000.0) == 1_806_112_800.0
    assert window.end(1_806_111_000.0 + 2 * 86_400 - 3600) == 1_806_112_800.0 + 2 * 86_400 - 3600
    assert window.end(1_806_111_000.0 + 7200) is None


def test_mistakes_of_windows_are_all_told() -> None:
    specs = [
        MaintenanceSpec(name="a", cron="61 * * * *", duration=60.0),
        MaintenanceSpec(name="a", from_="22:00"),
        MaintenanceSpec(name="b", time_zone="Europe/Zurch", from_="22:00", to="23:00"),
    ]
    assert [fault.path for fault in check_maintenance(specs)] == [(0, "cron"), (1, "name"), (1,), (2, "time_zone")]


def test_a_silence_holds_notices_back_until_it_ends() -> None:
    room = Room()
    silence = Silence(silence_id="s", until_s=START + 300, targets=("lo*",), by="anna", reason="known")
    room.feed(Order(verb="silence", actor="anna", silence=silence))
    room.down("lone")
    room.wait(250)
    assert (room.open, room.told) == (["lone"], [])
    assert room.state.incidents[1].muted == "silenced by anna: known"
    room.wait(60)
    assert room.told == ["#1 opened: lone is down"]
    assert room.state.silences == {}


ESCALATION = Escalation(
    name="urgent",
    steps=(
        Step(after=0.0, notify=("ops",)),
        Step(after=600.0, notify=("on-call:first",)),
        Step(after=1200.0, notify=("boss",)),
    ),
)
ROTATION = Rotation(name="first", members=("anna", "ben"), start="2027-01-15T00:00")


def urgent(room: Room) -> AlertEdge:
    alert = Alert(
        rule="r", group="lone", targets=("lone",), since_s=room.now_s, severity="critical", summary="bad",
        escalation="urgent",
    )  # fmt: skip
    return AlertEdge(time_s=room.now_s, fired=True, alert=alert)


def heard(room: Room) -> list[tuple[str, str]]:
    return [(notice.to[0], part.kind) for notice in room.notices for part in notice.parts]


def test_nobody_acknowledges_and_the_next_is_told_and_then_all_again() -> None:
    room = Room(options(escalations=(ESCALATION,), rotations=(ROTATION,), remind=3600.0))
    room.feed(urgent(room))
    room.wait(1300)
    assert heard(room) == [("ops", "opened"), ("anna", "escalated"), ("boss", "escalated")]
    room.wait(3600)
    assert heard(room)[3:] == [("anna", "reminder"), ("boss", "reminder"), ("ops", "reminder")]


def test_an_acknowledgement_ends_escalation_and_reminders() -> None:
    room = Room(options(escalations=(ESCALATION,), rotations=(ROTATION,)))
    room.feed(urgent(room))
    room.wait(100)
    room.feed(Order(verb="ack", actor="anna", number=1))
    assert room.state.incidents[1].state == "acknowledged"
    room.wait(20_000, every_s=60.0)
    assert heard(room) == [("ops", "opened")]
    room.feed(Order(verb="unack", actor="anna", number=1))
    assert heard(room)[1][1] == "escalated"


def test_by_hand_the_next_step_is_told_now_also_while_somebody_has_it() -> None:
    room = Room(options(escalations=(ESCALATION,), rotations=(ROTATION,), remind=3600.0))
    room.feed(urgent(room))
    room.wait(100)
    first = heard(room)
    room.feed(Order(verb="escalate", actor="anna", number=1, text="I cannot reach it"))
    assert heard(room)[len(first) :] == [("anna", "escalated")]
    assert "I cannot reach it" in room.notices[-1].parts[0].text
    assert [note.actor for note in room.notes if note.kind == "escalated"] == ["anna"]
    # What was told by hand is not told again when its own time comes; the step after it comes when it would have.
    room.wait(1200)
    assert heard(room)[len(first) :] == [("anna", "escalated"), ("boss", "escalated")]
    told = heard(room)
    room.feed(Order(verb="escalate", actor="anna", number=1))
    assert heard(room) == told
    # Whoever has it keeps it: nothing follows by itself.
    other = Room(options(escalations=(ESCALATION,), rotations=(ROTATION,)))
    other.feed(urgent(other))
    other.wait(100)
    other.feed(Order(verb="ack", actor="ben", number=1))
    other.feed(Order(verb="escalate", actor="ben", number=1))
    other.wait(20_000, every_s=60.0)
    assert heard(other) == [("ops", "opened"), ("anna", "escalated")]
    assert other.state.incidents[1].state == "acknowledged"


def test_turns_on_call_change_by_the_wall() -> None:
    call = OnCall(
        Rotation(name="r", members=("a", "b"), every=86_400.0, start="2027-03-27T09:00", time_zone="Europe/Zurich")
    )
    # 09:00 is 08:00 UTC, and 07:00 UTC from the 28th on.
    first = 1_806_134_400.0
    assert [call.who(first - 1), call.who(first), call.who(first + 82_799), call.who(first + 82_800)] == [
        "b",
        "a",
        "a",
        "b",
    ]


def test_mistakes_of_the_section() -> None:
    faulty = IncidentOptions(
        escalations=(
            Escalation(name="a", steps=(Step(after=60.0, notify=("x",)), Step(notify=("y",)))),
            Escalation(name="a", steps=()),
        ),
        rotations=(
            Rotation(name="r", members=(), every=3600.0, start="soon"),
            Rotation(name="s", members=("m",), start="2027-01-01", time_zone="Mars"),
        ),
    )
    assert [fault.path for fault in check_incidents(faulty)] == [
        ("escalations", 1, "name"),
        ("escalations", 0, "steps", 1, "after"),
        ("escalations", 1, "steps"),
        ("rotations", 0, "members"),
        ("rotations", 0, "every"),
        ("rotations", 0, "start"),
        ("rotations", 1, "time_zone"),
    ]


def test_what_was_resolved_by_hand_opens_again_only_after_it_has_ended() -> None:
    room = Room()
    room.down("lone")
    room.wait(60)
    room.feed(Order(verb="resolve", actor="anna", number=1, text="replaced"))
    room.wait(600)
    room.down("lone")
    room.wait(600)
    assert room.open == []
    room.up("lone")
    room.wait(10)
    room.down("lone")
    room.wait(60)
    assert room.open == ["lone"]


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    room = Room()
    room.down("lone")
    room.now_s -= 3600
    room.wait(60)
    assert room.told == ["#1 opened: lone is down"]


def test_a_storm_is_told_in_few_notices_that_hold_everything() -> None:
    names = [f"t{number}" for number in range(10_000)]
    room = Room(options(throttle=Throttle(burst=10, interval=300.0)), nodes=[Node(name=name) for name in names])
    began = time.process_time()
    for at in range(0, len(names), 500):
        room.down(*names[at : at + 500])
        room.wait(1, every_s=1.0)
    room.wait(400)
    passed_s = time.process_time() - began
    assert len(room.notices) <= 20
    assert len(room.told) == len(set(room.told)) == 10_000
    # A bound on the growth, not on this machine: 10,000 that each look at all others take minutes.
    assert passed_s < 30
    room.up(*names)
    room.wait(400)
    assert len(room.notices) <= 40
    assert (room.state.incidents, len(room.told)) == ({}, 20_000)


def test_a_storm_below_one_cause_is_one_incident() -> None:
    names = [f"t{number}" for number in range(5_000)]
    room = Room(nodes=[Node(name="edge"), *(Node(name=name, depends_on=("edge",)) for name in names)])
    room.down(*names)
    room.down("edge")
    decisions = room.feed()
    room.wait(60)
    assert room.told == ["#1 opened: edge is down; explains 5000 more"]
    assert len(decisions.notes) < 200
    assert len(room.notes) < 200
