"""Asks a daemon how its probes see hosts between two batches of an apply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.plans.going import Gate
    from dogwatch.fleet.plans.plan import Plan
    from dogwatch.fleet.sight import Looked


def gate_of(plan: Plan, inventory: Inventory, server: str | None, context: str | None) -> Gate | None:
    """Return the gate of the plan's probes; None where no play has any. Raises: Unreachable."""
    if not any(play.probes for play in plan.plays):
        return None
    from dogwatch.cli.client import chosen, client_of
    from dogwatch.fleet.plans.watching import gate_by
    from dogwatch.fleet.sight import Looked

    client = client_of(*chosen(server, context))
    # Now, before anything is changed: without the daemon no batch could be judged.
    client.get("/api/v1/targets", limit=1)

    async def look() -> list[Looked]:
        return msgspec.convert(await asyncio.to_thread(client.all, "/api/v1/targets"), list[Looked])

    return gate_by(look, inventory)
