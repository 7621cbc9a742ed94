"""Columns against signal by signal: the same edges, the same incidents, the same notices, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.values import Status, Transition
from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide
from dogwatch.rules.escalation import Escalation, Flapping, IncidentOptions, Policy, Step, Throttle
from dogwatch.rules.incident import State
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec, build_maintenance
from dogwatch.rules.names import by_time, probe_signal, transition_signal
from dogwatch.rules.rehearsal.course import Chunk
from dogwatch.rules.rehearsal.desk import Kept
from dogwatch.rules.rehearsal.run import Run, chunks
from dogwatch.rules.spec import Rule, RuleSpec, compile_rule
from dogwatch.rules.topology import Node, Topology
from dogwatch.rules.watcher import TICK_S, AlertEdge, Watcher
from dogwatch.store.columns import ResultColumns, milliseconds
from dogwatch.store.protocol import ResultRow
from dogwatch.store.raw import RawResults

START = 1_800_000_000.0

CONDITIONS = [
    "probe.duration_s > 0.5",
    "probe.duration_s > 0.5 && probe.success",
    "!probe.success || probe.duration_s >= 1.0",
    'probe.status == "down"',
    'probe.status in ["down", "degraded"] && probe.reason != ""',
    'probe.reason.startsWith("time")',
    'probe.reason.matches("^t.*t$") ? probe.success == false : probe.connect_s > 0.2',
    "probe.duration_s - probe.connect_s > 0.4",
    "probe.duration_s / probe.connect_s > 3.0",
    'avg(probe.duration_s, "1m") > 0.5',
    'avg(probe.success, "2m") < 0.75',
    'min(probe.duration_s, "30s") > 0.25',
    'max(probe.duration_s, "90s") > 0.9 && probe.success',
    'sum(probe.duration_s, "1m") > 2.0',
    'count(probe.success, "1m") < 3',
    'rate(probe.duration_s, "2m") > 0.01',
    'changes(probe.status, "2m") > 2',
    'changes(probe.reason, "3m") >= 2 || probe.duration_s > 1.1',
    'absent(probe.success, "45s")',
    'quantile(0.9, probe.duration_s, "2m") > 0.8',
    'quantile(0.5, probe.duration_s, "1m") <= 0.3 && !absent(probe.success, "1m")',
    'avg(probe.duration_s, "1m") > 0.25 * max(probe.duration_s, "5m") + 0.3',
]

rules = st.lists(
    st.fixed_dictionaries(
        {
            "when": st.sampled_from(CONDITIONS),
            "for_": st.sampled_from([0.0, 0.0, 10.0, 30.0, 120.0]),
            "resolve": st.sampled_from([None, None, "probe.duration_s < 0.2", 'avg(probe.duration_s, "1m") < 0.3']),
            "keep_firing": st.sampled_from([0.0, 0.0, 20.0]),
            "missing": st.sampled_from(["keep", "clear"]),
            "by": st.sampled_from([(), (), (), ("team",)]),
            "at_least": st.sampled_from([1, 2, "50%"]),
            "severity": st.sampled_from(["warning", "critical"]),
        }
    ),
    min_size=1,
    max_size=3,
)
# Seconds to the next result, its duration in hundredths, how it ended.
steps = st.lists(
    st.tuples(
        st.sampled_from([5.0, 5.0, 7.5, 15.0, 15.003, 0.0, 61.0, 400.0]),
        st.integers(1, 130),
        st.sampled_from(["up", "up", "up", "degraded", "down", "timeout"]),
        st.sampled_from(["", "", "", "", "", "", "paused", "maintenance"]),
    ),
    max_size=40,
)
histories = st.tuples(steps, steps, steps)


def rows_of(target: str, history: Any, phase: float) -> tuple[list[ResultRow], list[Transition]]:
    rows, transitions = [], []
    time_s, before = START + phase, Status.PENDING
    for wait_s, hundredths, status, quiet in history:
        time_s = round(time_s + wait_s, 3)
        word = "down" if status == "timeout" else status
        ok = word != "down"
        after = Status[word.upper()]
        rows.append(
            ResultRow(
                target, time_s, ok, int(after), hundredths / 100, connect_s=hundredths % 30 / 100,
                reason="" if ok else ("timeout" if status == "timeout" else "refused"),
            )
        )  # fmt: skip
        if quiet:
            transitions.append(
                Transition(target=target, time_s=time_s + 1.25, before=before, after=Status[quiet.upper()])
            )
        before = after
    return rows, transitions


def compiled(found: Sequence[Any]) -> list[Rule]:
    out = []
    for at, one in enumerate(found):
        fields = dict(one)
        if not fields["by"]:
            fields["at_least"] = 1
        out.append(compile_rule(RuleSpec(name=f"r{at}", **fields)))
    return out


NODES = [
    Node(name="a", labels={"team": "x"}),
    Node(name="b", labels={"team": "x"}, depends_on=("a",)),
    Node(name="c", labels={"team": "y"}),
]


def setting(*windows: MaintenanceSpec) -> Setting:
    options = IncidentOptions(
        notify=("ops",),
        settle=12.0,
        remind=200.0,
        throttle=Throttle(burst=2, interval=60.0),
        flapping=Flapping(times=3, within=300.0, quiet=100.0),
        escalations=(Escalation(name="up", steps=(Step(notify=("a",)), Step(after=90.0, notify=("b",)))),),
    )
    zones = shared_zones()
    return Setting(
        policy=Policy(options),
        topology=Topology(NODES),
        calendar=Calendar([build_maintenance(one, zones) for one in windows]),
    )


def plainly(
    wanted: Setting, rules: Sequence[Rule], raws: Sequence[RawResults], ticks: Sequence[float]
) -> tuple[Kept, State]:
    """Every signal and every tick, one after the other."""
    labels = {node.name: node.labels for node in NODES}
    rows = [row for one in raws for part in one.fresh for row in part.rows(one.target)]
    signals = by_time(
        [
            *(probe_signal(row, labels[row.target]) for row in rows),
            *(transition_signal(change, labels[one.target]) for one in raws for change in one.transitions),
        ]
    )  # fmt: skip
    watcher = Watcher(rules)
    for node in NODES:
        watcher.know("probe", node.name, node.labels, START)
    seen: dict[float, list[AlertEdge]] = {}
    order: list[tuple[float, int, Any]] = [(tick, 0, None) for tick in ticks]
    order += [(signal.time_s, 1, signal) for signal in signals]
    order.sort(key=lambda item: item[:2])
    for time_s, _phase, signal in order:
        edges = list(watcher.tick(time_s) if signal is None else watcher.take(signal))
        if edges or signal is None:
            seen.setdefault(time_s, []).extend(edges)
    state, kept = State(), Kept()
    for time_s, edges in sorted(seen.items()):
        state, decisions = decide(wanted, state, [Moment(time_s=time_s, edges=tuple(edges))])
        kept.take(decisions, state, time_s)
    return kept, state


def fast(
    wanted: Setting, rules: Sequence[Rule], raws: Sequence[RawResults], pieces: Sequence[Chunk]
) -> tuple[Kept, State]:
    run = Run(wanted, rules, NODES)
    for chunk in pieces:
        run.take(chunk, raws)
        run.close(chunk)
    return run.kept, run._desk.state


def text(kept: Kept) -> bytes:
    incidents = [kept.incidents[number] for number in sorted(kept.incidents)]
    return msgspec.json.encode([incidents, kept.notes, kept.notices, sorted(kept.fired.items())])


def raw_of(histories: Any) -> list[RawResults]:
    raws = []
    for phase, (node, history) in enumerate(zip(NODES, histories, strict=True)):
        rows, transitions = rows_of(node.name, history, phase * 1.7)
        columns = ResultColumns()
        for row in rows:
            columns.add(columns.pack(row), milliseconds(row.time_s))
        half = len(columns) // 2
        parts = [columns.slice(0, half), columns.slice(half, len(columns))] if half else [columns]
        raws.append(RawResults(target=node.name, fresh=[one for one in parts if len(one)], transitions=transitions))
    return raws


WINDOWS = [
    (),
    (MaintenanceSpec(name="w", targets=("a",), from_="2027-01-15T08:02", to="2027-01-15T08:04"),),
    (MaintenanceSpec(name="w", match={"team": "x"}, cron="*/3 * * * *", duration=60.0),),
]


@settings(max_examples=150, deadline=None)
@given(rules, histories, st.sampled_from([35.0, 120.0, 5000.0]), st.sampled_from(WINDOWS))
def test_columns_decide_as_signal_by_signal(found: Any, histories: Any, chunk_s: float, windows: Any) -> None:
    compare(found, histories, chunk_s, windows)


@pytest.mark.parametrize("seed", range(8))
def test_long_histories_that_are_looked_at_in_stretches(seed: int) -> None:
    """So many signals that most of them are looked at together first; both quiet and noisy ones."""
    chance = random.Random(seed)
    noisy = chance.random() < 0.5
    histories = [
        [
            (
                chance.choice([5.0, 7.5, 15.0, 15.003, 61.0]),
                chance.randint(1, 130 if noisy or chance.random() < 0.03 else 40),
                chance.choice(["up"] * (6 if noisy else 60) + ["degraded", "down", "timeout"]),
                "",
            )
            for _ in range(chance.randint(200, 300))
        ]
        for _ in range(3)
    ]
    rule = {
        "when": CONDITIONS[(seed * 5 + chance.randint(0, 4)) % len(CONDITIONS)], "for_": chance.choice([0.0, 30.0]),
        "resolve": None, "keep_firing": 0.0, "missing": "keep", "by": (), "at_least": 1, "severity": "warning",
    }  # fmt: skip
    compare([rule], histories, 5000.0, ())


def test_every_state_that_a_tick_could_change_is_known() -> None:
    """Whoever remembers more must say when a tick changes it: rules/rehearsal/wake.py."""
    assert set(State.__struct_fields__) == {
        "last", "clock_s", "wall_s", "alerts", "incidents", "silences", "sent", "queue", "remedy",
    }  # fmt: skip


def compare(found: Any, histories: Any, chunk_s: float, windows: Any) -> None:
    rules, raws, wanted = compiled(found), raw_of(histories), setting(*windows)
    times = [time_s for one in raws for part in one.fresh for time_s in part.times]
    until_s = (max(times) / 1000 if times else START) + 130.0
    pieces = []
    begin_s = START - 3.0
    for whole in chunks(begin_s, until_s, [(begin_s, until_s)], rows_per_s=1e-9, small=False):
        at = whole.begin_s
        while at < whole.end_s:
            end = min((at // chunk_s + 1) * chunk_s, whole.end_s)
            pieces.append(Chunk(begin_s=at, end_s=end, ticks=[tick for tick in whole.ticks if at <= tick < end]))
            at = end
    ticks = [tick for piece in pieces for tick in piece.ticks]
    assert ticks == sorted(set(ticks))
    assert ticks[0] == (begin_s // TICK_S + 1) * TICK_S
    one, state = plainly(wanted, rules, raws, ticks)
    two, other = fast(wanted, rules, raws, pieces)
    assert text(two) == text(one)
    assert msgspec.json.encode(list(other.incidents.values())) == msgspec.json.encode(list(state.incidents.values()))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_can_be_looked_at_in_columns(condition: str) -> None:
    from dogwatch.rules.rehearsal.run import sort_rules

    found = sort_rules([compile_rule(RuleSpec(name="r", when=condition))])
    assert len(found.courses) == 1
