"""Services that start, are ready and live; budgets that are never exceeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.rules.remedy_room import RESTART, Room, rule

from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.rules.remedy.budget import room
from dogwatch.rules.remedy.services import (
    ActionSpec,
    LivenessSpec,
    ReadinessSpec,
    ServiceSpec,
    StartupSpec,
)
from dogwatch.rules.remedy.spec import BackoffSpec, BudgetSpec, RemedySpec, UndoSpec
from dogwatch.rules.remedy.values import Budget, Use
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.rules.watcher import Became


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
