"""Random storms over the desk: no cause hidden, no notice lost or doubled, flapping bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.desk_room import NODES, Room, options

from dogwatch.rules.causes import Causes
from dogwatch.rules.desk import step
from dogwatch.rules.escalation import (
    Flapping,
)
from dogwatch.rules.incident import Order

# Histories of any kind: what goes down and up, who orders what, and how long it takes.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["down", "up", "ack", "resolve", "wait"]),
        st.sampled_from([node.name for node in NODES]),
        st.sampled_from([0.0, 5.0, 20.0, 100.0, 1000.0, -500.0]),
    ),
    max_size=40,
)


def play(events: Sequence[tuple[str, str, float]]) -> Room:
    room = Room(options(remind=0.0, flapping=Flapping(times=3, within=600.0, quiet=100.0)))
    for verb, name, seconds in events:
        if verb == "down":
            room.down(name)
        elif verb == "up":
            room.up(name)
        elif verb != "wait" and room.state.incidents:
            room.feed(Order(verb=verb, actor="anna", number=max(room.state.incidents)))
        if seconds < 0:
            room.now_s += seconds
            room.feed()
        else:
            room.wait(seconds, every_s=10.0)
        _invariants(room)
    return room


def _invariants(room: Room) -> None:
    state = room.state
    held = {tracked.incident for tracked in state.alerts.values() if tracked.counts and tracked.incident}
    # Every open incident holds an alert, and no alert belongs to one that is over.
    assert held == set(state.incidents)
    # No two open incidents are about one cause.
    assert len({one.root for one in state.incidents.values()}) == len(state.incidents)


@given(EVENTS)
def test_no_cause_is_hidden_and_every_alert_is_told_of(events: list[tuple[str, str, float]]) -> None:
    room = play(events)
    room.wait(400)
    state = room.state
    counting = [one for one in state.alerts.values() if one.counts]
    causes = Causes(room.setting.topology, [one.alert for one in counting])
    for tracked in counting:
        # Once all has settled, each alert is in an open incident whose cause is wrong itself.
        incident = state.incidents[tracked.incident]
        assert incident.root == causes.root(tracked.alert)
        assert any(one.alert.group == incident.root for one in counting)
        assert incident.told == ("ops",)


@given(EVENTS)
def test_no_notice_is_lost_or_doubled(events: list[tuple[str, str, float]]) -> None:
    room = play(events)
    room.wait(1000)
    for name in ("lone", "host", "box", "shop", "pay"):
        room.up(name)
    room.wait(1000)
    assert (room.state.incidents, room.state.queue) == ({}, {})
    told: Mapping[int, list[str]] = {one.number: [] for one in room.ended}
    for notice in room.notices:
        for part in notice.parts:
            told[part.number].append(part.kind)
    assert len({notice.key for notice in room.notices}) == len(room.notices)
    for incident in room.ended:
        kinds = told[incident.number]
        # Who heard that it began hears once how it ended; who did not, hears nothing.
        assert kinds.count("opened") == (1 if incident.told else 0)
        assert kinds.count("resolved") + kinds.count("merged") == (1 if incident.told else 0)
        assert not kinds or kinds[0] == "opened"


@given(EVENTS, st.randoms())
def test_the_order_of_equal_times_does_not_matter(events: list[tuple[str, str, float]], random: object) -> None:
    names = list(dict.fromkeys(name for verb, name, _ in events if verb == "down"))
    one, two = Room(), Room()
    one.down(*names)
    two.down(*reversed(names))
    for room in (one, two):
        room.wait(100)
    assert one.state == two.state
    assert one.notices == two.notices


@given(st.lists(st.tuples(st.sampled_from([35.0, 60.0, 300.0]), st.sampled_from([5.0, 60.0, 300.0])), max_size=30))
def test_flapping_is_bounded(spells: list[tuple[float, float]]) -> None:
    """However it comes and goes: in any stretch of `within`, at most `times` incidents of an alert begin."""
    room = Room(options(remind=0.0, flapping=Flapping(times=3, within=600.0, quiet=400.0)))
    for down_s, up_s in spells:
        room.down("lone")
        room.wait(down_s)
        room.up("lone")
        room.wait(up_s)
    opened = [note.time_s for note in room.notes if note.kind == "opened"]
    for at in opened:
        assert sum(at - 600.0 < other <= at for other in opened) <= 3


@given(EVENTS)
def test_the_state_before_stays_as_it_was(events: list[tuple[str, str, float]]) -> None:
    """A step that could not be written down is made again from the same state."""
    room = play(events)
    before = room.state
    again = (step(room.setting, before, (), room.now_s + 50), step(room.setting, before, (), room.now_s + 50))
    assert again[0] == again[1]
