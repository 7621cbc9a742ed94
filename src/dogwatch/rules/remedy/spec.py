"""What configuration says of remediation: `do:` below rules and probes, and the `remediation` section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Path, Section
from dogwatch.core.units import Seconds
from dogwatch.engine.action import Action
from dogwatch.rules.amounts import at_least
from dogwatch.rules.maintenance import MaintenanceSpec, check_maintenance

MOST_EVIDENCE_BYTES = 1024 * 1024
Kept = Annotated[int, Meta(ge=1024, le=MOST_EVIDENCE_BYTES, extra={"unit": "size"})]
MOST_STEPS = 10
# A duration of more than nothing.
Lasting = Annotated[float, Meta(gt=0, extra={"unit": "duration"})]
Mode = Literal["plan", "approve", "auto"]
MODES: tuple[Mode, ...] = ("plan", "approve", "auto")


class UndoSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One action that takes another back. action: written as one key naming its kind."""

    action: Action


class DoSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a remedy: an action, and how it proves that it helped.

    action: one key naming its kind: `exec: systemctl restart shop`, `job: restart`. name: in the timeline; default:
    its kind. says: one line for people; default: what the action's plan says. verify: how long after the action the
    alert may last; then the step has failed. 0: nothing is proved, the step holds until the alert ends. attempts: how
    often it is tried before the next step. timeout: of the action. undo: what takes it back. undo_when: it did not
    help (failed), or all is well again (recovered), or both. after_crash: what becomes of an action that a crash cut
    off: fail lets the next attempt follow, retry repeats it.
    """

    action: Action
    name: str = ""
    says: str = ""
    verify: Seconds = 120.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    timeout: Seconds = 300.0
    undo: UndoSpec | None = None
    undo_when: Literal["failed", "recovered", "both"] = "failed"
    after_crash: Literal["fail", "retry"] = "fail"


class BudgetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may be done. Remedies that name the same group draw on one budget.

    max: actions in any time of length `per`. per: that length. group: whose budget it is: targets of this group, or
    with the label `group`; default: the remedy's own. at_once: how many actions at the same time, from their start to
    their proof: a number, or a share of the group such as 20% (at least one).
    """

    max: Annotated[int, Meta(ge=1, le=10_000)] = 5
    per: Lasting = 3600.0
    group: str = ""
    at_once: int | str = 1


class BackoffSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long it waits between two actions for one target: base, then twice that, up to cap.

    base: the first wait. cap: the longest. reset: how long all must be well until it begins from base again.
    """

    base: Seconds = 30.0
    cap: Seconds = 3600.0
    reset: Seconds = 3600.0


class EvidenceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked at before an action and kept on the incident: top processes, descriptors, memory, disks, and:

    unit: a systemd unit, its status and last lines; default: the target's label `unit`. container: its state and last
    lines; default: the label `container`. socket: of Docker or Podman, where it is not the usual
    one. logs: files whose last lines are kept. process: a name whose processes are
    shown. host: of the fleet, asked by SSH; default: the target's label `ssh`, else this machine. timeout: of all.
    size: how much is kept. lines: of each log. enabled: false looks at nothing.
    """

    unit: str = ""
    container: str = ""
    socket: str = ""
    logs: tuple[str, ...] = ()
    process: str = ""
    host: str = ""
    timeout: Lasting = 10.0
    size: Kept = 64 * 1024
    lines: Annotated[int, Meta(ge=1, le=1000)] = 50
    enabled: bool = True


class RemedySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of a remedy beside its budget.

    backoff: between two actions for one target. cooldown: after a success nothing is done for the target for so long.
    evidence: what is looked at before an action. approvers: who may approve, `group:ops`, `role:operator`, names;
    none: whoever may approve runs. `link:ops`: whoever gets the notices of the destination `ops`, by the link in them.
    expires: how long an approval is waited for. escalate: destinations that are told, beside the next step of the
    escalation, when all has been tried.
    """

    backoff: BackoffSpec = BackoffSpec()
    cooldown: Seconds = 60.0
    evidence: EvidenceSpec = EvidenceSpec()
    approvers: tuple[str, ...] = ()
    expires: Lasting = 1800.0
    escalate: tuple[str, ...] = ()


class RemediationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for all remedies.

    mode: the most that any may do: `plan` turns all into plans at once. freeze: windows, written as those of
    maintenance, in which nothing is done.
    """

    mode: Mode = "auto"
    freeze: tuple[MaintenanceSpec, ...] = ()


def check_do(
    steps: Sequence[DoSpec], budget: BudgetSpec | None, remedy: RemedySpec | None, mode: str | None, path: Path
) -> Iterator[Fault]:
    """Find every mistake of a `do` and what belongs to it that types cannot say. None: not written."""
    if not steps:
        for name, value in (("budget", budget), ("remedy", remedy), ("mode", mode)):
            if value is not None:
                yield Fault((*path, name), "means nothing without 'do'", "write what is to be done: do: [{exec: …}]")
    if len(steps) > MOST_STEPS:
        yield Fault((*path, "do"), f"at most {MOST_STEPS} steps")
    yield from _step_faults(steps, path)
    if budget is not None:
        try:
            at_least(budget.at_once)
        except ValueError as error:
            yield Fault((*path, "budget", "at_once"), str(error))
    if remedy is not None and remedy.backoff.base > remedy.backoff.cap:
        yield Fault((*path, "remedy", "backoff", "base"), "is more than cap")


def _step_faults(steps: Sequence[DoSpec], path: Path) -> Iterator[Fault]:
    names = [step.name or f"{getattr(type(step.action), 'kind', '')}-{at + 1}" for at, step in enumerate(steps)]
    for at, step in enumerate(steps):
        if step.undo is None and step.undo_when != "failed":
            yield Fault((*path, "do", at, "undo_when"), "means nothing without 'undo'")
        if not step.verify and at + 1 < len(steps):
            yield Fault((*path, "do", at, "verify"), "a step that proves nothing never fails: no step can follow it")
        if step.timeout <= 0:
            yield Fault((*path, "do", at, "timeout"), "must be more than nothing")
        if step.name and names.index(step.name) != at:
            yield Fault((*path, "do", at, "name"), f"the name '{step.name}' is used twice")


def check_remediation(options: RemediationOptions) -> Iterator[Fault]:
    for fault in check_maintenance(options.freeze):
        yield Fault(("freeze", *fault.path), fault.message, fault.hint)


REMEDIATION: Section[RemediationOptions] = Section(
    key="remediation",
    type=RemediationOptions,
    doc="What holds for all that is done by itself: the most that it may do, and when nothing is done.",
    default=RemediationOptions,
    check=check_remediation,
)
