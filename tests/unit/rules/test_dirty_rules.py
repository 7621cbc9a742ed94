"""Rules that are asked only when something that they read has changed say what they would say if asked each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.values import Signal
from dogwatch.rules.driver import moments
from dogwatch.rules.names import by_time
from dogwatch.rules.spec import Rule, RuleSpec, compile_rule
from dogwatch.rules.watcher import Watcher

RULES = (
    RuleSpec(name="status", when='probe.status == "down"', for_=20.0),
    RuleSpec(name="reason", when='probe.reason == "timeout"', resolve="probe.success", keep_firing=10.0),
    RuleSpec(name="mixed", when='probe.status == "down" && probe.duration_s > 0.5'),
    RuleSpec(name="group", when="!probe.success", by=("zone",), at_least=2, for_=10.0),
    RuleSpec(name="clear", when='probe.status == "down"', missing="clear"),
    RuleSpec(name="host", when='probe.status == "down" && host.load1 > 1.0'),
    RuleSpec(name="over", when='count(probe.success, "1m") > 2'),
)
_TARGETS = ("a", "b", "c")
_STEP = st.tuples(
    st.sampled_from((*_TARGETS, "host")),
    st.sampled_from(["up", "down", "paused"]),
    st.sampled_from(["", "timeout", "refused"]),
    st.sampled_from([0.1, 1.0]),
    st.sampled_from([1.0, 5.0, 30.0]),
    st.booleans(),
)


def signal(step: tuple[str, str, str, float, float, bool], time_s: float) -> Signal:
    target, status, reason, duration_s, _wait, relabelled = step
    if target == "host":
        return Signal(source="host", target="h", time_s=time_s, values={"host.load1": duration_s * 2})
    labels = {"zone": "z2" if relabelled and target == "c" else "z1", "host": "h"}
    values = {
        "probe.status": status, "probe.success": status == "up", "probe.reason": reason, "probe.duration_s": duration_s,
    }  # fmt: skip
    return Signal(source="probe", target=target, time_s=time_s, values=values, labels=labels)


MORE = (
    *RULES,
    RuleSpec(name="slow", when="probe.duration_s > 0.5", for_=10.0),
    RuleSpec(name="slower", when="probe.duration_s > 0.9", for_=3.0),
    RuleSpec(name="either", when='probe.reason in ["timeout", "refused"] || probe.duration_s >= 1.0'),
    RuleSpec(name="mean", when='avg(probe.duration_s, "1m") > 0.4', for_=5.0),
    RuleSpec(name="mean2", when='avg(probe.duration_s, "1m") > 0.8 && probe.success', missing="clear"),
    RuleSpec(name="absent", when='absent(probe.duration_s, "20s")'),
    RuleSpec(name="vague", when='count(probe.success, "1m") + changes(probe.status, "1m") > 3'),
    RuleSpec(name="ends", when="probe.duration_s > 0.5", resolve='avg(probe.duration_s, "1m") < 0.3'),
    RuleSpec(name="load", when="host.load1 > 1.0", keep_firing=10.0),
    RuleSpec(name="team", when='avg(probe.duration_s, "1m") > 0.4', by=("zone",), at_least="50%"),
)


def run(rules: Sequence[Rule], steps: Sequence[tuple[str, str, str, float, float, bool]]) -> bytes:
    watcher, time_s, found = Watcher(rules), 1_800_000_000.0, []
    for step in steps:
        time_s += step[4]
        found += list(moments(watcher, [signal(step, time_s)], time_s))
    return msgspec.json.encode([found, sorted(watcher.held.items())])


@settings(max_examples=200, deadline=None)
@given(st.lists(_STEP, max_size=40))
def test_only_what_changed_is_asked_and_nothing_is_missed(
    steps: Sequence[tuple[str, str, str, float, float, bool]],
) -> None:
    rules = [compile_rule(spec) for spec in RULES]
    assert [rule.name for rule in rules if rule.plain is not None] == ["status", "mixed", "group", "clear"]
    each_time = [msgspec.structs.replace(rule, plain=None) for rule in rules]
    assert run(rules, steps) == run(each_time, steps)


def batched(
    rules: Sequence[Rule], steps: Sequence[tuple[str, str, str, float, float, bool]], size: int, many: int
) -> bytes:
    watcher, time_s, found, waiting = Watcher(rules, many=many), 1_800_000_000.0, [], []
    for place, step in enumerate(steps):
        # Several come in one batch, some of them at one time.
        time_s += step[4] / 10
        waiting.append(signal(step, time_s))
        if place % size == 0:
            found += [(moment.time_s, _sorted(moment.edges)) for moment in moments(watcher, by_time(waiting), time_s)]
            waiting = []
    found += [(moment.time_s, _sorted(moment.edges)) for moment in moments(watcher, waiting, time_s + 60.0)]
    return msgspec.json.encode([found, sorted(watcher.held.items())])


def _sorted(edges: Sequence[Any]) -> list[Any]:
    return sorted(edges, key=lambda edge: (*edge.alert.key, edge.fired))


@settings(max_examples=200, deadline=None)
@given(st.lists(_STEP, max_size=60), st.integers(1, 20))
def test_tables_of_many_rules_miss_nothing(
    steps: Sequence[tuple[str, str, str, float, float, bool]], size: int
) -> None:
    rules = [compile_rule(spec) for spec in MORE]
    assert batched(rules, steps, size, 0) == batched(rules, steps, size, 10**9)
