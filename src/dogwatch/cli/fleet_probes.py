"""Asks a daemon how its probes see hosts between two batches of an apply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dogwatch.errors import DogwatchError

if TYPE_CHECKING:
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.plans.going import Gate
    from dogwatch.fleet.plans.plan import Plan, PlayPlan

_EVERY_S = 2.0
_WELL = ("up", "degraded")
_ASIDE = ("paused", "maintenance")


def gate_of(plan: Plan, inventory: Inventory, server: str | None) -> Gate | None:
    """Return the gate of the plan's probes; None where no play has any."""
    if not any(play.probes for play in plan.plays):
        return None
    from dogwatch.cli.client import client_of

    client = client_of(server, None)
    # Now, before anything is changed: without the daemon no batch could be judged.
    client.get("/api/v1/targets", limit=1)

    async def gate(play: PlayPlan, hosts: Sequence[str]) -> str:
        begun_s, end_s = time.time(), time.monotonic() + play.settle_s
        while True:
            try:
                probes = await asyncio.to_thread(client.all, "/api/v1/targets")
            except DogwatchError as error:
                told = f"the probes cannot be asked: {error}"
            else:
                told = sick(play.probes, hosts, probes, inventory, since_s=begun_s)
            if not told or time.monotonic() >= end_s:
                return told
            await asyncio.sleep(_EVERY_S)

    return gate


def sick(
    match: Sequence[str],
    hosts: Sequence[str],
    probes: Sequence[Mapping[str, Any]],
    inventory: Inventory,
    *,
    since_s: float,
) -> str:
    """Return which probes that watch these hosts are not well, or have not looked since then; or ""."""
    bad = []
    for host in hosts:
        address = str(inventory.variable(host, "ansible_host") or host)
        wanted = [one.replace("{{ host }}", host).replace("{{ address }}", address) for one in match]
        for probe in probes:
            if not all(_has(probe, one) for one in wanted) or probe.get("status") in _ASIDE:
                continue
            if probe.get("status") not in _WELL:
                bad.append(f"{probe.get('name')} ({probe.get('status')})")
            elif (probe.get("last_time_s") or 0.0) < since_s:
                bad.append(f"{probe.get('name')} (has not looked since)")
    return f"probes are not well: {', '.join(sorted(set(bad)))}" if bad else ""


def _has(probe: Mapping[str, Any], wanted: str) -> bool:
    name, _, value = wanted.partition("=")
    labels = probe.get("labels") or {}
    return str(labels.get(name, probe.get(name, ""))) == value
