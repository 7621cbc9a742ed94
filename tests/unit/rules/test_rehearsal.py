"""Columns against signal by signal: the same edges, the same incidents, the same notices, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.values import Signal, Status, Transition
from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.rules.desk import Setting
from dogwatch.rules.driver import Moment, decide
from dogwatch.rules.escalation import Escalation, Flapping, IncidentOptions, Policy, Step, Throttle
from dogwatch.rules.incident import State
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec, build_maintenance
from dogwatch.rules.names import by_time, host_signal, probe_signal, transition_signal
from dogwatch.rules.outside.firing import Firing
from dogwatch.rules.rehearsal.course import Chunk, Ranges
from dogwatch.rules.rehearsal.desk import Kept
from dogwatch.rules.rehearsal.run import Run, chunks
from dogwatch.rules.spec import Rule, RuleSpec, compile_rule
from dogwatch.rules.topology import Node, Topology
from dogwatch.rules.watcher import TICK_S, Alert, AlertEdge, Watcher
from dogwatch.store.columns import ResultColumns, SampleColumns, milliseconds
from dogwatch.store.protocol import ResultRow
from dogwatch.store.raw import RawResults, RawSamples

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
    Node(name="a", labels={"team": "x", "host": "h1"}),
    Node(name="b", labels={"team": "x", "host": "h2"}, depends_on=("a",)),
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


class World(msgspec.Struct, kw_only=True):
    """What is recorded. samples: (host, time, {series: value}). alerts: of others."""

    raws: Sequence[RawResults]
    samples: Sequence[tuple[str, float, dict[str, float]]] = ()
    alerts: Sequence[Firing] = ()

    def signals(self) -> list[Signal]:
        labels = {node.name: node.labels for node in NODES}
        rows = [row for one in self.raws for part in one.fresh for row in part.rows(one.target)]
        return by_time(
            [
                *(probe_signal(row, labels[row.target]) for row in rows),
                *(transition_signal(change, labels[one.target]) for one in self.raws for change in one.transitions),
                *(host_signal(host, time_s, values.items(), {}) for host, time_s, values in self.samples),
            ]
        )

    def moments(self) -> dict[float, list[tuple[bool, Alert]]]:
        found: dict[float, list[tuple[bool, Alert]]] = {}
        for one in self.alerts:
            found.setdefault(one.begun_s, []).append((True, one.alert))
            if one.ended_s is not None:
                found.setdefault(one.ended_s, []).append((False, one.alert))
        return {time_s: sorted(said, key=lambda item: item[0]) for time_s, said in found.items()}

    def of_hosts(self, chunk: Chunk) -> list[tuple[str, list[RawSamples]]]:
        found: dict[tuple[str, str], SampleColumns] = {}
        for host, time_s, values in self.samples:
            for series, value in values.items():
                rows = found.setdefault((host, series), SampleColumns())
                rows.times.append(milliseconds(time_s))
                rows.values.append(value)
        hosts: dict[str, list[RawSamples]] = {}
        for at, ((host, series), rows) in enumerate(sorted(found.items())):
            sealed = at % 2 == 0
            hosts.setdefault(host, []).append(
                RawSamples(series=series, blocks=[rows.encode()] if sealed else (), fresh=() if sealed else [rows])
            )
        return list(hosts.items())


def plainly(wanted: Setting, rules: Sequence[Rule], world: World, ticks: Sequence[float]) -> tuple[Kept, State]:
    """Every signal and every tick, one after the other."""
    watcher = Watcher(rules)
    for node in NODES:
        watcher.know("probe", node.name, node.labels, START)
    signals = {time_s: list(some) for time_s, some in groupby(world.signals(), key=lambda signal: signal.time_s)}
    others = world.moments()
    state, kept = State(), Kept()
    for time_s in sorted({*ticks, *signals, *others}):
        edges = list(watcher.tick(time_s)) if time_s in ticks else []
        heard = signals.get(time_s, [])
        for firing, alert in others.get(time_s, ()):
            found, more = watcher.tell(alert, firing=firing, now_s=time_s)
            edges += found
            heard = [*heard, *more]
        if heard:
            edges += [edge for edge in watcher.hear(heard) if isinstance(edge, AlertEdge)]
        if edges or time_s in ticks:
            state, decisions = decide(wanted, state, [Moment(time_s=time_s, edges=tuple(edges))])
            kept.take(decisions, state, time_s)
    return kept, state


def fast(wanted: Setting, rules: Sequence[Rule], world: World, pieces: Sequence[Chunk]) -> tuple[Kept, State]:
    run = Run(wanted, rules, NODES)
    run.others.know(world.alerts)
    for chunk in pieces:
        run.begin(chunk, world.of_hosts(chunk))
        run.take(chunk, world.raws)
        run.close(chunk)
    return run.kept, run.state


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


BESIDE = [
    "probe.duration_s > 0.5 && host.load1 > 2.0",
    "!probe.success || host.load1 > 3.0",
    'probe.duration_s > 0.3 && avg(host.load1, "1m") > 1.5',
    'probe.status == "down" && absent(host.load1, "1m")',
    'probe.duration_s > 0.5 && alert.firing["Slow"]',
    '!probe.success && !alert.firing["x:Slow"] && host.cpu_ratio > 1.0',
    'avg(probe.duration_s, "1m") > 0.4 || alert.firing',
    "host.load1 > 2.5",
    'avg(host.load1, "1m") > 2.0 && host.cpu_ratio < 3.0',
    'host.filesystem_used_ratio["/data"] > 0.6 || host.filesystem_used_ratio > 0.9',
    'max(host.filesystem_used_ratio, "2m") > 0.8 && alert.firing',
    'absent(host.load1, "45s")',
    'quantile(0.5, host.load1, "2m") > 2.0',
    'changes(host.load1, "2m") > 2 && rate(host.load1, "2m") > 0.01',
    'alert.firing["Slow"]',
    'alert.firing["Slow"] && !alert.firing["Other"]',
]
beside_rules = st.lists(
    st.fixed_dictionaries(
        {
            "when": st.sampled_from([*BESIDE, *BESIDE, *CONDITIONS]),
            "for_": st.sampled_from([0.0, 0.0, 10.0, 30.0]),
            "resolve": st.sampled_from([None, None, None, "probe.duration_s < 0.2", "host.load1 < 1.5"]),
            "keep_firing": st.sampled_from([0.0, 0.0, 20.0]),
            "missing": st.sampled_from(["keep", "clear"]),
            "by": st.sampled_from([(), (), ("team",), ("zone",)]),
            "at_least": st.sampled_from([1, 2, "50%"]),
            "severity": st.sampled_from(["warning", "critical"]),
        }
    ),
    min_size=1,
    max_size=3,
)
# Seconds to the next sample, its load in tenths, which series are told.
host_steps = st.lists(
    st.tuples(
        st.sampled_from([5.0, 5.0, 7.5, 10.0, 15.0, 61.0, 400.0]),
        st.integers(0, 40),
        st.sampled_from(["all", "all", "load", "disk"]),
    ),
    max_size=30,
)
# Of whom, which alert, seconds to its begin, and how long.
other_alerts = st.lists(
    st.tuples(
        st.sampled_from(["a", "c", "h1", "elsewhere"]),
        st.sampled_from(["x:Slow", "y:Slow", "x:Other"]),
        st.sampled_from([5.0, 12.5, 20.0, 60.0]),
        st.sampled_from([None, 5.0, 17.5, 60.0]),
    ),
    max_size=8,
)


def samples_of(every: Any) -> list[tuple[str, float, dict[str, float]]]:
    found = []
    for host, steps_of, phase in zip(("h1", "h2"), every, (0.0, 1.7), strict=True):
        time_s = START + phase
        for wait_s, tenths, told in steps_of:
            time_s = round(time_s + wait_s, 3)
            values = {}
            if told in ("all", "load"):
                values["node_load1"] = tenths / 10
                values['dogwatch_host_cpu_ratio{mode="user"}'] = tenths / 30
                values['dogwatch_host_cpu_ratio{mode="system"}'] = tenths / 70
            if told in ("all", "disk"):
                values['dogwatch_host_filesystem_used_ratio{mountpoint="/"}'] = tenths / 40
                values['dogwatch_host_filesystem_used_ratio{mountpoint="/data"}'] = 1 - tenths / 40
            found.append((host, time_s, values))
    return found


def firings_of(every: Any) -> list[Firing]:
    found, ends, time_s = [], dict[tuple[str, str], float](), START
    for target, rule, wait_s, lasts_s in every:
        time_s = round(time_s + wait_s, 3)
        if time_s <= ends.get((rule, target), 0.0):
            continue
        ended_s = None if lasts_s is None else round(time_s + lasts_s, 3)
        ends[rule, target] = 1e12 if ended_s is None else ended_s
        labels = {"team": "x"} if target == "a" else {}
        alert = Alert(
            rule=rule, group=target, targets=(target,), since_s=time_s, severity="error", labels=labels, outside=True
        )
        found.append(Firing(alert=alert, begun_s=time_s, ended_s=ended_s))
    return found


def beside_of(found: Any) -> list[Any]:
    """Leave out what cannot be: a rule over hosts alone does not end by a probe."""
    return [{**one, **_without(one)} for one in found]


def _without(one: Any) -> dict[str, Any]:
    of_probe, of_host, ends = "probe." in one["when"], "host." in one["when"], one["resolve"]
    if not of_probe and not of_host:
        return {"resolve": None, "by": ()}
    return {"resolve": None} if ends is not None and not of_probe and "probe." in ends else {}


@settings(max_examples=150, deadline=None)
@given(beside_rules, histories, st.tuples(host_steps, host_steps), other_alerts, st.sampled_from([35.0, 120.0, 5000.0]))
def test_groups_hosts_and_alerts_decide_as_signal_by_signal(
    found: Any, histories: Any, hosts: Any, alerts: Any, chunk_s: float
) -> None:
    compare(beside_of(found), histories, chunk_s, (), samples_of(hosts), firings_of(alerts))


@pytest.mark.parametrize("seed", range(12))
def test_long_histories_of_several_things(seed: int) -> None:
    chance = random.Random(seed)
    noisy = chance.random() < 0.5
    histories = [
        [
            (
                chance.choice([5.0, 7.5, 15.0, 15.003, 61.0]),
                chance.randint(1, 130 if noisy or chance.random() < 0.03 else 40),
                chance.choice(["up"] * (6 if noisy else 60) + ["degraded", "down", "timeout"]),
                chance.choice([""] * 60 + ["paused", "maintenance"]),
            )
            for _ in range(chance.randint(200, 300))
        ]
        for _ in range(3)
    ]
    hosts = [
        [
            (chance.choice([5.0, 10.0, 15.0]), chance.randint(0, 40 if noisy else 22), chance.choice(["all", "load"]))
            for _ in range(chance.randint(200, 300))
        ]
        for _ in range(2)
    ]
    alerts = [
        (chance.choice(["a", "c", "h1"]), chance.choice(["x:Slow", "x:Other"]), chance.choice([60.0, 300.0]), 30.0)
        for _ in range(10)
    ]
    rule = {
        "when": (BESIDE + CONDITIONS)[(seed * 7 + chance.randint(0, 2)) % len(BESIDE + CONDITIONS)],
        "for_": chance.choice([0.0, 30.0]), "resolve": None, "keep_firing": 0.0, "missing": "keep",
        "by": chance.choice([(), ("team",), ("zone",)]), "at_least": chance.choice([1, 2, "50%"]),
        "severity": "warning",
    }  # fmt: skip
    compare(beside_of([rule]), histories, 5000.0, (), samples_of(hosts), firings_of(alerts))


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


def compare(found: Any, histories: Any, chunk_s: float, windows: Any, samples: Any = (), alerts: Any = ()) -> None:
    rules, raws, wanted = compiled(found), raw_of(histories), setting(*windows)
    world = World(raws=raws, samples=samples, alerts=alerts)
    times = [START, *(signal.time_s for signal in world.signals()), *world.moments()]
    until_s = max(times) + 130.0
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
    one, state = plainly(wanted, rules, world, ticks)
    two, other = fast(wanted, rules, world, pieces)
    assert text(two) == text(one)
    assert msgspec.json.encode(list(other.incidents.values())) == msgspec.json.encode(list(state.incidents.values()))


@pytest.mark.parametrize("condition", [*CONDITIONS, *BESIDE])
def test_every_condition_can_be_looked_at_in_columns(condition: str) -> None:
    assert not Ranges(compile_rule(RuleSpec(name="r", when=condition)).when).vague


def test_what_ranges_do_not_understand_is_asked_signal_by_signal() -> None:
    when = 'count(probe.success, "1m") + changes(probe.status, "1m") > 9'
    assert Ranges(compile_rule(RuleSpec(name="r", when=when)).when).vague
    history = [(5.0, 20, chance, "") for chance in ("up", "up", "down", "up", "timeout", "up") * 8]
    rule = {
        "when": when, "for_": 10.0, "resolve": None, "keep_firing": 0.0, "missing": "keep", "by": (),
        "at_least": 1, "severity": "warning",
    }  # fmt: skip
    compare([rule, {**rule, "by": ("team",), "at_least": 2}], [history, history, history], 120.0, ())
