"""From configuration to remedies and the jobs that carry them out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.config.section import Fault, Path
from dogwatch.engine.action import Action
from dogwatch.engine.jobs import check_jobs
from dogwatch.engine.kinds.approve import ApproveAction
from dogwatch.engine.spec import JobSpec, Parameter, StepSpec
from dogwatch.rules.amounts import at_least
from dogwatch.rules.remedy.evidence import EvidenceAction
from dogwatch.rules.remedy.services import Duty, ServiceSpec, duties
from dogwatch.rules.remedy.spec import MODES, BudgetSpec, DoSpec, EvidenceSpec, Mode, RemediationOptions, RemedySpec
from dogwatch.rules.remedy.text import text_of, version_of
from dogwatch.rules.remedy.values import Budget, Remedies, Remedy, Service, Step
from dogwatch.rules.sight import Known
from dogwatch.rules.spec import DOWN_RULE, RuleSpec

# What remedies of configuration's own jobs cannot be called.
PREFIX = "remedy:"
_SPARE_S = 60.0
_PARAMETERS: Mapping[str, Parameter] = {
    "target": Parameter(doc="the target, or the group of targets"),
    "targets": Parameter(type="list", doc="all targets that it is about"),
    "labels": Parameter(type="map", default={}, doc="their labels"),
    "incident": Parameter(type="integer", doc="the number of the incident"),
    "rule": Parameter(default="", doc="the rule whose alert is out"),
    "reason": Parameter(default="", doc="why its condition holds"),
    "step": Parameter(default="", doc="which step of the remedy this is"),
    "attempt": Parameter(type="integer", default=1, doc="the how manieth action of this incident"),
    "unit": Parameter(default="", doc="the label unit of the target"),
    "container": Parameter(default="", doc="the label container of the target"),
    "host": Parameter(default="", doc="the label ssh of the target"),
}
Ssh = Callable[[str, str], Action]


class Doing(Protocol):
    """A probe, as far as remedies are concerned."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def do(self) -> tuple[DoSpec, ...]: ...
    @property
    def mode(self) -> Mode | None: ...
    @property
    def budget(self) -> BudgetSpec | None: ...
    @property
    def remedy(self) -> RemedySpec | None: ...


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe's remedy is made of."""

    name: str
    do: tuple[DoSpec, ...]
    mode: Mode | None
    budget: BudgetSpec | None
    remedy: RemedySpec | None


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A remedy before it is compiled. path: of its `do`, below the section. text: what its version is made of."""

    name: str
    rule: str
    targets: tuple[str, ...] | None
    do: tuple[DoSpec, ...]
    mode: Mode
    budget: BudgetSpec
    remedy: RemedySpec
    text: str
    path: Path = ()
    duty: Duty | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """All of configuration that says what is done."""

    rules: Sequence[RuleSpec] = ()
    probes: Sequence[Doing] = ()
    services: Sequence[ServiceSpec] = ()
    options: RemediationOptions = RemediationOptions()


def of_rules(specs: Sequence[RuleSpec]) -> Iterator[Source]:
    for at, spec in enumerate(specs):
        if spec.do and spec.enabled:
            yield _source(spec.name, spec.name, None, spec, text_of(spec), (at, "do"))


def of_probes(specs: Sequence[Doing]) -> Iterator[Source]:
    for at, spec in enumerate(specs):
        if spec.do:
            kept = _Kept(name=spec.name, do=spec.do, mode=spec.mode, budget=spec.budget, remedy=spec.remedy)
            text = text_of(kept)
            yield _source(f"probe:{spec.name}", DOWN_RULE, (spec.name,), spec, text, (at, "do"))


def of_services(specs: Sequence[ServiceSpec], ssh: Ssh) -> Iterator[Source]:
    for at, spec in enumerate(specs):
        for duty in duties(spec, ssh):
            yield Source(
                name=f"service:{spec.name}:{duty.kind}",
                rule=DOWN_RULE,
                targets=duty.probes,
                do=(duty.do,),
                mode=spec.mode,
                budget=spec.budget or BudgetSpec(group=f"service:{spec.name}"),
                remedy=_with_defaults(spec),
                text=text_of(spec),
                path=(at,),
                duty=duty,
            )


def _with_defaults(spec: ServiceSpec) -> RemedySpec:
    """Return the bounds of a service, whose unit and container are looked at before anything is done."""
    remedy = spec.remedy or RemedySpec()
    evidence = remedy.evidence
    filled = msgspec.structs.replace(
        evidence,
        unit=evidence.unit or spec.unit,
        container=evidence.container or spec.container,
        socket=evidence.socket or spec.socket,
        process=evidence.process or (spec.process.name if spec.process is not None else ""),
        host=evidence.host or spec.ssh,
    )
    return msgspec.structs.replace(remedy, evidence=filled)


def _source(
    name: str, rule: str, targets: tuple[str, ...] | None, spec: RuleSpec | Doing, text: str, path: Path
) -> Source:
    return Source(
        name=name,
        rule=rule,
        targets=targets,
        do=spec.do,
        mode=spec.mode or "plan",
        budget=spec.budget or BudgetSpec(),
        remedy=spec.remedy or RemedySpec(),
        text=text,
        path=path,
    )


def sources(wanted: Wanted, ssh: Ssh) -> list[Source]:
    return [*of_rules(wanted.rules), *of_probes(wanted.probes), *of_services(wanted.services, ssh)]


def remedies_of(wanted: Wanted, ssh: Ssh, known: Iterable[Known] = ()) -> Remedies:
    """Return what the decider works with. known: what is watched, for shares of groups."""
    watched = list(known)
    found = [_remedy(source, watched) for source in sources(wanted, ssh)]
    services = [
        Service(name=spec.name, startup=tuple(spec.startup.probes))
        for spec in wanted.services
        if spec.startup is not None
    ]
    return Remedies(found, services, most=wanted.options.mode)


def _remedy(source: Source, watched: Sequence[Known]) -> Remedy:
    duty = source.duty
    return Remedy(
        name=source.name,
        rule=source.rule,
        targets=None if source.targets is None else frozenset(source.targets),
        mode=source.mode,
        steps=tuple(_step(source, at, step) for at, step in enumerate(source.do)),
        budget=_budget(source, watched),
        backoff=source.remedy.backoff,
        cooldown_s=source.remedy.cooldown,
        expires_s=source.remedy.expires,
        escalate=source.remedy.escalate,
        version=version_of(source.text),
        gate=duty.gate if duty is not None else "",
        startup_s=duty.startup_s if duty is not None else None,
    )


def _budget(source: Source, watched: Sequence[Known]) -> Budget:
    spec = source.budget
    number, share = at_least(spec.at_once)
    members = 0
    if share:
        members = sum(1 for one in watched if spec.group in (getattr(one, "group", ""), one.labels.get("group")))
        if not spec.group or not members:
            members = len(source.targets) if source.targets is not None else len(watched)
    return Budget(
        scope=spec.group or source.name, max=spec.max, per_s=spec.per, at_once=number, share=share, members=members
    )


def _step(source: Source, at: int, step: DoSpec) -> Step:
    undo = step.undo
    return Step(
        name=step_name(step, at),
        says=says_of(step),
        job=job_name(source, at),
        verify_s=step.verify,
        attempts=step.attempts,
        undo_job=job_name(source, at, undo=True) if undo is not None else "",
        undo_says=f"take back: {undo.action.plan().summary}" if undo is not None and _whole(undo.action) else "",
        undo_failed=undo is not None and step.undo_when in ("failed", "both"),
        undo_recovered=undo is not None and step.undo_when in ("recovered", "both"),
        timeout_s=step.timeout,
        restarts=source.duty.restarts if source.duty is not None else "",
    )


def _whole(action: Action) -> bool:
    """Return whether it is an action, and not only the place of one: what is rehearsed came without."""
    return type(action) is not Action


def step_name(step: DoSpec, at: int) -> str:
    return step.name or f"{getattr(type(step.action), 'kind', 'step')}-{at + 1}"


def says_of(step: DoSpec) -> str:
    return step.says or (step.action.plan().summary[:200] if _whole(step.action) else "act")


def job_name(source: Source, at: int, *, undo: bool = False) -> str:
    return f"{PREFIX}{source.name}:{step_name(source.do[at], at)}{':undo' if undo else ''}"


# Jobs.


def jobs_of(wanted: Wanted, ssh: Ssh) -> list[JobSpec]:
    """Return the jobs that carry remedies out, as runs that survive crashes."""
    return [job for source in sources(wanted, ssh) for job, _path in jobs_of_source(source, wanted.options.mode)]


def jobs_of_source(source: Source, most: Mode) -> Iterator[tuple[JobSpec, Path]]:
    """Yield the jobs of a remedy, and where their actions stand below the section."""
    mode = MODES[min(MODES.index(source.mode), MODES.index(most))]
    for at, step in enumerate(source.do):
        place = (*source.path, at) if source.duty is None else source.path
        yield _job(source, at, step, mode), place
        if step.undo is not None:
            yield _undo_job(source, at, step.undo.action, step.timeout), (*place, "undo")


def _job(source: Source, at: int, step: DoSpec, mode: Mode) -> JobSpec:
    remedy = source.remedy
    steps: list[StepSpec] = []
    lasts_s = step.timeout + _SPARE_S
    if remedy.evidence.enabled:
        steps.append(_evidence(remedy.evidence))
        lasts_s += remedy.evidence.timeout + _SPARE_S
    if mode == "approve":
        ask = ApproveAction(
            by=remedy.approvers,
            message="#{{ params.incident }}: {{ params.reason }}: " + plain(says_of(step)) + "?",
            expires=remedy.expires,
        )
        steps.append(StepSpec(name="ask", action=ask))
        lasts_s += remedy.expires
    steps.append(
        StepSpec(name="act", action=step.action, timeout=step.timeout, after_crash=step.after_crash)
    )  # fmt: skip
    return JobSpec(
        name=job_name(source, at),
        doc=f"Remedy of {source.name}: {says_of(step)}",
        steps=steps,
        parameters=_PARAMETERS,
        timeout=lasts_s,
    )


def approvers_of(job: JobSpec | None) -> Sequence[str]:
    """Return who may answer the question that a remedy's job asks; nobody where it asks none."""
    asks = (step.action for step in job.steps) if job is not None else ()
    return next((action.by for action in asks if isinstance(action, ApproveAction)), ())


