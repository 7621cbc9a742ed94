"""What is kept of a plan, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.errors import Conflict, NotAllowed, NotFound

# Kinds: one that can be applied, one of a `playbook` step, and one that only looked.
PLAN, STEP, DRIFT = "plan", "step", "drift"
PLANNING = "planning"
READY = "ready"
APPLYING = "applying"
# How plans stand, and how hosts end.
STATES = (
    PLANNING, READY, "failed", "rejected", APPLYING, "applied", "refused", "partly", "stopped", "rolled back",
)  # fmt: skip
RESULTS = ("applied", "unchanged", "rolled back", "moved", "locked", "failed", "stopped", "not started")
# What a host ends with on which nothing was done.
UNTOUCHED = frozenset({"moved", "locked", "unchanged", "not started"})
GOOD = frozenset({"applied", "unchanged", "rolled back"})
_NO_PLAN = (PLANNING, "failed")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan is made. forks: hosts at once. vars: stronger than all others. sealed: these, as they lie on disk."""

    vars: Mapping[str, Any] = {}
    sealed: str = ""
    forks: int = 50
    read_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0


class ShownStep(msgspec.Struct, frozen=True, kw_only=True):
    """One change, for people."""

    title: str
    diff: str = ""


class ShownItem(msgspec.Struct, frozen=True, kw_only=True):
    """One operation that changes something. later: the operation after which it is decided, ""."""

    name: str
    kind: str
    handler: bool = False
    later: str = ""
    steps: tuple[ShownStep, ...] = ()


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What people are told of a host. total: operations that hold for it. problems: why nothing can be changed."""

    total: int = 0
    problems: tuple[str, ...] = ()
    items: tuple[ShownItem, ...] = ()


class PlanHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host of a plan. state: changes, same, problems, unread. shown: the digest of what people are told.

    since_s: of drift, since when it has been another. result: what became of it when the plan was applied, "".
    """

    host: str
    place: int
    labels: Mapping[str, str] = {}
    state: str
    changes: int = 0
    shown: str = ""
    since_s: float | None = None
    result: str = ""
    message: str = ""


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """A plan without its document. hosts: by state; results: by what became of them."""

    plan_id: str
    kind: str
    playbook: str
    targets: str
    state: str
    reason: str
    actor: Actor
    run_id: str
    orders: Asked
    digest: str
    approval: bool
    approved_by: Actor | None
    comment: str
    apply_id: str
    unfinished: bool
    apply_run: str
    created_s: float
    made_s: float | None
    ended_s: float | None
    hosts: Mapping[str, int] = {}
    results: Mapping[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self.hosts.values())

    @property
    def changing(self) -> int:
        return self.hosts.get("changes", 0)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply asks for. resume: finish what is unfinished. back: take back what the last one did."""

    run_id: str
    new_id: str
    resume: bool = False
    back: bool = False


class Claimed(msgspec.Struct, frozen=True):
    """What an apply is given. resume: hosts may have been begun before."""

    apply_id: str
    resume: bool


def decide_claim(row: PlanRow, claim: Claim, *, other_ended: bool) -> Claimed:
    """Return what may be applied under which id. other_ended: the run that has it now is over. Pure.

    Raises: Conflict, NotAllowed, NotFound.
    """
    if row.kind == DRIFT:
        raise Conflict(f"plan {row.plan_id} only looked", hint="plan the playbook, and apply that plan")
    if row.kind == STEP:
        raise Conflict(f"plan {row.plan_id} is a step of run {row.run_id}, which applies it")
    if row.state in _NO_PLAN:
        raise Conflict(f"plan {row.plan_id} is not made: {row.reason or row.state}")
    if row.state == "rejected":
        raise Conflict(f"plan {row.plan_id} was rejected", hint="plan again")
    if row.approval and row.approved_by is None and not claim.back:
        raise NotAllowed(
            "the playbook asks for approval, and nobody has agreed to this plan",
            hint=f"somebody else than {row.actor}: dogwatch fleet apply {row.plan_id} --approve --server URL",
        )
    if row.state == APPLYING and row.apply_run == claim.run_id:
        return Claimed(row.apply_id, not claim.back)
    if row.state == APPLYING and not other_ended:
        raise Conflict(f"plan {row.plan_id} is being applied by run {row.apply_run}")
    if claim.resume or claim.back:
        if not row.apply_id:
            raise NotFound(f"plan {row.plan_id} was never applied", hint="without resume it is applied")
        return Claimed(row.apply_id, claim.resume)
    if row.unfinished or row.state == APPLYING:
        raise Conflict(
            f"an apply of plan {row.plan_id} was not finished", hint="resume finishes the rest, roll back takes it back"
        )
    return Claimed(claim.new_id, False)


def decide_end(results: Mapping[str, str], *, back: bool, cut: bool) -> tuple[str, bool]:
    """Return how an apply ended, and whether it left something to do. cut: it was ended from outside. Pure."""
    states = set(results.values())
    if not cut and states <= GOOD:
        return ("rolled back" if back else "applied"), False
    if not back and results and states <= UNTOUCHED and states & {"moved", "locked"}:
        return "refused", False
    if cut:
        return "stopped", True
    return "partly", True
