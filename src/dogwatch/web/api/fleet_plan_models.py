"""What `/api/v1/fleet/plans` takes and answers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dogwatch.web.api.fleet_models import Text, Words

Forks = Annotated[int, Meta(ge=1, le=2000)]
Reason = Annotated[str, Meta(max_length=2000)]


class PlaybookOut(msgspec.Struct, frozen=True, kw_only=True):
    """A playbook that the configuration names."""

    name: str
    file: str


class FleetPlanOut(msgspec.Struct, frozen=True, kw_only=True):
    """A plan. kind: plan, or drift (only looked). run_id: of the run that makes it. hosts: how many changes, same,
    problems, unread. results: how many ended how when it was applied. waits: somebody must agree before it is applied.
    unfinished: an apply left something to do. apply_run: the run that applies or applied it.
    """

    plan: str
    kind: str
    playbook: str
    targets: str
    state: str
    reason: str
    actor: str
    run_id: str
    digest: str
    approval: bool
    approved_by: str
    comment: str
    waits: bool
    unfinished: bool
    apply_run: str
    created_s: float
    made_s: float | None
    ended_s: float | None
    hosts: dict[str, int]
    results: dict[str, int]


class FleetPlanPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[FleetPlanOut]
    next_cursor: str


class FleetPlanStepOut(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    diff: str


class FleetPlanItemOut(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that changes something. later: the operation after which it is decided."""

    name: str
    kind: str
    handler: bool
    later: str
    steps: list[FleetPlanStepOut]


class FleetPlanHostOut(msgspec.Struct, frozen=True, kw_only=True):
    """A host of a plan. state: changes, same, problems, unread. since_s: of drift, since when it has been another.

    result: what became of it when the plan was applied. operations: how many hold for it.
    """

    host: str
    place: int
    state: str
    since_s: float | None
    result: str
    message: str
    operations: int
    problems: list[str]
    items: list[FleetPlanItemOut]


class FleetPlanHostPage(msgspec.Struct, frozen=True, kw_only=True):
    """In order. next_cursor: "" on the last page."""

    items: list[FleetPlanHostOut]
    next_cursor: str = ""


class FleetPlanIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to plan: a playbook of the configuration by its name; or one that is sent along, `files` by path (base64)
    and `main`, which of them it is. drift: only look. vars: stronger than all others.
    """

    playbook: Words = ""
    main: Words = ""
    files: dict[str, str] = {}
    targets: Text = ""
    vars: dict[str, Any] = {}
    drift: bool = False
    forks: Forks = 50
    timeout: Words = "60s"
    connect_timeout: Words = "10s"
    reason: Reason = ""


class FleetPlanStarted(msgspec.Struct, frozen=True, kw_only=True):
    """plan: is made, or applied, by the run."""

    plan: str
    run_id: str


class FleetDecisionIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """approve: false rejects the plan for good."""

    approve: bool = True
    comment: Reason = ""


class FleetApplyIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """resume: finish what an apply left. back: take back what the last one did. The rest as of `fleet apply`."""

    resume: bool = False
    back: bool = False
    targets: Text = ""
    forks: Forks = 50
    batch: Words = ""
    max_fail: Words = ""
    timeout: Words = "10m"
    connect_timeout: Words = "10s"
    reason: Reason = ""


class FleetDriftOut(msgspec.Struct, frozen=True, kw_only=True):
    """The newest look at a playbook's hosts. wandered: those that are another, with since when and in what."""

    playbook: str
    plan: str
    looked_s: float
    hosts_total: int
    unread: list[str]
    wandered: list[FleetDriftHostOut]


class FleetDriftHostOut(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    since_s: float | None
    what: list[str]
