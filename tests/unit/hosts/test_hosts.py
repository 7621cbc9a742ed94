"""The part: configuration in, samples to the store, events to the bus, reload without loss."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from tests.unit.hosts.fakes import Configured, KeptSamples, ScriptedCollector, ScriptedSampler

from dogwatch.core.bus import Bus, Subscription
from dogwatch.core.clock import ManualClock
from dogwatch.core.metrics import render
from dogwatch.core.values import Signal
from dogwatch.errors import NotFound
from dogwatch.hosts.collectors.cpu import CpuCollector
from dogwatch.hosts.collectors.load import LoadCollector
from dogwatch.hosts.collectors.memory import MemoryCollector
from dogwatch.hosts.history import KEPT
from dogwatch.hosts.hosts import Hosts, HostSample
from dogwatch.hosts.section import COLLECTORS, HOST, Collectors, ExtraCollector, HostSpec, check

# Its counters stand still: a rate of nothing, where there is one.
RECORDED = str(Path(__file__).parents[2] / "cases" / "hosts" / "old-3.10")


def only(*kinds: str, **options: object) -> Collectors:
    """Return collectors of which only some are on."""
    fields = {kind: COLLECTORS.get(kind)(enabled=kind in kinds) for kind in COLLECTORS.kinds()}
    return Collectors(**{**fields, **options})


class Stage:
    def __init__(self) -> None:
        self.clock = ManualClock(monotonic_s=9000.0)
        self.bus = Bus()
        self.store = KeptSamples()
        self.signals: list[Signal] = []
        self.hosts = Hosts(clock=self.clock, bus=self.bus, store=self.store, on_signal=self.signals.append)

    async def put(self, spec: HostSpec) -> None:
        prepared = self.hosts.prepare(Configured(spec))
        await prepared.start()
        prepared.swap()
        await prepared.finish()

    def tick(self, seconds: float = 15.0) -> None:
        self.clock.advance(seconds)
        self.hosts._runner.run_due()


def events(subscription: Subscription) -> list[HostSample]:
    found = [event.data for event in subscription._events]
    subscription._events.clear()
    return [data for data in found if isinstance(data, HostSample)]


async def test_samples_go_to_the_store_the_bus_and_the_deciders() -> None:
    stage = Stage()
    with stage.bus.subscribe("sample") as subscription:
        await stage.put(HostSpec(name="web-1", collectors=only("cpu", "load", "memory")))
        stage.tick(0.0)
        stage.tick()
        host, time_s, values = stage.store.samples[-1]
        assert (host, time_s) == ("web-1", stage.clock.now_s())
        assert {"node_load1", "dogwatch_host_memory_used_ratio", "node_memory_MemAvailable_bytes"} <= values.keys()
        heard = events(subscription)
        assert [event.host for event in heard] == ["web-1", "web-1"]
        assert heard[-1].values == values
        assert {"host.load", "host.memory"} <= {signal.source for signal in stage.signals}
        assert {signal.target for signal in stage.signals} == {"web-1"}
    names = {name.partition("{")[0] for _, _, values in stage.store.samples for name in values}
    assert names <= {kept.name for kept in KEPT}
    await stage.hosts.stop()


async def test_an_event_is_published_at_most_once_an_interval_and_loses_nothing() -> None:
    stage = Stage()
    collectors = only("load", memory=MemoryCollector(every=5.0))
    with stage.bus.subscribe("sample") as subscription:
        await stage.put(HostSpec(every=15.0, collectors=collectors))
        stage.tick(0.0)
        for _ in range(6):
            stage.tick(5.0)
        heard = events(subscription)
    assert len(stage.store.samples) == 7
    assert [round(event.time_s - heard[0].time_s) for event in heard] == [0, 15, 30]
    assert all({"node_load1", "dogwatch_host_memory_used_ratio"} <= event.values.keys() for event in heard)
    await stage.hosts.stop()


async def test_a_wall_clock_that_jumps_back_does_not_silence_events() -> None:
    stage = Stage()
    with stage.bus.subscribe("sample") as subscription:
        await stage.put(HostSpec(collectors=only("load")))
        stage.tick(0.0)
        stage.clock.jump(-86400.0)
        stage.tick()
        assert len(events(subscription)) == 2
    await stage.hosts.stop()


async def test_nothing_is_built_for_nobody() -> None:
    stage = Stage()
    await stage.put(HostSpec(collectors=only("load")))
    stage.tick(0.0)
    assert stage.bus.published == 0
    await stage.hosts.stop()


async def test_reload_keeps_what_did_not_change() -> None:
    stage = Stage()
    await stage.put(HostSpec(name="a", root=RECORDED, collectors=only("network", "load", "memory")))
    stage.tick(0.0)
    before = dict(stage.hosts.entries)
    changed = only("network", "memory", "uptime", memory=MemoryCollector(vmstat_fields=""))
    await stage.put(HostSpec(name="b", root=RECORDED, collectors=changed))
    after = stage.hosts.entries
    assert after.keys() == {"network", "memory", "uptime"}
    assert after["network"] is before["network"], "with its descriptors, its rates, its schedule and its counters"
    assert after["memory"] is not before["memory"]
    files = [before["load"].sampler._file, before["memory"].sampler._meminfo]
    assert [file._fd for file in files] == [-1, -1], "what was replaced is closed"
    stage.tick()
    assert stage.hosts.hosts()[0].network_receive_bytes_per_s == 0.0, (
        "the first sample before the reload, the second after it"
    )
    assert stage.hosts.host("b").name == "b"
    await stage.hosts.stop()


async def test_a_discarded_reload_changes_nothing() -> None:
    stage = Stage()
    await stage.put(HostSpec(name="a", collectors=only("load")))
    stage.tick(0.0)
    before = dict(stage.hosts.entries)
    prepared = stage.hosts.prepare(Configured(HostSpec(name="b", every=60.0, collectors=only("load", "cpu"))))
    await prepared.start()
    await prepared.discard()
    assert stage.hosts.entries == before
    assert stage.hosts.hosts()[0].name == "a"
    stage.tick()
    assert before["load"].view().ok
    await stage.hosts.stop()


async def test_interval_of_collector_kind_and_section() -> None:
    stage = Stage()
    await stage.put(HostSpec(every=20.0, collectors=only("load", "system", cpu=CpuCollector(every=5.0))))
    every = {view.name: view.every_s for view in stage.hosts.hosts()[0].collectors}
    assert every == {"cpu": 5.0, "load": 20.0, "system": 300.0}
    await stage.hosts.stop()


async def test_stop_closes_everything_and_ends_the_task() -> None:
    stage = Stage()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    await stage.put(HostSpec(extra=(ExtraCollector(collector=ScriptedCollector()),)))
    sampler = stage.hosts.entries["scripted"].sampler
    assert isinstance(sampler, ScriptedSampler)
    stage.tick(0.0)
    assert len(os.listdir("/proc/self/fd")) > before  # noqa: PTH208
    await stage.hosts.stop()
    await stage.hosts.stop()
    assert sampler.closed == 1
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("hosts")] == []


async def test_it_runs_by_itself() -> None:
    stage = Stage()
    await stage.put(HostSpec(collectors=only("load")))
    async with asyncio.timeout(60):
        while not stage.store.samples:  # noqa: ASYNC110  # a list, not an event
            await asyncio.sleep(0)
    await stage.hosts.stop()


async def test_unknown_host() -> None:
    stage = Stage()
    await stage.put(HostSpec(name="a", collectors=only()))
    with pytest.raises(NotFound, match="no host 'b'"):
        stage.hosts.host("b")
    assert "dogwatch_host_blocking_calls 0" in render(stage.hosts.metrics())
    await stage.hosts.stop()


def test_every_collector_is_an_option_and_the_section_has_a_schema() -> None:
    assert Collectors.__struct_fields__ == COLLECTORS.kinds()
    assert HostSpec().enabled().keys() == set(COLLECTORS.kinds())
    assert HOST.default() == HostSpec()
    assert list(check(HostSpec())) == []
    assert msgspec.convert({"load": {"every": 5}}, Collectors).load == LoadCollector(every=5.0)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"load": {"every": -1}}, Collectors)


def test_the_check_finds_what_types_cannot_say() -> None:
    collectors = only(network=COLLECTORS.get("network")(exclude_devices="("), cpu=CpuCollector(every=0.0, timeout=0.0))
    extra = (ExtraCollector(collector=CpuCollector()),)
    faults = {
        fault.path: fault.message
        for fault in check(HostSpec(every=0.0, root="host", collectors=collectors, extra=extra))
    }
    assert faults.keys() == {
        ("every",),
        ("root",),
        ("collectors", "network", "exclude_devices"),
        ("collectors", "cpu", "every"),
        ("collectors", "cpu", "timeout"),
        ("extra", 0, "cpu"),
    }
    assert "not a regular expression" in faults["collectors", "network", "exclude_devices"]
