"""The store on SQLite, restarted at any point, answers as the one in memory does."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dogwatch.core.clock import ManualClock
from dogwatch.core.values import Status, Transition
from dogwatch.store import tails
from dogwatch.store.limits import Keep, StoreLimits
from dogwatch.store.memory import MemoryStore
from dogwatch.store.protocol import Failure, Ping, Point, ResultRow, TargetState
from dogwatch.store.sqlite import SqliteStore, open_store

TARGETS = st.sampled_from(["a", "b", "dienst-ü"])
STATUSES = st.sampled_from(list(Status))
# Nothing expires: the store in memory keeps all.
LONG_S = 1e9
LIMITS = StoreLimits(
    failures_per_target=4, pings_per_target=4, keep=Keep(raw=LONG_S, five_minutes=LONG_S, hours=LONG_S)
)
BORN_S = 1_800_000_000.0


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(now_s=BORN_S)
        self.model = MemoryStore(self.clock, LIMITS)
        self.store: SqliteStore = self.runner.run(self.open())

    async def open(self) -> SqliteStore:
        return await open_store(self.folder / "store.db", self.clock, LIMITS)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    @rule(
        name=TARGETS,
        count=st.integers(1, 300),
        every_s=st.sampled_from([0.001, 1.0, 15.0, 400.0]),
        duration_s=st.floats(0, 100),
        fails=st.integers(1, 5),
    )
    def results(self, name: str, count: int, every_s: float, duration_s: float, fails: int) -> None:
        for number in range(count):
            good = bool(number % fails)
            row = ResultRow(
                name, self.clock.now_s(), good, int(Status.UP if good else Status.DOWN), duration_s,
                duration_s / 3, reason="" if good else f"why-{number % 3}",
            )  # fmt: skip
            self.model.add_result(row)
            self.store.add_result(row)
            self.clock.advance(every_s)

    @rule(count=st.integers(1, 300), value=st.floats(-1e9, 1e9), series=st.sampled_from(["x", 'x{a="1"}', "n_total"]))
    def samples(self, count: int, value: float, series: str) -> None:
        for number in range(count):
            for store in (self.model, self.store):
                store.add_samples("host", self.clock.now_s(), [(series, value + number)])
            self.clock.advance(15)

    @rule(name=TARGETS, before=STATUSES, after=STATUSES)
    def transition(self, name: str, before: Status, after: Status) -> None:
        change = Transition(target=name, time_s=self.clock.now_s(), before=before, after=after, reason="r")
        state = TargetState(target=name, status=after, since_s=change.time_s, fingerprint="f", decider=b"d")
        for store in (self.model, self.store):
            self.runner.run(store.commit_transition(change, state))
        self.clock.advance(1)

    @rule(name=TARGETS, body=st.text(max_size=20).filter(lambda text: text.isprintable()))
    def evidence(self, name: str, body: str) -> None:
        for store in (self.model, self.store):
            store.add_failure(Failure(target=name, time_s=self.clock.now_s(), reason="r", message="m", body=body))
            self.runner.run(store.commit_ping(Ping(target=name, time_s=self.clock.now_s(), signal="success")))

    @rule(name=TARGETS, status=STATUSES)
    def state(self, name: str, status: Status) -> None:
        for store in (self.model, self.store):
            store.add_state(TargetState(target=name, status=status, since_s=0.0, fingerprint="", decider=b""))

    @rule(seconds=st.sampled_from([-90_000, -400, -1, 3, 5000, 200_000]))
    def clock_jumps(self, seconds: int) -> None:
        # Availability follows the time in which the store was open, which a jump ends; the rest must not care.
        self.clock.jump(seconds)

    @rule()
    def flush(self) -> None:
        self.runner.run(self.store.flush())

    @rule()
    def seal_what_is_old(self) -> None:
        self.clock.advance(tails.BLOCK_AGE_S)
        self.store._timer.cancel()
        self.store._tick()
        self.runner.run(self.store.flush())

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self.store = self.runner.run(self.open())

    @rule(
        name=TARGETS,
        since=st.integers(-100_000, 500_000),
        span=st.integers(1, 400_000),
        points=st.sampled_from([1, 7, 100, 300]),
    )
    def charts_agree(self, name: str, since: int, span: int, points: int) -> None:
        period = {"since_s": BORN_S + since, "until_s": BORN_S + since + span, "points": points}
        ours, expected = (self.runner.run(store.chart(name, **period)) for store in (self.store, self.model))
        assert len(ours) == len(expected)
        for mine, its in zip(ours, expected, strict=True):
            agree(mine, its)
        ours_series, expected_series = (
            self.runner.run(store.series("host", ["x", "n_total"], **period)) for store in (self.store, self.model)
        )
        assert [one.series for one in ours_series] == [one.series for one in expected_series]
        for one, other in zip(ours_series, expected_series, strict=True):
            assert [time_s for time_s, _ in one.points] == [time_s for time_s, _ in other.points]
            assert [value for _, value in one.points] == pytest.approx([value for _, value in other.points], abs=1e-3)

    @invariant()
    def records_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        self.runner.run(self.store.flush())
        for ask in (
            lambda store: store.states(),
            lambda store: store.transitions(limit=1000),
            lambda store: store.recent(["a", "b", "dienst-ü"], limit=60),
            lambda store: store.results("a", limit=400),
            lambda store: store.failures("b", limit=10),
            lambda store: store.pings("a", limit=10),
        ):
            ours, expected = (self.runner.run(ask(store)) for store in (self.store, self.model))
            if isinstance(ours, dict) and any(isinstance(rows, (list, tuple)) for rows in ours.values()):
                ours, expected = ({key: list(rows) for key, rows in answer.items()} for answer in (ours, expected))
            assert ours == expected
        assert self.store.trouble == ""


def agree(mine: Point, its: Point) -> None:
    assert (mine.time_s, mine.count, mine.failures, mine.status) == (its.time_s, its.count, its.failures, its.status)
    for one, other in ((mine.mean_s, its.mean_s), (mine.min_s, its.min_s), (mine.max_s, its.max_s)):
        assert one == pytest.approx(other, abs=1e-9)
    assert mine.phases_s == pytest.approx(its.phases_s, abs=1e-9)
    assert (mine.quantiles_s is None) == (its.quantiles_s is None)
    if mine.quantiles_s and its.quantiles_s:
        assert mine.quantiles_s == pytest.approx(its.quantiles_s, rel=0.07, abs=2e-6)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
