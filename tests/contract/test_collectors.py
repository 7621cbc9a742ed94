"""What every collector must do: on this machine, on recorded ones, and on files that make no sense."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dogwatch.core.clock import ManualClock
from dogwatch.core.metrics import render
from dogwatch.hosts.collector import Collector
from dogwatch.hosts.collectors import COLLECTORS
from dogwatch.hosts.history import KEPT
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner

CASES = Path(__file__).parents[1] / "cases" / "hosts"
MACHINES = sorted(path.name for path in CASES.iterdir() if path.is_dir())
KINDS = COLLECTORS.kinds()
# Example options of each; a collector without one fails test_every_collector_has_an_example.
EXAMPLES: dict[str, dict[str, object]] = {
    "cpu": {"every": 5.0},
    "load": {"every": 5.0},
    "memory": {"vmstat_fields": "^oom_kill$"},
    "disk_io": {"exclude_devices": "^loop"},
    "filesystem": {"timeout": 2.0, "exclude_mounts": "^/boot"},
    "network": {"exclude_devices": "^lo$"},
    "links": {"max_devices": 8},
    "sockets": {"fields": "^Tcp_.*"},
    "pressure": {"enabled": False},
    "descriptors": {"every": 60.0},
    "processes": {"top": 3, "keep_descriptors": 0},
    "uptime": {"every": 60.0},
    "system": {"every": 3600.0},
    "kernel": {"enabled": True},
    "containers": {"socket": "/run/docker.sock", "max_containers": 50},
}


def _same_disk(path: str) -> os.statvfs_result:
    """Answer for every mount of a recorded machine."""
    if "/run/dead" in path:
        raise OSError(116, "Stale file handle")
    return os.statvfs_result((4096, 4096, 1000, 400, 300, 200, 50, 50, 0, 255))


class Bench:
    """One collector under the runner, on a clock that the test moves."""

    def __init__(self, collector: Collector, root: str = "/") -> None:
        self.clock = ManualClock()
        machine = Machine(root) if root == "/" else Machine(root, statvfs=_same_disk)
        self.entry = Entry(collector, collector.open(machine), every_s=15.0)
        self.samples: list[tuple[str, float]] = []
        self.runner = Runner(self.clock, lambda _at, entries: self.samples.extend(self.runner.history(entries)))
        self.runner.replace({self.entry.name: self.entry})

    async def sample(self) -> None:
        self.clock.advance(15.0)
        self.runner.run_due()
        while self.entry.task is not None:
            await asyncio.wait([self.entry.task])

    def text(self) -> str:
        return render(self.runner.families())


async def observe(collector: Collector, root: str = "/", *, samples: int = 2) -> Bench:
    bench = Bench(collector, root)
    for _ in range(samples):
        await bench.sample()
    bench.text()
    bench.runner.glance()
    return bench


def shown_by(bench: Bench, root: Path) -> str:
    """Return what a recorded machine shows, without what this machine or the clock adds."""
    if not bench.entry.ran:
        return bench.entry.view().message.replace(str(root), "")
    ours = ("#", "dogwatch_collector", "node_scrape", "node_time")
    text = "\n".join(line for line in bench.text().splitlines() if not line.startswith(ours))
    trouble = bench.entry.view().message
    return text.replace(f'machine="{os.uname().machine}"', 'machine="…"') + (f"\nmessage: {trouble}" if trouble else "")


def _descriptors() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    before = _descriptors()
    yield
    # The event loop of the test is closed after this; its own descriptors are not ours.
    leaked = {name for name in _descriptors() - before if name.startswith(("/proc", "/sys", "/tmp"))}
    assert not {name for name in leaked if not name.endswith("/fd")}


def test_every_collector_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS)
    for kind, options in EXAMPLES.items():
        component = COLLECTORS.get(kind)
        assert component(**options).kind == kind
        assert component.__doc__
        assert component.metrics


@pytest.mark.parametrize("kind", KINDS)
async def test_succeeds_here_and_declares_what_it_shows(kind: str) -> None:
    bench = await observe(COLLECTORS.get(kind)())
    view = bench.entry.view()
    assert view.ok, view.message
    own = [
        f
        for f in text_string_to_metric_families(bench.text())
        if not f.name.startswith(("dogwatch_collector", "node_scrape"))
    ]
    declared = COLLECTORS.get(kind).metrics
    for family in own:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = next((metric for metric in declared if fnmatch.fnmatchcase(name, metric.name)), None)
        assert metric, f"{name} is not declared"
        assert metric.kind == ("untyped" if family.type == "unknown" else family.type)
        if metric.labels:
            assert {frozenset(sample.labels) for sample in family.samples} == {frozenset(metric.labels)}
    await bench.entry.close()
    await bench.entry.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_history_is_what_the_list_says(kind: str) -> None:
    bench = await observe(COLLECTORS.get(kind)())
    names = {text.partition("{")[0] for text, _ in bench.samples}
    assert names <= {kept.name for kept in KEPT}
    assert all(isinstance(value, int | float) and value == value and value >= 0 for _, value in bench.samples)
    await bench.entry.close()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
async def test_reads_recorded_machines(kind: str, machine: str) -> None:
    """Success, or a thing that machine has not: never a fault."""
    expected = (CASES / machine / "expected" / f"{kind}.txt").read_text()
    bench = await observe(COLLECTORS.get(kind)(), str(CASES / machine))
    shown = shown_by(bench, CASES / machine)
    await bench.entry.close()
    assert shown.strip() == expected.strip()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("containers", "system")])
async def test_an_empty_proc_is_reported(kind: str, tmp_path: Path) -> None:
    for path in (CASES / "old-3.10").rglob("*"):
        if path.is_file() and "expected" not in path.parts:
            copy = tmp_path / path.relative_to(CASES / "old-3.10")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(b"")
    bench = await observe(COLLECTORS.get(kind)(), str(tmp_path))
    view = bench.entry.view()
    assert "dogwatch_collector_runs_total" in bench.text()
    if kind in ("filesystem", "disk_io"):  # nothing is mounted, no disk is there
        assert "node_filesystem" not in bench.text()
        assert "node_disk" not in bench.text()
    else:
        assert not bench.entry.ran
        assert view.message
    await bench.entry.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "system"])
async def test_a_missing_proc_is_reported(kind: str, tmp_path: Path) -> None:
    bench = await observe(COLLECTORS.get(kind)(), str(tmp_path))
    view = bench.entry.view()
    assert not bench.entry.ran
    assert view.message
    assert view.ok == bench.entry.absent
    await bench.entry.close()


def _damage(root: Path, source: Path, change: random.Random, junk: bytes) -> None:
    for path in source.rglob("*"):
        if not path.is_file() or "expected" in path.parts:
            continue
        content = path.read_bytes()
        cut = change.randrange(len(content) + 1)
        how = change.randrange(4)
        damaged = (
            content[:cut],
            content[:cut] + junk + content[cut:],
            junk + content,
            bytes(byte ^ (1 << change.randrange(7)) if change.random() < 0.01 else byte for byte in content),
        )[how]
        copy = root / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(damaged)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), junk=st.binary(max_size=40), machine=st.sampled_from(MACHINES))
def test_damaged_files_are_reported_and_never_raised(
    seed: int, junk: bytes, machine: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    _damage(root, CASES / machine, random.Random(seed), junk)

    async def all_of_them() -> None:
        for component in COLLECTORS:
            bench = await observe(component(), str(root))
            list(text_string_to_metric_families(bench.text()))
            assert bench.entry.ran or bench.entry.view().message
            await bench.entry.close()

    try:
        asyncio.run(all_of_them())
    finally:
        shutil.rmtree(root)
