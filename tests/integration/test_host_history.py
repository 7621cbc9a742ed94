"""A host's samples on their whole way: from /proc to the store's file and back as history."""

from __future__ import annotations

from pathlib import Path

from tests.unit.hosts.fakes import Configured

from dogwatch.core.bus import Bus
from dogwatch.core.clock import ManualClock
from dogwatch.hosts.history import KEPT
from dogwatch.hosts.hosts import Hosts
from dogwatch.hosts.section import HostSpec
from dogwatch.store.limits import StoreLimits
from dogwatch.store.sqlite import open_store


async def test_what_is_kept_can_be_read_back(tmp_path: Path) -> None:
    clock = ManualClock(monotonic_s=9000.0)
    store = await open_store(tmp_path / "store.db", clock, StoreLimits())
    hosts = Hosts(clock=clock, bus=Bus(), store=store)
    prepared = hosts.prepare(Configured(HostSpec(name="web-1")))
    await prepared.start()
    prepared.swap()
    await prepared.finish()
    started_s = clock.now_s()
    for _ in range(4):
        hosts._runner.run_due()
        clock.advance(15.0)
    await store.flush()
    names = [kept.name for kept in KEPT]
    found = await store.series("web-1", names, since_s=started_s, until_s=clock.now_s(), points=100)
    by_series = {one.series: one.points for one in found}
    assert len(by_series["node_load1"]) == 4
    assert [time_s for time_s, _ in by_series["node_load1"]] == [started_s + 15.0 * n for n in range(4)]
    assert 0 < by_series["dogwatch_host_memory_used_ratio"][-1][1] < 1
    for view in hosts.hosts()[0].filesystems:
        if view.size_bytes:
            series = f'dogwatch_host_filesystem_used_ratio{{mountpoint="{view.mountpoint}"}}'
            assert 0 <= by_series[series][-1][1] <= 1
    assert 10 < len(by_series) < 500, "a useful selection, not every series"
    await hosts.stop()
    await store.close()
