"""When what a condition says becomes an alert; rules over groups; their section."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.values import Signal
from dogwatch.rules.decider import MAX_GAP_S, Edge, Held, Truth, step
from dogwatch.rules.driver import moments
from dogwatch.rules.spec import RuleSpec, check_rules, compile_rule
from dogwatch.rules.watcher import AlertEdge, Watcher

WORDS = {"y": Truth.YES, "n": Truth.NO, "?": Truth.UNKNOWN}


def spec(**options: object) -> RuleSpec:
    return RuleSpec(name="r", when="probe.duration_s > 1", **options)  # type: ignore[arg-type]


def walk(rule: RuleSpec, words: str, *, every_s: float = 10.0) -> str:
    """Return F where an alert begins and R where one ends, a dot where nothing happens."""
    state: Held | None = None
    told = ""
    for at, word in enumerate(words):
        state, edge = step(rule, state, WORDS[word], 1000.0 + at * every_s)
        told += {Edge.NONE: ".", Edge.FIRED: "F", Edge.RESOLVED: "R"}[edge]
    return told


@pytest.mark.parametrize(
    ("options", "words", "told"),
    [
        ({}, "nyyn", ".F.R"),
        ({"for_": 20.0}, "yyyy", "..F."),
        ({"for_": 20.0}, "yynyyy", ".....F"),
        ({"for_": 20.0}, "yy?y", "...F"),
        ({"keep_firing": 15.0}, "ynnn", "F..R"),
        ({"keep_firing": 15.0}, "ynynnn", "F....R"),
        ({}, "y????", "F...."),
        ({"missing": "clear"}, "y?", "FR"),
        ({}, "????", "...."),
    ],
)
def test_histories(options: dict[str, object], words: str, told: str) -> None:
    assert walk(spec(**options), words) == told


@given(
    st.text("yn?", max_size=60),
    st.sampled_from([0.0, 10.0, 35.0]),
    st.sampled_from([0.0, 10.0, 35.0]),
    st.sampled_from(["keep", "clear"]),
)
def test_alerts_begin_and_end_by_turns(words: str, for_s: float, keep_s: float, missing: str) -> None:
    told = walk(spec(for_=for_s, keep_firing=keep_s, missing=missing), words).replace(".", "")
    assert told == ("FR" * len(told))[: len(told)]


@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_no_jump_of_the_clock_fires_early(jumps: list[float]) -> None:
    """However the clock is set, time counts at most MAX_GAP_S between two answers, and never backwards."""
    rule, now_s, state, fired = spec(for_=(len(jumps) + 1) * MAX_GAP_S), 1e9, None, False
    for jump in jumps:
        now_s += jump
        state, edge = step(rule, state, Truth.YES, now_s)
        fired |= edge is Edge.FIRED
        assert state is not None
        assert state.held_s >= 0
    assert not fired


def signal(time_s: float, target: str, duration_s: float, **labels: str) -> Signal:
    return Signal(source="probe", target=target, time_s=time_s, values={"probe.duration_s": duration_s}, labels=labels)


def told(edges: list[AlertEdge]) -> list[tuple[bool, str]]:
    return [(edge.fired, edge.alert.group) for edge in edges]


@pytest.mark.parametrize(("at_least", "wanted"), [(1, 1), (2, 2), (3, 3), ("50%", 2), ("51%", 2), ("100%", 3)])
def test_a_quorum_of_locations(at_least: int | str, wanted: int) -> None:
    rule = compile_rule(spec(by=("service",), at_least=at_least))
    watcher = Watcher([rule])
    places = ["ams", "fra", "zrh"]
    for place in places:
        assert list(watcher.take(signal(0.0, f"shop@{place}", 0.1, service="shop", location=place))) == []
    for number, place in enumerate(places, 1):
        edges = list(watcher.take(signal(10.0 * number, f"shop@{place}", 2.0, service="shop", location=place)))
        assert told(edges) == ([(True, "service=shop")] if number == wanted else [])
    for number, place in enumerate(places, 1):
        edges = list(watcher.take(signal(100.0 + number, f"shop@{place}", 0.1, service="shop", location=place)))
        assert told(edges) == ([(False, "service=shop")] if 3 - number == wanted - 1 else [])


def test_an_alert_ends_by_its_own_condition() -> None:
    rule = compile_rule(spec(resolve="probe.duration_s < 0.2"))
    watcher = Watcher([rule])
    edges = [
        (at, edge.fired)
        for at, duration_s in enumerate((0.1, 2.0, 0.5, 0.3, 0.1, 0.5))
        for edge in watcher.take(signal(float(at), "t", duration_s))
    ]
    assert edges == [(1, True), (4, False)]


def test_time_alone_makes_an_alert_on_the_grid() -> None:
    rule = compile_rule(RuleSpec(name="silent", when='absent(probe.duration_s, "30s")'))
    watcher = Watcher([rule])
    assert list(moments(watcher, [signal(100.0, "t", 1.0)], 100.0)) == []
    edges = [edge for moment in moments(watcher, [], 200.0) for edge in moment.edges]
    assert [(edge.fired, edge.time_s) for edge in edges] == [(True, 130.0)]
    later = moments(watcher, [signal(201.0, "t", 1.0)], 210.0)
    assert [edge.fired for moment in later for edge in moment.edges] == [False]


def test_thresholds_of_probes_are_a_rule() -> None:
    watcher = Watcher([])
    statuses = ["up", "down", "down", "maintenance", "down", "up", "down", "paused"]
    edges = [
        (at, edge.fired)
        for at, status in enumerate(statuses)
        for edge in watcher.take(Signal(source="probe", target="t", time_s=float(at), values={"probe.status": status}))
    ]
    assert edges == [(1, True), (5, False), (6, True), (7, False)]


def test_targets_that_are_gone_end_their_alerts() -> None:
    watcher = Watcher([compile_rule(spec())])
    for name in ("a", "b"):
        list(watcher.take(signal(0.0, name, 9.0)))
    assert told(list(watcher.forget([("probe", "b")], 1.0))) == [(False, "a")]
    assert list(watcher.out) == [("r", "b")]


def test_all_mistakes_of_a_section_at_once() -> None:
    faults = list(
        check_rules(
            [
                RuleSpec(name="a", when="probe.duraton_s > 1"),
                RuleSpec(name="a", when="host.load1 > 1", resolve="probe.duration_s < 1"),
                RuleSpec(name=" ", when="host.load1 >", by=("x", "x"), at_least="0%"),
                RuleSpec(name="b", when="host.load1 > 1", at_least=2),
                RuleSpec(name="target-down", when="host.load1 > 1"),
            ]
        )
    )
    assert [(fault.path, fault.message.split(",")[0], fault.hint) for fault in faults] == [
        ((0, "when"), "unknown name 'probe.duraton_s'", "did you mean 'probe.duration_s'?"),
        ((1, "name"), "the name 'a' is used twice", ""),
        ((1, "resolve"), "reads values of probes", ""),
        ((2, "name"), "a name must not be empty", ""),
        ((2, "when"), "expected a value", ""),
        ((2, "at_least"), "'0%' is neither a number nor a share from 0% to 100%", ""),
        ((2, "by"), "names a label twice", ""),
        ((3, "at_least"), "there is one target in each incident", "write by: [label], too"),
        ((4, "name"), "'target-down' is what the thresholds of probes are called", "take another name"),
    ]
