"""The self-watch as a part: it samples, finds, tells, shows, reloads and ends."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dogwatch.core.bus import Bus
from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.metrics import render
from dogwatch.core.values import Event
from dogwatch.diagnose.decider import Limits
from dogwatch.diagnose.sample import LagMeter, fd_limit, resident_bytes, started_at_s
from dogwatch.diagnose.self_watch import SECTION, SelfWatch, SelfWatchSettings


class Configured:
    def __init__(self, settings: SelfWatchSettings) -> None:
        self.settings = settings

    def get(self, section: object) -> SelfWatchSettings:
        assert section is SECTION
        return self.settings


async def apply(watch: SelfWatch, **settings: object) -> None:
    prepared = watch.prepare(Configured(SelfWatchSettings(**settings)))
    await prepared.start()
    prepared.swap()
    await prepared.finish()


async def test_it_samples_on_its_own_and_shows_metrics_that_prometheus_reads() -> None:
    watch = SelfWatch(clock=SystemClock(), bus=Bus())
    watch.register("queue", lambda: 7)
    watch.register("broken", lambda: 1 / 0)
    await apply(watch, every=0.1)
    async with asyncio.timeout(60):
        while watch.newest() is None:  # noqa: ASYNC110 - the sampler tells nobody; that is what is awaited
            await asyncio.sleep(0.01)
    families = {family.name: family for family in text_string_to_metric_families(render(watch.metrics()))}
    await watch.stop()
    for name in (
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_cpu_seconds",
        "process_start_time_seconds",
        "python_gc_collections",
        "dogwatch_loop_lag_seconds",
        "dogwatch_threads",
        "dogwatch_tasks",
        "dogwatch_findings",
    ):
        assert families[name].samples, name
    assert families["dogwatch_gauge"].samples[0].labels == {"name": "queue"}
    assert len(families["dogwatch_gauge"].samples) == 1
    assert families["process_open_fds"].samples[0].value < families["process_max_fds"].samples[0].value
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_leak_becomes_a_finding_with_its_creation_site_and_an_event() -> None:
    clock, bus = ManualClock(), Bus()
    watch = SelfWatch(clock=clock, bus=bus)
    await apply(watch, track_creation_sites=True)
    limits = Limits(settle=0.0, growth_window=600.0)

    async def leaking() -> None:
        await asyncio.Event().wait()

    leaked = []
    with bus.subscribe("finding") as subscription:
        for _ in range(60):
            leaked += [asyncio.create_task(leaking()) for _ in range(2)]
            clock.advance(10)
            watch.look(limits)
        (finding,) = watch.findings()
        events: list[Event] = []
        async for event in subscription:
            events.append(event)
            break
    assert "leaking" in finding.key
    site = next(fact for fact in finding.evidence if fact.what.startswith("created at"))
    assert "test_self_watch.py" in site.what
    assert site.last is not None
    assert site.last >= 50
    assert finding.evidence[0].per_hour == pytest.approx(720, rel=0.1)
    assert events[0].data.key == finding.key
    assert msgspec.json.decode(msgspec.json.encode(events[0]))["data"]["symptom"]
    await cancel_and_wait(leaked)
    await watch.stop()


async def test_descriptors_near_the_limit_are_told_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dogwatch.diagnose.sample.fd_limit", lambda: 10)
    watch = SelfWatch(clock=ManualClock(), bus=Bus())
    decision = watch.look(Limits())
    assert decision.begun[0].key == "fds"
    assert any(fact.what.startswith("open: ") for fact in watch.findings()[0].evidence)
    watch.look(Limits())
    assert any(fact.what.startswith("open: ") for fact in watch.findings()[0].evidence)


async def test_a_reload_replaces_the_sampler_and_keeps_what_is_known() -> None:
    watch = SelfWatch(clock=SystemClock(), bus=Bus())
    await apply(watch, every=0.1)
    first = watch._task
    await apply(watch, every=0.1)
    assert watch._task is first  # nothing changed
    await apply(watch, every=0.2, track_creation_sites=True)
    assert first is not None
    assert first.cancelled()
    assert asyncio.get_running_loop().get_task_factory() is not None
    await apply(watch, every=0.2)
    assert asyncio.get_running_loop().get_task_factory() is None
    await watch.stop()
    await watch.stop()


async def test_a_discarded_change_leaves_all_as_it_was() -> None:
    watch = SelfWatch(clock=SystemClock(), bus=Bus())
    prepared = watch.prepare(Configured(SelfWatchSettings()))
    await prepared.start()
    await prepared.discard()
    assert watch._task is None
    assert watch.findings() == []


@pytest.mark.parametrize(
    ("settings", "path"),
    [({"every": 0.01}, "every"), ({"growth_window": 60.0}, "growth_window"), ({"lag_warn": 0.0}, "lag_warn")],
)
def test_settings_that_make_no_sense_are_faults(settings: dict[str, float], path: str) -> None:
    assert [fault.path for fault in SECTION.check(SelfWatchSettings(**settings))] == [(path,)]
    assert list(SECTION.check(SECTION.default())) == []


async def test_the_lag_of_a_held_up_loop_is_measured() -> None:
    meter = LagMeter(0.01)
    meter.start()
    await asyncio.sleep(0.05)
    time.sleep(0.1)  # noqa: ASYNC251 - this is the hold-up
    held = meter.take()  # before the loop had a chance to run the beat
    assert held.max_s > 0.07
    await asyncio.sleep(0.05)
    assert meter.take().beats >= 1
    meter.stop()
    assert meter.take().max_s == 0


def test_the_process_figures_are_plausible() -> None:
    assert 10 * 2**20 < resident_bytes() < 2**32
    assert fd_limit() == 0 or fd_limit() > 10
    assert time.time() - 86400 < started_at_s() < time.time() + 2


async def test_a_sample_is_cheap() -> None:
    watch = SelfWatch(clock=SystemClock(), bus=Bus())
    forever = partial(asyncio.Event().wait)
    alive = [asyncio.create_task(forever()) for _ in range(1000)]
    best_s = 1.0
    for _ in range(5):
        started_s = time.perf_counter()
        watch.look(Limits())
        best_s = min(best_s, time.perf_counter() - started_s)
    await cancel_and_wait(alive)
    assert best_s < 0.05  # 1.5 ms when nobody else runs
