"""The whole way: a file changes on disk, the watcher sees it, the reload applies it or keeps the old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import uvloop
from tests.integration.test_config_watch import configmap
from tests.unit.config.watchlike import CATALOG, SERVER, until

from dogwatch.config.load import Loader
from dogwatch.config.part import Configuration
from dogwatch.config.reload import Reloader
from dogwatch.config.watch import Timing
from dogwatch.core.bus import Bus
from dogwatch.core.clock import SystemClock


class Recorder:
    """A part that remembers what is in force."""

    name = "recorder"

    def __init__(self) -> None:
        self.listen = ""
        self.changed = asyncio.Event()

    def prepare(self, configuration: Configuration) -> Recorder:
        self.next = configuration.get(SERVER).listen + (configuration.get(SERVER).token or "")
        return self

    async def start(self) -> None: ...

    def swap(self) -> None:
        self.listen = self.next
        self.changed.set()

    async def finish(self) -> None: ...

    async def discard(self) -> None: ...

    async def stop(self) -> None: ...

    async def until(self, listen: str) -> None:
        async with asyncio.timeout(60):
            while self.listen != listen:
                self.changed.clear()
                await self.changed.wait()


class Daemon:
    def __init__(self, path: Path) -> None:
        self.part = Recorder()
        self.bus = Bus()
        self.reloader = Reloader(Loader([path], CATALOG, environ={}), [self.part], clock=SystemClock(), bus=self.bus)

    async def run(self) -> AsyncGenerator[Daemon, None]:
        await self.reloader.start()
        timing = Timing(quiet_s=0.03, safety_s=60.0)
        task = asyncio.create_task(self.reloader.watch(timing=timing))
        await until(self.known)
        yield self
        task.cancel()
        await asyncio.wait([task])
        await self.reloader.close()

    def known(self) -> dict[Path, bytes]:
        """Return what the watcher has seen so far."""
        watcher = self.reloader._watcher
        return (watcher._known if watcher is not None else None) or {}

    async def outcome(self, wanted: str) -> None:
        await until(lambda: self.reloader.history()[0].outcome == wanted)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncGenerator[Daemon, None]:
    configmap(tmp_path / "etc", "1", "server: {listen: one}")
    async for running in Daemon(tmp_path / "etc" / "dogwatch.yaml").run():
        yield running


async def test_a_configmap_swap_is_applied(tmp_path: Path, daemon: Daemon) -> None:
    for version in ("2", "3"):
        configmap(tmp_path / "etc", version, f"server: {{listen: v{version}}}")
        await daemon.part.until(f"v{version}")
    record = daemon.reloader.history()[0]
    assert (record.trigger, record.changed) == ("file", ("~server.listen",))


async def test_a_bad_file_stays_reported_until_it_is_mended(tmp_path: Path, daemon: Daemon) -> None:
    configmap(tmp_path / "etc", "2", "server: {listen: [")
    await daemon.outcome("failed")
    assert daemon.part.listen == "one"
    assert daemon.reloader.failing is not None
    assert daemon.reloader.failing.problems[0].startswith(str(tmp_path / "etc" / "dogwatch.yaml:1: not YAML"))
    configmap(tmp_path / "etc", "3", "server: {listen: three}")
    await daemon.part.until("three")
    assert daemon.reloader.failing is None


async def test_a_file_that_is_away_for_a_while(tmp_path: Path, daemon: Daemon) -> None:
    path = tmp_path / "etc" / "dogwatch.yaml"
    path.unlink()
    await daemon.outcome("failed")
    path.write_text("server: {listen: back}")
    await daemon.part.until("back")


async def test_a_secret_that_is_rotated_is_read_again(tmp_path: Path, daemon: Daemon) -> None:
    (tmp_path / "token").write_text("1\n")
    configmap(tmp_path / "etc", "2", f"server: {{listen: x, token: '${{file:{tmp_path}/token}}'}}")
    await daemon.part.until("x1")
    # The watcher learns of the new file after the reload has read it.
    await until(lambda: tmp_path / "token" in daemon.known())
    (tmp_path / "token").write_text("2\n")
    await daemon.part.until("x2")


def test_on_uvloop(tmp_path: Path) -> None:
    configmap(tmp_path / "etc", "1", "server: {listen: one}")

    async def run() -> None:
        async for running in Daemon(tmp_path / "etc" / "dogwatch.yaml").run():
            configmap(tmp_path / "etc", "2", "server: {listen: two}")
            await running.part.until("two")

    uvloop.run(run())


async def test_what_changed_before_the_watch_began_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.yaml"
    path.write_text("server: {listen: one}")
    daemon = Daemon(path)
    await daemon.reloader.start()
    path.write_text("server: {listen: two}")
    task = asyncio.create_task(daemon.reloader.watch(timing=Timing(quiet_s=0.03, safety_s=60.0)))
    try:
        await daemon.part.until("two")
    finally:
        task.cancel()
        await asyncio.wait([task])
        await daemon.reloader.close()
