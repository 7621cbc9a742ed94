"""What probes say of hosts between two batches: pure judging, and the gate that asks until they have settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from dogwatch.errors import DogwatchError
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.plans.going import Gate
from dogwatch.fleet.plans.plan import PlayPlan
from dogwatch.fleet.sight import Looked

_EVERY_S = 2.0
_WELL = ("up", "degraded")
_ASIDE = ("paused", "maintenance")


def gate_by(look: Callable[[], Awaitable[Sequence[Looked]]], inventory: Inventory) -> Gate:
    """Return the gate that asks until the probes of a batch's hosts are well, or have had their time."""

    async def gate(play: PlayPlan, hosts: Sequence[str]) -> str:
        begun_s, end_s = time.time(), time.monotonic() + play.settle_s
        while True:
            try:
                told = sick(play.probes, hosts, await look(), inventory, since_s=begun_s)
            except DogwatchError as error:
                told = f"the probes cannot be asked: {error}"
            if not told or time.monotonic() >= end_s:
                return told
            await asyncio.sleep(min(_EVERY_S, max(0.01, end_s - time.monotonic())))

    return gate


def sick(
    match: Sequence[str],
    hosts: Sequence[str],
    targets: Sequence[Looked],
    inventory: Inventory,
    *,
    since_s: float,
) -> str:
    """Return which targets that stand for these hosts are not well, or were not looked at since then; or ""."""
    bad = set()
    for host in hosts:
        address = str(inventory.variable(host, "ansible_host") or host)
        wanted = [one.replace("{{ host }}", host).replace("{{ address }}", address).partition("=") for one in match]
        for target in targets:
            if target.status in _ASIDE or not all(_has(target, name, value) for name, _, value in wanted):
                continue
            if target.status not in _WELL:
                bad.add(f"{target.name} ({target.status})")
            elif (target.last_time_s or 0.0) < since_s:
                bad.add(f"{target.name} (has not looked since)")
    return f"probes are not well: {', '.join(sorted(bad))}" if bad else ""


def _has(target: Looked, name: str, value: str) -> bool:
    return target.name == value if name == "name" else target.labels.get(name) == value
