"""From samples to findings: what begins, what stays, what ends."""

from __future__ import annotations

import msgspec

from dogwatch.diagnose.decider import CLEAR_AFTER, MAX_POINTS, MAX_SERIES, Decision, Limits, State, decide
from dogwatch.diagnose.sample import Lag, Sample

LIMITS = Limits()
QUIET = Sample(
    time_s=1_800_000_000.0,
    at_s=0.0,
    fds=20,
    fd_limit=1000,
    threads=3,
    resident_bytes=50 * 2**20,
    tasks=10,
    task_kinds={"Probe.run": 8, "main": 1},
    gc_counts=(0, 0, 0),
    lag=Lag(0.001, 0.001, 60),
    gauges={"queue": 0.0},
)


def run(changes, *, count: int = 300, state: State | None = None, limits: Limits = LIMITS):
    """Feed `count` samples, 15 s apart; changes(i) gives what differs from a quiet one."""
    state = state or State()
    told: list[tuple[int, Decision]] = []
    for i in range(count):
        at_s = i * 15.0
        sample = msgspec.structs.replace(QUIET, at_s=at_s, time_s=QUIET.time_s + at_s, **changes(i))
        state, decision = decide(state, sample, limits)
        if decision.begun or decision.ended:
            told.append((i, decision))
    return state, told


def test_a_quiet_process_has_no_findings() -> None:
    state, told = run(lambda i: {})
    assert told == []
    assert not state.active


def test_descriptors_near_the_limit_warn_and_end_below_it() -> None:
    def changes(i: int) -> dict[str, object]:
        return {"fds": 800 if 10 <= i < 20 else 760 if 20 <= i < 30 else 20}

    _, told = run(changes, count=60)
    (began, first), (ended, last) = told
    assert began == 10
    assert first.begun[0].symptom == "800 of 1000 descriptors are open (80%)"
    assert first.begun[0].since_s == QUIET.time_s + 150
    assert ended == 30 + CLEAR_AFTER - 1  # 76 % is not yet over
    assert last.ended[0].key == "fds"
    assert not last.ended[0].active


def test_without_a_limit_nothing_is_near_it() -> None:
    assert run(lambda i: {"fds": 10**6, "fd_limit": 0}, count=5)[1] == []


def test_a_held_up_loop_is_found() -> None:
    _, told = run(lambda i: {"lag": Lag(1.5 if i == 3 else 0.001, 0.002, 60)}, count=20)
    assert [i for i, _ in told] == [3, 3 + CLEAR_AFTER]
    finding = told[0][1].begun[0]
    assert "held up for 1.5s" in finding.symptom
    assert finding.cause


def test_growing_tasks_are_named_by_kind_and_not_twice() -> None:
    def changes(i: int) -> dict[str, object]:
        return {"tasks": 10 + i, "task_kinds": {"Probe.run": 8 + i, "main": 1}}

    state, told = run(changes)
    finding = told[0][1].begun[0]
    assert finding.key == "growth:task:Probe.run"
    assert "tasks running Probe.run grew steadily from" in finding.symptom
    assert finding.evidence[0].per_hour is not None
    assert abs(finding.evidence[0].per_hour - 240) < 10
    assert finding.evidence[0].first is not None
    assert finding.evidence[0].last is not None
    assert finding.evidence[0].first < finding.evidence[0].last
    assert set(state.active) == {"growth:task:Probe.run"}
    # Half of the window after the settling time, and no earlier.
    assert (300 + 1800) / 15 <= told[0][0] <= (300 + 1800) / 15 + 30


def test_tasks_of_ever_new_kinds_are_found_by_their_number() -> None:
    _, told = run(lambda i: {"tasks": 10 + i})
    assert told[0][1].begun[0].key == "growth:tasks"


def test_memory_descriptors_threads_and_gauges_grow_too() -> None:
    state, _ = run(
        lambda i: {
            "fds": 20 + i,
            "threads": 3 + i // 4,
            "resident_bytes": QUIET.resident_bytes + i * 2**18,
            "gauges": {"outbox": i * 2.0},
            "task_kinds": {"leak": i},
        }
    )
    assert set(state.active) == {
        "growth:fds",
        "growth:threads",
        "growth:memory",
        "growth:gauge:outbox",
        "growth:task:leak",
    }
    assert "MiB" in state.active["growth:memory"].symptom
    assert "leak" in state.active["growth:fds"].cause
    assert state.active["growth:gauge:outbox"].symptom.startswith("outbox grew")


def test_a_finding_keeps_its_beginning_and_ends_when_the_growth_does() -> None:
    state, told = run(lambda i: {"fds": 20 + min(i, 250)}, count=600)
    assert [len(decision.begun) for _, decision in told] == [1, 0]
    assert told[1][1].ended[0].since_s == told[0][1].begun[0].since_s
    assert not state.active


def test_what_fills_while_settling_does_not_count() -> None:
    long = Limits(settle=1800.0)
    assert run(lambda i: {"fds": 20 + min(i, 119)}, limits=long)[1] == []


def test_what_is_remembered_is_bounded() -> None:
    many = {f"kind {n}": n for n in range(500)}
    state, _ = run(lambda i: {"task_kinds": many}, count=400, limits=Limits(settle=0, growth_window=600))
    assert len(state.series) == MAX_SERIES
    assert max(len(points) for points in state.series.values()) <= MAX_POINTS + 1


def test_samples_come_more_often_than_points_are_kept() -> None:
    """A short interval and a long window: floors are kept, not every point."""
    state = State()
    for i in range(2000):
        sample = msgspec.structs.replace(QUIET, at_s=float(i), fds=20 + i // 10 + (0 if i % 15 == 7 else 300))
        state, _ = decide(state, sample, Limits(settle=0))
    assert len(state.series["fds"]) <= MAX_POINTS + 1
    assert all(value < 300 for _, value in state.series["fds"][:-1])


def test_the_decision_is_pure() -> None:
    state, _ = run(lambda i: {"fds": 20 + i}, count=200)
    before = msgspec.json.encode(state)
    sample = msgspec.structs.replace(QUIET, at_s=3000.0, fds=900)
    assert decide(state, sample, LIMITS) == decide(state, sample, LIMITS)
    assert msgspec.json.encode(state) == before
