"""What app.py hands to the parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dogwatch.app import open_app
from dogwatch.config.load import Loader
from dogwatch.config.overrides import Override
from dogwatch.core.clock import ManualClock
from dogwatch.features import SECTIONS
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import clock_of


async def test_probes_tell_the_time_by_the_injected_clock(tmp_path: Path) -> None:
    path = Override(("store", "path"), str(tmp_path / "store.sqlite"), "--data")
    clock = ManualClock()
    loaded = Loader([], SECTIONS, environ={}, overrides=[path]).load()
    app = await open_app(loaded, clock=clock, spawn=lambda name, work: asyncio.create_task(work, name=name))
    try:
        assert clock_of(Attempt(target="t", timeout_s=1.0, env=app.env, memory={})) is clock
    finally:
        for part in reversed(app.parts):
            await part.stop()
        await app.close()
