"""What came at one time is decided the same in whatever order it came, from signals to notices."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.values import Signal
from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide
from dogwatch.rules.escalation import Flapping, IncidentOptions, Policy, Throttle
from dogwatch.rules.incident import State
from dogwatch.rules.maintenance import Calendar
from dogwatch.rules.spec import RuleSpec, compile_rule
from dogwatch.rules.topology import Node, Topology
from dogwatch.rules.watcher import AlertEdge, Watcher

START = 1_800_000_000.0
RULES = [
    RuleSpec(name="slow", when="probe.duration_s > 0.5"),
    RuleSpec(name="mean", when='avg(probe.duration_s, "30s") > 0.4', for_=5.0),
    RuleSpec(name="two", when="probe.duration_s > 0.5", by=("team",), at_least=2),
    RuleSpec(name="half", when='avg(probe.success, "20s") < 0.6', by=("team",), at_least="50%", keep_firing=5.0),
    RuleSpec(name="turns", when="probe.duration_s > 0.9", resolve="probe.duration_s < 0.3", by=("team",)),
    RuleSpec(name="host", when="probe.duration_s > 0.5 && host.load1 > 2.0"),
    RuleSpec(name="load", when="host.load1 > 2.0", by=("zone",), at_least=2),
    RuleSpec(name="told", when='!probe.success && alert.firing["X"]'),
]
NODES = [
    Node(name="a", labels={"team": "x", "host": "h1"}),
    Node(name="b", labels={"team": "x", "host": "h2"}, depends_on=("a",)),
    Node(name="c", labels={"team": "y", "host": "h1"}, depends_on=("b",)),
    Node(name="d", labels={"team": "y"}),
]
# Of each moment: who says something, and what.
moments = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "d", "h1", "h2", "x"]), st.sampled_from([0.1, 0.6, 1.0, -1.0]), max_size=7
    ),
    max_size=25,
)


def signal(name: str, value: float, time_s: float) -> Signal:
    if name == "x":
        on = value > 0.5
        return Signal(
            source="alert", target="h1", time_s=time_s, values={"alert.firing": on, 'alert.firing["X"]': on}, labels={}
        )
    if name.startswith("h"):
        return Signal(
            source="host", target=name, time_s=time_s, values={"host.load1": abs(value) * 4}, labels={"host": name}
        )
    values: dict[str, Any] = {
        "probe.success": value > 0, "probe.status": "up" if value > 0 else "down", "probe.duration_s": abs(value),
        "probe.reason": "" if value > 0 else "refused",
    }  # fmt: skip
    labels = next(node.labels for node in NODES if node.name == name)
    return Signal(source="probe", target=name, time_s=time_s, values=values, labels=labels)


def run(steps: list[dict[str, float]], chance: random.Random | None) -> bytes:
    """Decide all of it. chance: what comes at one time comes in an order of its own, as do edges and rules."""
    specs = list(RULES)
    if chance is not None:
        chance.shuffle(specs)
    watcher = Watcher([compile_rule(spec) for spec in specs])
    for node in NODES:
        watcher.know("probe", node.name, node.labels, START)
    options = IncidentOptions(
        notify=("ops",), settle=6.0, remind=40.0, throttle=Throttle(burst=2, interval=20.0),
        flapping=Flapping(times=3, within=60.0, quiet=20.0),
    )  # fmt: skip
    setting = Setting(policy=Policy(options), topology=Topology(NODES), calendar=Calendar())
    state, found = State(), []
    for place, said in enumerate(steps):
        time_s = START + 5.0 * place
        signals = [signal(name, value, time_s + 1.0) for name, value in sorted(said.items())]
        ticked: list[Any] = list(watcher.tick(time_s))
        if chance is not None:
            chance.shuffle(signals)
            chance.shuffle(ticked)
        heard = [edge for edge in watcher.hear(signals) if isinstance(edge, AlertEdge)] if signals else []
        if chance is not None:
            chance.shuffle(heard)
        for at_s, edges in ((time_s, ticked), (time_s + 1.0, heard)):
            state, decisions = decide(setting, state, [Moment(time_s=at_s, edges=tuple(edges))])
            found.append([decisions.notes, decisions.notices])
    return msgspec.json.encode([found, sorted(state.incidents.values(), key=lambda one: one.number)])


@settings(max_examples=200, deadline=None)
@given(moments, st.randoms(use_true_random=False))
def test_no_decision_depends_on_the_order_of_equal_times(steps: list[dict[str, float]], chance: random.Random) -> None:
    assert run(steps, chance) == run(steps, None)
