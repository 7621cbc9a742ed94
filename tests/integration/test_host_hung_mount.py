"""A filesystem that hangs blocks only itself: a real FUSE mount that stops answering, and comes back."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.hung_fuse import HungFuse

from dogwatch.core.clock import ManualClock
from dogwatch.core.metrics import render
from dogwatch.hosts.calls import BlockingCalls
from dogwatch.hosts.collectors.filesystem import FilesystemCollector
from dogwatch.hosts.collectors.load import LoadCollector
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner

# Other tests look at the mounts of this machine, too.
pytestmark = pytest.mark.serial


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[HungFuse]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not usable here")
    try:
        fuse = HungFuse(tmp_path)
    except OSError as error:
        pytest.skip(f"may not mount here: {error}")
    try:
        yield fuse
    finally:
        fuse.close()


def hung_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hosts statvfs")]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread or the kernel does; pytest's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110  # nothing would set an event
        await asyncio.sleep(0.005)


async def test_a_mount_that_hangs_is_reported_and_asked_once(mount: HungFuse) -> None:
    point = str(mount.path)
    clock = ManualClock()
    calls = BlockingCalls()
    machine = Machine(calls=calls)
    collectors = (FilesystemCollector(timeout=0.5), LoadCollector())
    entries = {c.kind: Entry(c, c.open(machine), every_s=15.0) for c in collectors}
    runner = Runner(clock, lambda _at, _entries: None)
    runner.replace(entries)
    files = entries["filesystem"]

    async def tick() -> None:
        clock.advance(15.0)
        runner.run_due()
        while files.task is not None:
            await asyncio.wait([files.task])

    def error_of(mountpoint: str) -> float | None:
        for line in render(runner.families()).splitlines():
            if line.startswith("node_filesystem_device_error") and f'mountpoint="{mountpoint}"' in line:
                return float(line.rsplit(" ", 1)[1])
        return None

    await tick()
    assert files.view().ok, files.view().message
    assert error_of(point) == 0
    assert mount.asked == 1
    others = {view.mountpoint for view in runner.glance().filesystems} - {point}

    mount.hang()
    for times in range(1, 4):
        await tick()
        view = files.view()
        assert not view.ok
        assert point in view.message
        assert error_of(point) == 1
        assert {other: error_of(other) for other in others} == dict.fromkeys(others, 0.0), "as fresh as ever"
        assert f'node_filesystem_size_bytes{{device="hung",fstype="fuse.dogwatch",mountpoint="{point}"}}' not in render(
            runner.families()
        )
        assert entries["load"].view().ok
        assert entries["load"].runs.value == times + 1
        assert files.timeouts.value == 0, "its own deadline is kept in spite of the mount"
        assert mount.asked == 2, "never asked again while the first call hangs"
        assert len(hung_threads()) == calls.running == 1
    assert "still hangs" in files.view().message
    assert "for 30 s" in files.view().message

    # A reload makes another sampler; the mount that hangs is still not asked a second time.
    again = Entry(collectors[0], collectors[0].open(machine), every_s=15.0)
    runner.replace({**entries, "filesystem": again})
    await files.close()
    files = again
    await tick()
    assert mount.asked == 2
    assert error_of(point) == 1

    mount.release()
    await until(lambda: not calls.running)
    await tick()
    assert files.view().ok, files.view().message
    assert error_of(point) == 0
    await until(lambda: not hung_threads())
    for entry in (files, entries["load"]):
        await entry.close()


async def test_stopping_does_not_wait_for_a_mount_that_hangs(mount: HungFuse) -> None:
    clock = ManualClock()
    machine = Machine()
    collector = FilesystemCollector(timeout=600.0)
    entry = Entry(collector, collector.open(machine), every_s=15.0)
    runner = Runner(clock, lambda _at, _entries: None)
    runner.replace({entry.name: entry})
    mount.hang()
    runner.run_due()
    await until(lambda: mount.asked > 0)
    async with asyncio.timeout(30):
        await entry.close()
    mount.release()
    await until(lambda: not machine.calls.running)


async def test_a_mount_that_appears_and_goes_is_followed(tmp_path: Path, mount: HungFuse) -> None:
    """The mount table is read again when the kernel says that it changed, not at every sample."""
    machine = Machine()
    sampler = FilesystemCollector(timeout=2.0).open(machine)
    entry = Entry(FilesystemCollector(timeout=2.0), sampler, every_s=15.0)
    clock = ManualClock()
    runner = Runner(clock, lambda _at, _entries: None)
    runner.replace({entry.name: entry})

    async def points() -> set[str]:
        clock.advance(15.0)
        runner.run_due()
        while entry.task is not None:
            await asyncio.wait([entry.task])
        return {view.mountpoint for view in runner.glance().filesystems}

    assert str(mount.path) in await points()
    second_path = tmp_path.parent / "second"
    second_path.mkdir()
    second = HungFuse(second_path)
    try:
        assert str(second_path) in await points()
    finally:
        second.close()
    assert str(second_path) not in await points()
    await entry.close()
