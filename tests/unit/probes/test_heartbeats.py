"""Heartbeats: the judgement as tables, cron over changes of summer time, the ledger over restarts and clock jumps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.probing import ask

from dogwatch.core.clock import ManualClock
from dogwatch.probes.heartbeats import (
    MAX_BODY_BYTES,
    SIGNALS,
    HeartbeatLedger,
    HeartbeatRecord,
    HeartbeatSpec,
    judge,
    next_fire,
    slug,
)
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.store.protocol import Ping

SPEC = HeartbeatSpec(period_s=3600, grace_s=600, max_runtime_s=900)


def stamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class World:
    """A ledger with one target, and time."""

    def __init__(self, spec: HeartbeatSpec = SPEC, *, now: str = "2026-06-01T12:00:00+00:00") -> None:
        self.clock = ManualClock(now_s=stamp(now))
        self.ledger = HeartbeatLedger(self.clock)
        self.ledger.configure({"job": "id-1"})
        self.spec = spec
        self.pings: list[Ping] = []

    def hear(self, signal: str, **options: Any) -> Ping:
        ping = self.ledger.ping("job", signal=signal, **options)
        self.ledger.apply(ping)
        self.pings.append(ping)
        return ping

    @property
    def verdict(self) -> Any:
        return self.ledger.verdict("job", self.spec)

    def restarted(self) -> World:
        """Return the world after a restart: the monotonic clock begins anew."""
        other = World(self.spec)
        other.clock = ManualClock(now_s=self.clock.now_s(), monotonic_s=5.0)
        other.ledger = HeartbeatLedger(other.clock)
        other.ledger.configure({"job": "id-1"})
        other.ledger.restore("job", reversed(self.pings))
        return other


@pytest.mark.parametrize(
    ("story", "state", "reason"),
    [
        ([], "new", "missing"),
        ([100_000], "new", "missing"),
        (["log"], "new", "missing"),
        (["success"], "up", ""),
        (["success", 3600], "up", ""),
        (["success", 3601], "late", ""),
        (["success", 4200], "late", ""),
        (["success", 4201], "down", "late"),
        (["success", 4201, "success"], "up", ""),
        (["success", 3000, "log", 1300], "down", "late"),
        (["fail"], "down", "exit"),
        (["fail", 10, "log"], "down", "exit"),
        (["fail", 10, "success"], "up", ""),
        (["exit0"], "up", ""),
        (["exit3"], "down", "exit"),
        (["exit3", 5, "start"], "down", "exit"),
        (["start"], "new", "missing"),
        (["start", 901], "down", "late"),
        (["success", "start"], "running", ""),
        (["success", 3590, "start", 700], "running", ""),
        (["success", 3590, "start", 901], "down", "late"),
        (["success", 3590, "start", 700, "success"], "up", ""),
        # A job that dies after each start is found, although it starts again and again.
        (["success", "start", 500, "start", 401], "down", "late"),
    ],
)
def test_stories(story: list[str | int], state: str, reason: str) -> None:
    world = World()
    for step in story:
        if isinstance(step, int):
            world.clock.advance(step)
        elif step.startswith("exit"):
            world.hear("exit", exit_status=int(step[4:]))
        else:
            world.hear(step)
    for told in (world, world.restarted()):
        assert (told.verdict.state, told.verdict.reason) == (state, reason)
        assert bool(told.verdict.message) is bool(reason)


def test_durations_lie_between_start_and_end() -> None:
    world = World()
    assert world.hear("success").duration_s is None
    world.hear("start")
    world.clock.advance(90)
    world.hear("log", body="half way")
    world.clock.advance(30)
    ping = world.hear("exit", exit_status=2)
    assert ping.duration_s == 120
    assert world.ledger.record("job").duration_s == 120
    assert world.ledger.record("job").body == "half way"
    assert world.hear("success").duration_s is None, "no start of its own"
    world.hear("start")
    world.clock.advance(73 * 3600)
    assert world.hear("success").duration_s is None


def test_a_run_id_pairs_start_and_end_of_runs_that_overlap() -> None:
    world = World()
    world.hear("start", rid="one")
    world.clock.advance(100)
    world.hear("start", rid="two")
    world.clock.advance(10)
    assert world.hear("success", rid="one").duration_s == 110
    assert world.verdict.state == "running", "the second still goes on"
    assert world.restarted().verdict.state == "running"
    world.clock.advance(5)
    assert world.hear("success", rid="two").duration_s == 15
    assert world.verdict.state == "up"
    assert world.hear("success", rid="two").duration_s is None, "it has ended already"


def test_a_run_that_was_overtaken_still_has_its_duration() -> None:
    world = World()
    for rid in ("one", "two", "three"):
        world.hear("start", rid=rid)
        world.clock.advance(10)
    assert world.hear("success", rid="three").duration_s == 10
    assert world.verdict.state == "up"
    world.clock.advance(10)
    assert world.hear("success", rid="one").duration_s == 40
    assert world.verdict.state == "up", "the second was overtaken before"
    assert world.hear("success", rid="two").duration_s == 30
    assert not world.ledger.record("job").runs


def test_a_run_that_was_overtaken_is_not_held_against_the_job() -> None:
    world = World()
    world.hear("start", rid="crashed")
    world.clock.advance(600)
    world.hear("start", rid="next")
    world.clock.advance(5)
    assert world.hear("success", rid="next").duration_s == 5
    world.clock.advance(2000)
    assert world.verdict.state == "up"


@pytest.mark.parametrize(("signal", "rid"), [("fail", "two"), ("success", "")])
def test_a_failure_or_an_end_without_run_id_ends_all_runs(signal: str, rid: str) -> None:
    world = World()
    world.hear("start", rid="one")
    assert world.hear(signal, rid=rid).duration_s is None
    assert world.ledger.record("job").started_at is None


def test_starts_without_an_end_are_bounded() -> None:
    world = World()
    for number in range(100):
        world.hear("start", rid=str(number))
    assert list(world.ledger.record("job").runs) == [str(number) for number in range(80, 100)]


def test_a_clock_set_forwards_makes_nobody_late_and_one_set_back_hides_nobody() -> None:
    world = World()
    world.hear("success")
    world.clock.jump(+1_000_000)
    assert world.verdict.state == "up"
    world.clock.jump(-2_000_000)
    assert world.verdict.state == "up"
    world.clock.advance(4300)
    assert world.verdict.state == "down"


def test_calls_from_the_future_count_as_from_now_after_a_restart() -> None:
    world = World()
    world.hear("success")
    world.clock.jump(-50_000)
    after = world.restarted()
    assert after.verdict.state == "up"
    after.clock.advance(4300)
    assert after.verdict.state == "down"


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("30 3 * * *", "2026-06-01T03:29:59+02:00", "2026-06-01T03:30:00+02:00"),
        ("30 3 * * *", "2026-06-01T03:30:00+02:00", "2026-06-02T03:30:00+02:00"),
        # 29 March 2026: 02:00 becomes 03:00. What the clock skips fires right after the gap.
        ("30 2 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("30 2 * * *", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"),
        # 25 October 2026: 03:00 becomes 02:00 again. What comes twice fires once.
        ("30 2 * * *", "2026-10-24T12:00:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"),
        # Every hour is every hour.
        ("0 * * * *", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"),
        ("0 * * * *", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("0 0 L 2 *", "2027-12-01T00:00:00+01:00", "2028-02-29T00:00:00+01:00"),
    ],
)
def test_cron_over_summer_time(cron: str, after: str, expected: str) -> None:
    fire_s = next_fire(cron, BERLIN, int(stamp(after)))
    assert datetime.fromtimestamp(fire_s, UTC) == datetime.fromisoformat(expected)


def test_cron_decides_what_is_late() -> None:
    spec = HeartbeatSpec(cron="0 3 * * *", timezone=BERLIN, grace_s=600)
    world = World(spec, now="2026-03-28T03:00:05+01:00")
    world.hear("success")
    world.clock.advance(stamp("2026-03-29T03:00:00+02:00") - world.clock.now_s() - 1)
    assert world.verdict.state == "up"
    assert world.verdict.due_in_s == pytest.approx(1)
    world.clock.advance(2)
    assert world.verdict.state == "late"
    world.clock.advance(600)
    assert world.verdict.state == "down"
    assert world.verdict.message == "should have called 10m1s ago, grace 10m; last heard of 23h9m ago"
    assert world.restarted().verdict.state == "down"


@pytest.mark.parametrize("bad", ["", "* * * *", "61 * * * *", "a b c d e", "0 0 31 2 *"])
def test_bad_cron(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        next_fire(bad, "UTC", 1_800_000_000)


@given(
    story=st.lists(st.tuples(st.sampled_from(SIGNALS), st.integers(0, 255), st.floats(0, 5000)), max_size=12),
    later=st.floats(0, 10_000),
)
def test_a_restart_changes_nothing(story: list[tuple[str, int, float]], later: float) -> None:
    world = World()
    for signal, status, pause in story:
        world.hear(signal, exit_status=status)
        world.clock.advance(pause)
    after = world.restarted()
    for told in (world, after):
        told.clock.advance(later)
    ours, theirs = world.verdict, after.verdict
    # Ages are added up in another order: only what lies on the very edge may differ.
    if ours.due_in_s is None or (abs(ours.due_in_s) > 1e-3 and abs(-ours.due_in_s - SPEC.grace_s) > 1e-3):
        assert (ours.state, ours.reason) == (theirs.state, theirs.reason)
    assert after.ledger.record("job").pings == len(story)


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_waiting_never_makes_it_better(first: float, second: float) -> None:
    order = {"up": 0, "late": 1, "down": 2}
    record = HeartbeatRecord(good_at=0.0)
    early, late = sorted((first, second))
    states = [judge(SPEC, record, now_s=1e9 + age, monotonic_s=age).state for age in (early, late)]
    assert order[states[0]] <= order[states[1]]


def test_configuring_keeps_what_was_heard() -> None:
    world = World()
    world.hear("success")
    ledger = world.ledger
    ledger.configure({"job": "id-2", "other": "other"})
    assert ledger.record("job").pings == 1
    assert (ledger.find("id-1"), ledger.find("id-2")) == (None, "job")
    assert ledger.find("job") is None, "its id was chosen: the name is no way in"
    with pytest.raises(ValueError, match="'a' and 'b'"):
        ledger.configure({"a": "same", "b": "same"})
    assert ledger.find("id-2") == "job"
    ledger.configure({"Nightly backup (db-1)": slug("Nightly backup (db-1)")})
    assert ledger.find("nightly-backup-db-1") == "Nightly backup (db-1)"
    assert ledger.record("job").pings == 0
    ledger.apply(Ping(target="job", time_s=0.0, signal="success"))
    assert ledger.record("job").pings == 0


def test_calls_are_bounded() -> None:
    world = World()
    ping = world.hear("log", body="ä" * MAX_BODY_BYTES, remote="1" * 500)
    assert len(ping.body.encode()) <= MAX_BODY_BYTES
    assert len(ping.remote) == 100
    with pytest.raises(ValueError, match="not a heartbeat signal"):
        world.ledger.ping("job", signal="hello")
    assert world.ledger.ping("job", signal="success", exit_status=3).exit_status is None


async def test_the_probe_answers_from_the_ledger() -> None:
    world = World()
    probe = HeartbeatProbe(period=3600, grace=600, max_runtime=900)
    new = await ask(probe, target="job", heartbeat=world.ledger)
    assert (new.success, new.reason, new.values["new"]) == (False, "missing", True)
    world.hear("start")
    world.clock.advance(5)
    world.hear("exit", exit_status=3, body="disk full")
    world.clock.advance(60)
    failed = await ask(probe, target="job", heartbeat=world.ledger)
    assert (failed.reason, failed.message) == ("exit", "reported exit status 3 1m ago")
    assert failed.evidence is not None
    assert failed.evidence().body == "disk full"
    assert (failed.values["last_duration_s"], failed.values["age_s"], failed.values["new"]) == (5, 60, False)
    world.hear("success")
    world.clock.advance(3700)
    late = await ask(probe, target="job", heartbeat=world.ledger)
    assert late.success
    assert late.values["late"] is True
    assert (await ask(probe)).reason == "local"


def test_ids() -> None:
    assert HeartbeatProbe().ping_id("Nightly Bäckup!") == "nightly-backup"
    assert HeartbeatProbe(id="x-y").ping_id("job") == "x-y"
    assert "x-y" not in HeartbeatProbe(id="x-y").address(), "the id is not shown"
    assert HeartbeatProbe(period=90, grace=5).address() == "every 1m30s, grace 5s"
    assert slug("日本") == "heartbeat"
    assert HeartbeatProbe(grace=5).spec().max_runtime_s == 5
