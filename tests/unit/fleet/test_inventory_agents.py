"""Hosts of workers as a source of the inventory."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogwatch.config.load import Loader
from dogwatch.engine.values import Worker
from dogwatch.errors import ConfigError
from dogwatch.fleet.inventory.draft import Draft
from dogwatch.fleet.inventory.sources import AgentsSource
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.section import FLEET

pytestmark = pytest.mark.allow_leak("thread:*asyncio*", reason="the loop's own threads read the sources")


def worker(host: str, *, state: str = "active", heartbeat_s: float = 1.0, **labels: str) -> Worker:
    return Worker(
        worker_id=f"{host}-{heartbeat_s}",
        host=host,
        pid=1,
        state=state,
        labels=labels,
        slots=1,
        started_s=0.0,
        heartbeat_s=heartbeat_s,
        version="1",
    )


def part(tmp_path: Path, text: str) -> FleetPart:
    (tmp_path / "dogwatch.yaml").write_text(text)
    made = FleetPart()
    made.prepare(Loader([tmp_path / "dogwatch.yaml"], [FLEET], environ={}).load()).swap()
    return made


async def test_hosts_of_workers_are_hosts(tmp_path: Path) -> None:
    fleet = part(tmp_path, "fleet:\n  sources: [agents: {group: mine}]\n  hosts: {b1: {user: deploy}}\n")
    found = [
        worker("b1", heartbeat_s=5.0, zone="new"),
        worker("b1", state="lost", heartbeat_s=9.0, zone="old", rack="7"),
        worker("b2", state="draining"),
        worker("gone", state="lost"),
        worker("../etc"),
    ]

    async def workers() -> list[Worker]:
        return found

    fleet.workers = workers
    inventory = await fleet.inventory()
    assert ["cannot be the name of a host" in one.message for one in inventory.warnings] == [True]
    assert list(inventory.hosts) == ["b1", "b2"]
    assert inventory.groups_of("b2") == ("all", "mine")
    # Who lives is believed before who is lost; what the configuration says of a host joins.
    assert inventory.labels("b1") == {"rack": "7", "zone": "new"}
    assert inventory.variable("b1", "dogwatch_agent_state") == "active"
    assert inventory.variable("b1", "ansible_user") == "deploy"
    # They come and go without a reload.
    found.append(worker("b3"))
    assert "b3" in await fleet.inventory()


async def test_lost_hosts_where_they_are_wanted(tmp_path: Path) -> None:
    fleet = part(tmp_path, "fleet: {sources: [agents: {lost: true}]}\n")

    async def workers() -> list[Worker]:
        return [worker("gone", state="lost")]

    fleet.workers = workers
    inventory = await fleet.inventory()
    assert inventory.variable("gone", "dogwatch_agent_state") == "lost"


async def test_without_a_registry_it_says_where_to_ask(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known to the daemon only"):
        await part(tmp_path, "fleet: {sources: [agents: {}]}\n").inventory()


def test_what_is_no_daemon_is_a_problem() -> None:
    draft = Draft("agents")
    AgentsSource(server="ftp://x").read(Path(), draft)
    AgentsSource(server="http://127.0.0.1:1").read(Path(), draft)
    assert ["no http" in draft.problems[0].message, "cannot be fetched" in draft.problems[1].message] == [True, True]