def plain(text: str) -> str:
    """Return a text that holds no template."""
    return text.replace("{{", "{ {")


def _evidence(spec: EvidenceSpec) -> StepSpec:
    action = EvidenceAction(
        incident="{{ params.incident }}",
        target="{{ params.target }}",
        unit=spec.unit or "{{ params.unit }}",
        container=spec.container or "{{ params.container }}",
        socket=spec.socket,
        host=spec.host or "{{ params.host }}",
        logs=spec.logs,
        process=spec.process,
        lines=spec.lines,
        size=spec.size,
        limit=spec.timeout,
    )
    # What could not be looked at keeps nothing from being done.
    return StepSpec(name="evidence", action=action, timeout=spec.timeout + _SPARE_S, allow_failure=True)


def _undo_job(source: Source, at: int, action: Action, timeout_s: float) -> JobSpec:
    return JobSpec(
        name=job_name(source, at, undo=True),
        doc=f"Takes back what the remedy of {source.name} did",
        steps=[StepSpec(name="act", action=action, timeout=timeout_s)],
        parameters=_PARAMETERS,
        timeout=timeout_s + _SPARE_S,
    )


def job_faults(found: Iterable[Source], jobs: Sequence[JobSpec]) -> Iterator[Fault]:
    """Find mistakes of the actions themselves: templates that read what is not there, jobs that do not exist."""
    for source in found:
        for job, place in jobs_of_source(source, "auto"):
            # Only the name differs from what configuration may write.
            checked = msgspec.structs.replace(job, name="remedy")
            for fault in check_jobs([checked, *jobs]):
                if fault.path[:1] == (0,) and fault.path[1:2] == ("steps",):
                    at = int(fault.path[2]) if len(fault.path) > 2 else 0
                    if checked.steps[at].name == "act":
                        yield Fault((*place, *fault.path[3:]), fault.message, fault.hint)
