"""Real receivers that are frozen, killed and away while logs are delivered: nothing is lost, each record has one id."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from pathlib import Path

import pytest
from tests.integration.logs.test_delivery import FileFeeder, configured, lazy
from tests.log_peers import Peer, running
from tests.log_targets import TARGETS
from tests.log_world import Agent

# These answer before what they took is where a kill leaves it, or in memory for good: they are frozen alone.
FORGETFUL = {"collector", "rsyslog", "syslog", "loki", "elasticsearch", "otlp", "clickhouse", "s3"}
REAL = sorted(name for name, one in TARGETS.items() if one.peer is not None)
# One of each protocol, of those that start in a moment.
PLAIN = {"nats", "real-s3", "collector", "rsyslog", "clickhouse", "loki"}


async def _trouble(peer: Peer, feeder: FileFeeder, *, kill: bool) -> None:
    if kill:
        await asyncio.to_thread(peer.stop, signal.SIGKILL)
    else:
        peer.send(signal.SIGSTOP)
    for _ in range(10):
        await feeder.feed()
        await asyncio.sleep(0.1)
    if kill:
        await asyncio.to_thread(peer.start)
    else:
        peer.send(signal.SIGCONT)


@lazy
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", [one if one in PLAIN else pytest.param(one, marks=pytest.mark.soak) for one in REAL])
async def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    feeder = FileFeeder(tmp_path / "in", random.Random(5))
    kind = TARGETS[name].peer
    assert kind is not None
    with running(kind) as peer:
        target = await asyncio.to_thread(TARGETS[name], tmp_path, peer, None)
        agent = Agent(configured(tmp_path, feeder, target), tmp_path / "state")
        await agent.start()
        for turn in range(4):
            for _ in range(8):
                await feeder.feed()
                await asyncio.sleep(0.03)
            await _trouble(peer, feeder, kill=turn % 2 == 1 and name not in FORGETFUL)
        wanted = set(feeder.written)
        found: list[tuple[str, str]] = []
        for _ in range(600):
            with contextlib.suppress(TimeoutError):  # it may still be on its way back
                found = await asyncio.to_thread(target.received)
            if wanted <= {message for _id, message in found}:
                break
            await asyncio.sleep(0.1)
        assert await agent.stop() == 0
        await asyncio.to_thread(target.close)
    ids: dict[str, set[str]] = {}
    for one, message in found:
        ids.setdefault(message, set()).add(one)
    lost = sorted(wanted - set(ids))
    assert not lost, f"{len(lost)} lost: {lost[:3]}"
    assert set(ids) - wanted <= {"# the same first line"}
    assert all(len(known) == 1 for message, known in ids.items() if message in wanted)
    assert not (tmp_path / "state" / "dead").exists()
