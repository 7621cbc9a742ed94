"""A plan as the desk keeps it: its document, and what people are told of each host, equal ones once."""

from __future__ import annotations

import hashlib

import msgspec

from dogwatch.fleet.book.plan_rows import Made
from dogwatch.fleet.book.planned import PlanHost, Shown, ShownItem, ShownStep
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.plans.plan import HostPlan, Plan, digest_of, encoded

_DIFF_CHARS = 16_000
_DIFFS_CHARS = 200_000


def made_of(plan: Plan, inventory: Inventory) -> Made:
    """Return what is kept of a plan."""
    document = encoded(plan)
    hosts: list[PlanHost] = []
    texts: dict[str, Shown] = {}

    def labels(host: str) -> dict[str, str]:
        return inventory.labels(host) if host in inventory else {}

    for one in plan.hosts:
        shown = shown_of(one)
        digest = hashlib.sha256(msgspec.json.encode(shown)).hexdigest()[:32]
        texts[digest] = shown
        state = "problems" if one.problems else "changes" if one.changes else "same"
        hosts.append(
            PlanHost(
                host=one.host,
                place=len(hosts),
                labels=labels(one.host),
                state=state,
                # What is decided on the way is a change, too.
                changes=one.steps + sum(bool(item.later) for item in one.items),
                shown=digest,
            )
        )
    for play in plan.plays:
        for host, why in play.unread.items():
            hosts.append(PlanHost(host=host, place=len(hosts), labels=labels(host), state="unread", message=why))
    return Made(
        document=document,
        digest=digest_of(document),
        approval=any(play.approval for play in plan.plays) and any(one.changes for one in plan.hosts),
        hosts=hosts,
        texts=texts,
    )


def shown_of(plan: HostPlan) -> Shown:
    """Return what people are told of a host, bounded."""
    left = _DIFFS_CHARS
    items = []
    for item in plan.items:
        steps = []
        for step in item.steps:
            kept = step.diff[: min(_DIFF_CHARS, left)]
            left -= len(kept)
            more = len(step.diff) - len(kept)
            steps.append(ShownStep(title=step.title, diff=f"{kept}\n… {more} more characters" if more else kept))
        items.append(
            ShownItem(name=item.name, kind=item.kind, handler=item.handler, later=item.later, steps=tuple(steps))
        )
    return Shown(total=plan.total, problems=plan.problems, items=tuple(items))
