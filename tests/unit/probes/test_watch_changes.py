"""The watch on a manual clock: reload, pause, maintenance, probes by hand, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from tests.unit.probes.watch_world import _first, answer, hang, statuses
from watch_fakes import CANCELLED, LAUNCHED, SCRIPTS, FakeProbe, OneSection, World, bad, good, spec

from dogwatch.core.clock import SystemClock
from dogwatch.errors import ConfigError, NotFound, TransientError
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.probes.spec import Startup


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.watch.stop()


async def test_reload_keeps_what_did_not_change(world: World) -> None:
    answer("b", bad())
    await world.configure(*(spec(name, every=10.0) for name in "abcd"))
    await world.go(35)
    kept, memory = world.watch.all["a"], world.watch.all["b"].memory
    memory["session"] = 1
    due_s = kept.due_s
    await world.configure(
        spec("d", every=10.0),
        spec("a", every=10.0),
        spec("b", every=10.0, labels={"team": "shop"}, failures=5),
        spec("c", every=10.0, url="fake://new"),
        spec("e", every=10.0),
    )
    assert list(world.watch.all) == ["d", "a", "b", "c", "e"]
    assert world.watch.all["a"] is kept
    assert kept.due_s == due_s
    assert [view.status for view in world.watch.targets()] == ["up", "up", "down", "pending", "pending"]
    assert world.watch.all["b"].memory == {"session": 1}
    assert world.watch.target("b").labels == {"team": "shop"}
    before = len(LAUNCHED)
    await world.go(10)
    assert sorted(LAUNCHED[before:]) == ["a", "b", "c", "d", "e"]


async def test_reload_cancels_what_was_removed_and_drops_what_still_arrives(world: World) -> None:
    waiting = hang("a")
    await world.configure(spec("a", every=1.0, timeout=1.0), spec("b"))
    await world.go(1.5)
    closed: list[bool] = []
    world.watch.all["a"].memory["kept"] = type("Kept", (), {"close": lambda _self: closed.append(True)})()
    change = world.watch.prepare(_only("b"))
    await change.start()
    assert world.watch.running == 1
    change.swap()
    waiting[0](bad())
    await change.finish()
    assert [row for row in world.store.rows if row.target == "a"] == []
    assert CANCELLED == ["a"]
    assert world.watch.running == 0
    assert closed == [True]


def _only(*names: str) -> object:
    return OneSection([spec(name) for name in names])


async def test_a_change_during_an_attempt_asks_again_with_what_the_new_rules_read(world: World) -> None:
    hang("a")
    await world.configure(spec("a", every=10.0))
    await world.go(10)
    SCRIPTS.clear()
    await world.configure(spec("a", every=10.0, check=FakeProbe(url="fake://a", expect='body == "ok"')))
    assert CANCELLED == ["a"]
    await world.go(1)
    assert world.watch.target("a").status == "up"
    assert world.watch.running == 0


async def test_a_discarded_change_changes_nothing(world: World) -> None:
    await world.configure(spec("a", every=10.0))
    change = world.watch.prepare(_only("b"))
    await change.start()
    await change.discard()
    assert list(world.watch.all) == ["a"]
    await world.go(20)
    assert set(LAUNCHED) == {"a"}


async def test_prepare_refuses_what_does_not_compile(world: World) -> None:
    with pytest.raises(ConfigError, match=r"probes\[0\].fake.expect: unknown variable 'statsu'"):
        world.watch.prepare(OneSection([spec("a", check=FakeProbe(expect="statsu == 1"))]))


async def test_pause_is_durable_survives_reload_and_resume_asks_at_once(world: World) -> None:
    hang("a")
    await world.configure(spec("a", every=5.0))
    await world.go(6)
    view = await world.watch.pause("a")
    assert (view.status, view.next_s) == ("paused", None)
    assert CANCELLED == ["a"]
    assert world.store.kept_states["a"].paused
    before = len(LAUNCHED)
    await world.configure(spec("a", every=5.0, labels={"x": "y"}))
    assert world.watch.target("a").status == "paused"
    await world.configure(spec("a", url="fake://moved", every=5.0))
    await world.go(20)
    assert world.watch.target("a").status == "paused"
    assert len(LAUNCHED) == before
    SCRIPTS.clear()
    assert (await world.watch.resume("a")).status == "pending"
    await world.go(0.2)
    assert world.watch.target("a").status == "up"
    assert not world.store.kept_states["a"].paused


async def test_a_pause_in_the_configuration_ends_with_it(world: World) -> None:
    await world.configure(spec("a", every=1.0, timeout=1.0, paused=True))
    await world.go(5)
    assert LAUNCHED == []
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(2)
    assert world.watch.target("a").status == "up"


async def test_maintenance_hides_a_failure_and_ends_with_the_truth(world: World) -> None:
    answer("a", bad())
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.watch.set_maintenance(["a"], on=True)
    await world.go(6)
    assert world.watch.target("a").status == "maintenance"
    await world.watch.set_maintenance(["a"], on=False)
    assert statuses(world, "a") == ["maintenance", "down"]


async def test_run_now_joins_an_attempt_under_way(world: World) -> None:
    waiting = hang("a")
    await world.configure(spec("a", every=60.0))
    both = asyncio.gather(world.watch.run_now("a"), world.watch.run_now("a"))
    await asyncio.sleep(0)
    assert len(waiting) == 1
    waiting[0](good())
    first, second = await both
    assert first is second
    assert len(world.store.rows) == 1


async def test_run_now_ends_when_the_target_is_paused(world: World) -> None:
    hang("a")
    await world.configure(spec("a", every=60.0))
    running = asyncio.ensure_future(world.watch.run_now("a"))
    await asyncio.sleep(0)
    await world.watch.pause("a")
    with pytest.raises(TransientError, match="paused or changed"):
        await running


async def test_unknown_names_say_the_nearest(world: World) -> None:
    await world.configure(spec("edge-lb"))
    with pytest.raises(NotFound) as caught:
        world.watch.target("edge-lv")
    assert "edge-lb" in caught.value.hint
    for call in (world.watch.pause, world.watch.resume, world.watch.run_now):
        with pytest.raises(NotFound):
            await call("nope")


async def test_an_ad_hoc_probe_leaves_nothing(world: World) -> None:
    result, families = await world.watch.run_ad_hoc(
        "fake", {"url": "fake://x", "expect": "status == 500"}, timeout_s=1.0
    )
    assert (result.success, result.message) == (False, "status == 500 was false: status is 200")
    assert families[0].name == "probe_success"
    assert world.store.rows == []
    assert world.watch.targets() == []
    for kind, options, message in (
        ("fke", {}, "unknown probe kind"),
        ("fake", {"ulr": ""}, "fake.ulr: unknown option; did you mean 'url'"),
        ("fake", {"limit": "x"}, "fake.limit: expected a whole number"),
        ("fake", {"url": ""}, "not a url"),
        ("fake", {"expect": "status"}, "true or false"),
    ):
        with pytest.raises(ConfigError, match=message):
            await world.watch.run_ad_hoc(kind, options, timeout_s=1.0)


async def test_a_ping_is_on_disk_and_judged_at_once(world: World) -> None:
    await world.configure(spec("backup", check=HeartbeatProbe(id="secret-id"), every=60.0), spec("a"))
    await world.watch.ping("secret-id", signal="success", exit_status=None, body="all well", remote="::1")
    assert world.store.kept_pings[0].target == "backup"
    await world.settle()
    assert world.watch.target("backup").status == "up"
    await world.watch.ping("secret-id", signal="fail", exit_status=None, body="", remote="")
    assert world.store.rows[-1].success is False
    await world.settle()
    assert world.watch.target("backup").status == "down"
    for name in ("a", "backup", "nope"):
        with pytest.raises(NotFound):
            await world.watch.ping(name, signal="success", exit_status=None, body="", remote="")


async def test_a_heartbeat_that_nobody_called_yet_is_pending_and_not_counted(world: World) -> None:
    await world.configure(spec("backup", check=HeartbeatProbe(), every=5.0))
    for _ in range(5):
        result = await world.watch.run_now("backup")
    assert result.reason == "missing"
    assert world.watch.target("backup").status == "pending"
    assert world.watch.target("backup").last_message == "has not called yet"
    assert world.store.rows == []
    assert world.store.kept_failures == []


async def test_two_heartbeats_with_one_id_are_refused(world: World) -> None:
    both = [spec("a", check=HeartbeatProbe(id="x")), spec("b", check=HeartbeatProbe(id="x"))]
    with pytest.raises(ConfigError, match="same URL"):
        world.watch.prepare(OneSection(both))


async def test_pings_are_remembered_over_a_restart() -> None:
    world = World()
    await world.configure(spec("backup", check=HeartbeatProbe(), every=60.0))
    await world.watch.ping("backup", signal="success", exit_status=None, body="", remote="")
    await world.watch.stop()
    again = World(store=world.store)
    await again.configure(spec("backup", check=HeartbeatProbe(), every=60.0))
    result = await again.watch.run_now("backup")
    assert result.success
    await again.watch.stop()


async def test_the_wall_clock_may_jump(world: World) -> None:
    await world.configure(spec("a", every=1.0, timeout=1.0, startup=Startup(grace=3.0)))
    answer("a", bad())
    for jump_s in (86_400.0, -400_000.0, 5.0):
        world.clock.jump(jump_s)
        await world.go(2)
    assert len(world.store.rows) == 6
    assert statuses(world, "a") == ["down"]


async def test_heavy_values_are_not_kept_with_a_target(world: World) -> None:
    answer("a", msgspec.structs.replace(good(), values={"status": 200, "body": "x" * 100_000, "json": {"a": 1}}))
    await world.configure(spec("a", every=1.0, timeout=1.0, check=FakeProbe(expect='body != "" && has(json.a)')))
    await world.go(2)
    assert world.watch.target("a").values == {"status": 200}
    last = world.watch.all["a"].last_result
    assert last is not None
    assert dict(last.values) == {"status": 200}
    assert last.evidence is None


async def test_the_timer_drives_it_without_help(world: World) -> None:
    world.watch.clock = SystemClock()
    await world.configure(spec("a", every=0.1, timeout=0.1))
    with world.bus.subscribe("result") as events:
        async with asyncio.timeout(60):
            assert len([event async for event in _first(events, 3)]) == 3


async def test_who_waits_for_a_place_gets_it_when_the_others_are_forgotten() -> None:
    world = World(concurrency=2)
    for name in ("a", "b"):
        SCRIPTS[name] = lambda _attempt, _done: None  # never ends by itself
    await world.configure(*(spec(name, every=10.0) for name in ("a", "b", "c")))
    for name in ("a", "b", "c"):
        world.watch.schedule.put(world.watch.all[name], 0.0 if name != "c" else 0.001)
    await world.go(1)
    assert world.watch.waiting == 1
    await world.configure(spec("c", every=10.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.watch.waiting == 0
    assert LAUNCHED.count("c") == 1
    await world.watch.stop()
