"""Plans and applies from beginning to end: what steps of runs do."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dogwatch.fleet.facts import Facts
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.operations import OPERATIONS
from dogwatch.fleet.plans.apply import Applier, Applying
from dogwatch.fleet.plans.going import Gate, Goer, Going, Went, folders_of
from dogwatch.fleet.plans.journal import Journal, Line, states, unfinished
from dogwatch.fleet.plans.make import Making, make_plan
from dogwatch.fleet.plans.plan import Plan
from dogwatch.fleet.playbook.expand import host_secrets, read_secrets
from dogwatch.fleet.playbook.load import load_playbook
from dogwatch.fleet.playbook.templates import Engine
from dogwatch.fleet.pool import Dialer
from dogwatch.fleet.run import Watcher


def making_of(
    path: Path,
    inventory: Inventory,
    *,
    targets: str,
    extra: Mapping[str, Any],
    forks: int,
    timeout_s: float,
    made_by: str,
    now_s: Callable[[], float] = time.time,
    confined: bool = False,
) -> Making:
    """Return what the plan of a playbook's file is made of. confined: it may read only what lies beside it.

    Raises: ConfigError with every mistake in it.
    """
    engine = Engine()
    return Making(
        playbook=load_playbook(path, OPERATIONS, engine, confined=confined),
        inventory=inventory,
        engine=engine,
        operations=OPERATIONS,
        facts=Facts(None, max_age_s=0.0, now_s=now_s, timeout_s=timeout_s),
        environ=dict(os.environ),
        targets=targets,
        extra=extra,
        forks=forks,
        timeout_s=timeout_s,
        made_by=made_by,
    )


async def plan_file(
    path: Path,
    inventory: Inventory,
    *,
    targets: str,
    extra: Mapping[str, Any],
    forks: int,
    timeout_s: float,
    dialer: Dialer,
    made_by: str,
    now_s: Callable[[], float],
    watcher: Watcher | None = None,
) -> Plan:
    """Return the plan of a playbook's file. Raises: ConfigError with every mistake in it."""
    making = making_of(
        path,
        inventory,
        targets=targets,
        extra=extra,
        forks=forks,
        timeout_s=timeout_s,
        made_by=made_by,
        now_s=now_s,
    )
    return await make_plan(making, dialer, watcher=watcher)


async def apply_saved(
    plan: Plan,
    digest: str,
    path: Path,
    going: Going,
    *,
    holder: str,
    timeout_s: float,
    dialer: Dialer,
    watcher: Watcher | None = None,
    gate: Gate | None = None,
) -> Went:
    """Apply a plan that lies at a path; where an apply of it was cut short, do the rest. Raises: Conflict."""
    journal = Journal(path.with_name(path.name + ".journal"))
    with journal.held():
        lines = journal.lines()
        resume = unfinished(lines) and lines[0].plan == digest
        apply_id = lines[0].apply_id if resume else secrets.token_hex(8)
        if not resume:
            journal.add(Line(what="begun", apply_id=apply_id, plan=digest, at_s=time.time(), by=holder), sync=True)
        applying = Applying(
            apply_id=apply_id,
            salt=plan.salt,
            holder=f"apply {apply_id} of {holder}",
            plans={host.host: host for host in plan.hosts},
            secrets=plan_secrets(plan, going.inventory),
            operations=OPERATIONS,
            folders=folders_of(going.inventory, [host.host for host in plan.hosts]),
            resume=resume,
            timeout_s=timeout_s,
        )
        goer = Goer(plan, going, Applier(applying, journal), journal, dialer, gate=gate, watcher=watcher)
        went = await goer.go(states(lines) if resume else {})
        if all(one.ok for one in went.done):
            journal.add(Line(what="over", at_s=time.time()), sync=True)
        return went


def plan_secrets(plan: Plan, inventory: Inventory) -> dict[str, dict[str, str]]:
    """Return the secrets that stand in each host's plan, read anew. Raises: UsageError."""
    found: dict[str, dict[str, str]] = {}
    for play in plan.plays:
        if not any(host.secrets for host in play.hosts):
            continue
        shared = read_secrets(play.secrets, Path(plan.folder), dict(os.environ))
        for host in play.hosts:
            if host.secrets:
                found[host.host] = {**host_secrets(inventory, host.host), **shared}
    return found
