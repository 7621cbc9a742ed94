"""Metrics of the watch: valid exposition, labels that cannot clash, counts that add up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from watch_fakes import SCRIPTS, FakeProbe, World, bad, good, spec

from dogwatch.core.metrics import render
from dogwatch.probes.metrics import probe_families


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.watch.stop()


def samples(world: World) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(render(world.watch.metrics())):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def of(world: World, name: str, /, **labels: str) -> list[float]:
    wanted = labels.items()
    return [value for (found, has), value in samples(world).items() if found == name and wanted <= dict(has).items()]


async def test_every_target_has_its_series_with_its_labels(world: World) -> None:
    await world.configure(spec("a", group="web", labels={"team": "shop"}), spec('b "q"\\'), spec("never", paused=True))
    await world.go(31)
    assert of(world, "probe_success", target="a", kind="fake", group="web", team="shop") == [1.0]
    assert of(world, "probe_success", target='b "q"\\') == [1.0]
    assert of(world, "probe_success", target="never") == []
    assert of(world, "dogwatch_probe_status", target="never") == [4.0]
    assert of(world, "probe_http_status_code", target="a") == [200.0]
    assert of(world, "probe_duration_seconds", target="a") == [0.01]
    assert of(world, "probe_dns_lookup_time_seconds", target="a") == [0.001]


async def test_labels_that_clash_or_are_no_names_are_made_safe(world: World) -> None:
    labels = {"target": "x", "a-b": "1", "a_b": "2", "9": "3", "__name__": "4", "le": "5", "ü": "6"}
    await world.configure(spec("a", labels=labels))
    await world.go(31)
    ((_name, has),) = [key for key in samples(world) if key[0] == "probe_success"]
    assert dict(has) == {
        "target": "a",
        "kind": "fake",
        "label_target": "x",
        "a_b": "1",
        "a_b_": "2",
        "label_9": "3",
        "label_name__": "4",
        "label_le": "5",
        "_": "6",
    }


async def test_results_skips_and_lateness_are_counted(world: World) -> None:
    await world.configure(spec("a", every=1.0, timeout=1.0))
    await world.go(5)
    SCRIPTS["a"] = lambda _attempt, done: done(bad("timeout"))
    await world.go(3)
    SCRIPTS["a"] = lambda _attempt, _done: None
    await world.go(3)
    assert of(world, "dogwatch_probe_results_total", target="a", result="success") == [5.0]
    assert of(world, "dogwatch_probe_results_total", target="a", result="timeout") == [3.0]
    assert of(world, "dogwatch_probe_skipped_total", target="a") == [2.0]
    assert of(world, "dogwatch_probe_lateness_seconds_count") == [9.0]
    assert of(world, "dogwatch_probe_lateness_seconds_bucket", le="+Inf") == [9.0]
    assert of(world, "dogwatch_watch_running") == [1.0]


async def test_a_change_of_labels_shows_at_once(world: World) -> None:
    await world.configure(spec("a", labels={"team": "one"}))
    await world.go(31)
    assert of(world, "probe_success", team="one") == [1.0]
    await world.configure(spec("a", labels={"team": "two"}))
    assert of(world, "probe_success", team="one") == []
    assert of(world, "probe_success", team="two") == [1.0]


async def test_texts_become_labels(world: World) -> None:
    SCRIPTS["a"] = lambda _attempt, done: done(good(tls_version="TLSv1.3"))
    await world.configure(spec("a"))
    await world.go(31)
    assert of(world, "probe_tls_version_info", target="a", version="TLSv1.3") == [1.0]
    assert of(world, "probe_fake_seconds", target="a", phase="odd") == []
    SCRIPTS["a"] = lambda _attempt, done: done(good(odd_s=0.5))
    await world.watch.run_now("a")
    assert of(world, "probe_fake_seconds", target="a", phase="odd") == [0.5]


@pytest.mark.parametrize("expect", [None, "data.a > 0.0"])
async def test_numbers_of_a_map_become_series_bounded_in_number(world: World, expect: str | None) -> None:
    data = {"a": 1, "b c": 2.5, "text": "no", **{f"n{number}": number for number in range(100)}}
    SCRIPTS["a"] = lambda _attempt, done: done(good(data=data))
    await world.configure(spec("a", check=FakeProbe(url="fake://a", expect=expect)))
    await world.go(31)
    assert of(world, "probe_fake_value", target="a", name="a") == [1.0]
    assert of(world, "probe_fake_value", target="a", name="b c") == [2.5]
    assert of(world, "probe_fake_value", target="a", name="text") == []
    assert len(of(world, "probe_fake_value")) == 50
    result = good(data={"a": 1, "b": 2})
    (family,) = [one for one in probe_families(world.watch.all["a"].check, result) if one.name == "probe_fake_value"]
    assert list(family.series) == [('probe_fake_value{name="a"}', 1.0), ('probe_fake_value{name="b"}', 2.0)]
