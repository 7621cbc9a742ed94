"""Random histories of runs against a plain model: states, owners, order of claims, gates; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.postgres import Postgres
from tests.runs import ALICE, book, identity, job, step

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.engine.ledger import Advance, Fenced
from dogwatch.engine.spec import Concurrency
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import RunFilter, RunState, StartRun, StepState
from dogwatch.errors import Conflict
from dogwatch.store.database import Database, Tx
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite

T = TypeVar("T")
JOBS = {
    "plain": job("plain"),
    "pair": job("pair", concurrency=Concurrency(limit=2)),
    "locked": job("locked", locks=["x"]),
    "second": job("second", locks=["y"]),
    "both": job("both", locks=["x", "y"]),
    "strict": job("strict", concurrency=Concurrency(policy="forbid")),
    "newest": job("newest", concurrency=Concurrency(policy="replace")),
}
GATES = {
    "plain": [],
    "pair": ["job:pair"],
    "locked": ["lock:x"],
    "second": ["lock:y"],
    "both": ["lock:x", "lock:y"],
    "strict": ["job:strict"],
    "newest": ["job:newest"],
}
CAPACITY = {"job:pair": 2, "lock:x": 1, "lock:y": 1, "job:strict": 1, "job:newest": 1}
WORKERS = ("w1", "w2")


class Model:
    """A run as it should be. step: the state of its one step, "" before there is one."""

    def __init__(self, run_id: str, name: str, priority: int, order: int, parent: Model | None) -> None:
        self.run_id, self.job, self.priority, self.order, self.parent = run_id, name, priority, order, parent
        self.state = RunState.QUEUED
        self.owner, self.fence = "", 0
        self.started = self.paused = self.cancel = self.ready = self.stirred = self.signal = False
        self.step = ""

    @property
    def ended(self) -> bool:
        return self.state.ended

    @property
    def claimable(self) -> bool:
        return not self.owner and (self.ready if self.started else self.state is RunState.QUEUED)

    def back(self) -> None:
        self.owner = ""
        self.fence += 1
        self.ready = not self.paused


class Runs(RuleBasedStateMachine):
    database: Database
    loop: asyncio.Runner

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    @initialize()
    def begin(self) -> None:
        def empty(tx: Tx) -> None:
            for table in ("runs", "steps", "gates", "run_gates", "workers", "approvals"):
                tx.run(f"DELETE FROM {table}")

        self.do(self.database.write(empty))
        self.clock = ManualClock()
        self.runs = book(self.database, *JOBS.values(), clock=self.clock)
        self.known: list[Model] = []
        self.stale: list[tuple[str, int]] = []
        for worker in WORKERS:
            self.do(self.runs.register(identity(worker, ttl_s=3.0)))

    # -- the model's own rules ---------------------------------------------------------------------------------------

    def live(self, name: str) -> list[Model]:
        return [run for run in self.known if run.job == name and not run.ended and not run.cancel]

    def end(self, run: Model, state: RunState) -> None:
        run.state, run.owner, run.ready, run.paused = state, "", False, False
        parent = run.parent
        if parent is not None and not parent.ended and parent.step in ("waiting", "running") and not parent.signal:
            parent.signal = parent.stirred = True
            if not parent.owner and not parent.paused:
                parent.ready = True

    def cancelled(self, run: Model) -> None:
        for child in self.known:
            if child.parent is run and not child.ended and not child.cancel:
                self.cancelled(child)
        if not run.started:
            self.end(run, RunState.CANCELLED)
            return
        run.cancel, run.paused, run.stirred, run.state = True, False, True, RunState.RUNNING
        run.ready = run.ready or not run.owner

    def held(self, gate: str) -> int:
        return sum(gate in GATES[run.job] for run in self.known if run.started and not run.ended)

    def next_of(self, slots: int) -> list[Model]:
        chosen: list[Model] = []
        room = {gate: capacity - self.held(gate) for gate, capacity in CAPACITY.items()}
        for run in sorted((run for run in self.known if run.claimable), key=lambda run: (-run.priority, run.order)):
            if len(chosen) == slots:
                break
            if not run.started:
                if any(room[gate] <= 0 for gate in GATES[run.job]):
                    continue
                for gate in GATES[run.job]:
                    room[gate] -= 1
            chosen.append(run)
        return chosen

    def some(self, data: st.DataObject, *, owned: bool | None = None) -> Model | None:
        runs = [run for run in self.known if owned is None or bool(run.owner) == owned]
        return data.draw(st.sampled_from(runs)) if runs else None

    def refused(self, work: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(Conflict):
            self.do(work)

    # -- what can happen ---------------------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(sorted(JOBS)), priority=st.sampled_from([0, 0, 0, 5]), data=st.data(), child=st.booleans()
    )
    def start(self, name: str, priority: int, data: st.DataObject, child: bool) -> None:
        parent = self.some(data, owned=True) if child else None
        whole = None if parent is None else (parent.run_id, "one")
        request = StartRun(job=name, actor=ALICE, priority=priority, parent=whole)
        others = self.live(name)
        if (parent is not None and (parent.cancel or self._waits_for_itself(name, parent))) or (
            name == "strict" and others
        ):
            self.refused(self.runs.start(request))
            return
        if name == "newest":
            for other in others:
                self.cancelled(other)
        started = self.do(self.runs.start(request))
        self.known.append(Model(started.run.run_id, name, priority, len(self.known), parent))

    @rule(
        data=st.data(),
        names=st.lists(st.sampled_from(["pair", "locked", "second", "both", "both"]), min_size=2, max_size=5),
    )
    def crowd(self, data: st.DataObject, names: list[str]) -> None:
        for name in names:
            self.start(name, data.draw(st.sampled_from([0, 0, 3])), data, child=False)

    def _waits_for_itself(self, name: str, parent: Model | None) -> bool:
        above: list[Model] = []
        while parent is not None:
            above.append(parent)
            parent = parent.parent
        return any(
            sum(gate in GATES[run.job] for run in above if run.started and not run.ended) >= CAPACITY[gate]
            for gate in GATES[name]
        )

    @rule(worker=st.sampled_from(WORKERS), slots=st.integers(1, 4))
    def claim(self, worker: str, slots: int) -> None:
        expected = self.next_of(slots)
        claimed = self.do(self.runs.claim(worker, slots))
        assert {one.run.run_id for one in claimed} == {run.run_id for run in expected}
        by_id = {one.run.run_id: one for one in claimed}
        for run in expected:
            one = by_id[run.run_id]
            assert one.fence == run.fence + 1
            assert (bool(one.order.cancel), one.order.paused) == (run.cancel, run.paused)
            assert [row.signal is not None for row in one.steps] == ([run.signal] if run.step else [])
            run.fence, run.owner, run.started, run.state = one.fence, worker, True, RunState.RUNNING
            run.ready = run.stirred = False

    @rule(data=st.data())
    def works(self, data: st.DataObject) -> None:
        if run := self.some(data, owned=True):
            self.do(self.runs.advance(Advance(run_id=run.run_id, fence=run.fence, steps=[step()])))
            run.step, run.signal = "running", False

    @rule(data=st.data())
    def parks(self, data: st.DataObject) -> None:
        run = self.some(data, owned=True)
        if run is None:
            return
        if run.signal and run.step == "waiting":
            self.do(self.runs.advance(Advance(run_id=run.run_id, fence=run.fence, steps=[step()])))
            run.signal = False
        waiting = step(state=StepState.WAITING)
        self.do(self.runs.advance(Advance(run_id=run.run_id, fence=run.fence, steps=[waiting], release=True)))
        self.stale.append((run.run_id, run.fence))
        run.step, run.owner = "waiting", ""
        run.ready = run.stirred and not run.paused

    @rule(data=st.data(), state=st.sampled_from([RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED]))
    def ends(self, data: st.DataObject, state: RunState) -> None:
        if run := self.some(data, owned=True):
            self.do(self.runs.advance(Advance(run_id=run.run_id, fence=run.fence, state=state)))
            self.stale.append((run.run_id, run.fence))
            if state is not RunState.SUCCEEDED:
                for child in self.known:
                    if child.parent is run and not child.ended and not child.cancel:
                        self.cancelled(child)
            self.end(run, state)

    @rule(data=st.data())
    def signals(self, data: st.DataObject) -> None:
        if run := self.some(data):
            self.do(self.runs.signal(run.run_id, "one", "hello"))
            if run.step == "waiting" and not run.signal and not run.ended:
                run.signal = run.stirred = True
                run.ready = run.ready or (not run.owner and not run.paused)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if run := self.some(data):
            if run.ended:
                self.refused(self.runs.cancel(run.run_id, ALICE))
            else:
                self.do(self.runs.cancel(run.run_id, ALICE))
                self.cancelled(run)

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        if run := self.some(data):
            if run.ended or run.paused or run.cancel:
                self.refused(self.runs.pause(run.run_id, ALICE))
            else:
                assert self.do(self.runs.pause(run.run_id, ALICE)).state is RunState.PAUSED
                run.paused, run.state, run.ready, run.stirred = True, RunState.PAUSED, False, True

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        if run := self.some(data):
            if not run.paused:
                self.refused(self.runs.resume(run.run_id, ALICE))
            else:
                self.do(self.runs.resume(run.run_id, ALICE))
                run.paused, run.stirred = False, True
                run.state = RunState.RUNNING if run.started else RunState.QUEUED
                run.ready = not run.owner

    @rule(data=st.data(), whole=st.booleans())
    def rerun(self, data: st.DataObject, whole: bool) -> None:
        run = self.some(data)
        if run is None or run.job in ("strict", "newest"):
            return
        again = self.runs.rerun(run.run_id, ALICE)
        if not run.ended:
            self.refused(again)
            return
        started = self.do(again)
        self.known.append(Model(started.run.run_id, run.job, run.priority, len(self.known), None))

    @rule(worker=st.sampled_from(WORKERS))
    def leaves(self, worker: str) -> None:
        self.do(self.runs.leave(worker))
        self.do(self.runs.register(identity(worker, ttl_s=3.0)))
        self._lost(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def dies(self, worker: str) -> None:
        other = WORKERS[WORKERS.index(worker) - 1]
        taken = 0
        for _ in range(5):
            taken += self.do(self.runs.reap())
            self.do(self.runs.heartbeat(other, self._held(other)))
            self.clock.advance(1.0)
        assert taken == len(self._held(worker))
        with pytest.raises(Fenced):
            self.do(self.runs.heartbeat(worker, {}))
        self._lost(worker)
        self.do(self.runs.register(identity(worker, ttl_s=3.0)))

    def _held(self, worker: str) -> dict[str, int]:
        return {run.run_id: run.fence for run in self.known if run.owner == worker}

    def _lost(self, worker: str) -> None:
        for run in self.known:
            if run.owner == worker:
                self.stale.append((run.run_id, run.fence))
                run.back()

    @rule(worker=st.sampled_from(WORKERS))
    def beats(self, worker: str) -> None:
        beat = self.do(self.runs.heartbeat(worker, {**self._held(worker), "nobody": 1}))
        assert beat.lost == ["nobody"]
        assert not beat.missing
        for run in self.known:
            if run.owner == worker:
                order = beat.orders.get(run.run_id)
                assert (bool(order and order.cancel), bool(order and order.paused)) == (run.cancel, run.paused)
                assert bool(order and order.signals) == (run.signal and run.step == "waiting")

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), final=st.booleans())
    def comes_back_too_late(self, data: st.DataObject, final: bool) -> None:
        run_id, fence = data.draw(st.sampled_from(self.stale))
        state = RunState.SUCCEEDED if final else None
        with pytest.raises(Fenced):
            self.do(self.runs.advance(Advance(run_id=run_id, fence=fence, state=state, steps=[step("late")])))

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not getattr(self, "known", None):
            return
        found = {run.run_id: run for run in self.do(self.runs.find(RunFilter(limit=1000))).items}
        assert {run_id: (run.state, run.worker) for run_id, run in found.items()} == {
            run.run_id: (run.state, run.owner) for run in self.known
        }
        used = {str(name): used for name, used in self.do(self.database.read(_gates))}
        assert used == {gate: count for gate in CAPACITY if (count := self.held(gate))}
        assert all(used[gate] <= CAPACITY[gate] for gate in used)


def _gates(tx: Tx) -> list[Any]:
    return tx.rows("SELECT name, used FROM gates WHERE used > 0")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_random_histories(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with asyncio.Runner() as loop:
        tables = (engine_tables(), access_tables())
        if kind == "sqlite":
            database: Database = loop.run(open_sqlite(tmp_path / "state.db", tables, SystemClock()))
        else:
            server: Postgres = request.getfixturevalue("postgres")
            url = server.create()
            request.addfinalizer(lambda: server.drop(url))
            database = loop.run(open_postgres(url, tables))
        machine = type("Machine", (Runs,), {"database": database, "loop": loop})
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=40 if kind == "sqlite" else 12,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            loop.run(database.close())
