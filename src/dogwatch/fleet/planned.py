"""The action kinds `playbook` and `fleet-drift`: planned changes as steps of durable runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import quote

import msgspec
from msgspec import Meta

from dogwatch.core.units import Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.kinds.approve import Asked, Decision
from dogwatch.errors import DogwatchError, PermanentError, TransientError, UsageError
from dogwatch.fleet.book.plan_rows import NewPlan
from dogwatch.fleet.book.planned import DRIFT, STEP
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.rollout import parse_amount, rollout_faults
from dogwatch.fleet.sight import Sight

if TYPE_CHECKING:
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.plans.plan import Plan

_TOLD_CHARS = 4096
# Plans of steps that are kept, for the way back.
_PLANS = 200


class PlaybookAction(Action, frozen=True, kw_only=True):
    """Makes hosts as a playbook says: plans, waits for approval where that is asked for, applies exactly the plan.

    file: the playbook. targets: only these of its hosts. vars: variables, stronger than all others. approval: the plan
    is shown in the run's log, and the step waits until somebody agrees. forks: hosts at once. batch: in place of the
    playbook's batches. max_fail: in place of the playbook's. read_timeout: of the reading on each host. apply_timeout:
    of the changes on each host. connect_timeout: until a login is done. by: who may agree, as with `approve:`.
    """

    kind: ClassVar[str] = "playbook"
    outputs: ClassVar[Mapping[str, str]] = {"applied": "list", "unchanged": "list", "failed": "list", "hosts": "map"}

    file: str
    targets: str = ""
    vars: Mapping[str, str] = {}
    approval: bool = False
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    batch: str = ""
    max_fail: str = ""
    read_timeout: Seconds = 60.0
    apply_timeout: Seconds = 600.0
    connect_timeout: Seconds = 10.0
    by: tuple[str, ...] = ()

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.file.strip():
            yield ("file",), "says nothing", ""
        yield from rollout_faults(self.batch, self.max_fail or "0")

    def plan(self) -> Change:
        details = [f"only {self.targets}"] if self.targets else []
        details += ["after somebody has agreed to the plan"] if self.approval else []
        return Change(
            summary=f"make hosts as {self.file} says",
            details=(*details, f"on {self.forks} hosts at once, {format_duration(self.apply_timeout)} each"),
            undo="dogwatch fleet apply PLAN --roll-back",
        )

    async def apply(self, scene: Scene) -> Outcome | Wait:
        from dogwatch.fleet.plans.plan import encoded, read_plan
        from dogwatch.fleet.plans.saving import prune, write_whole

        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        part = scene.get(FleetPart)
        if part.plans is None:
            raise PermanentError("this program keeps no plans")
        path = part.plans / f"{scene.run_id}.{quote(scene.step, safe='')}.plan"
        try:
            inventory = await part.inventory()
            if not path.exists():
                plan = await _plan(self, inventory, scene, self.connect_timeout)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                prune(path.parent, _PLANS - 1)
                write_whole(path, encoded(plan))
                scene.write(told(plan))
                await _keep(plan, inventory, scene, STEP, self.file, self.targets)
            plan, digest = read_plan(path)
            agreed = self._agreed(plan, scene)
            if agreed is not None:
                return agreed
            return await self._apply(plan, digest, path, inventory, scene)
        except (PermanentError, TransientError):
            raise
        except DogwatchError as error:
            raise PermanentError(str(error), hint=error.hint) from None

    def _agreed(self, plan: Plan, scene: Scene) -> Wait | None:
        """Return what to wait for before the plan may be applied. Raises: PermanentError where somebody said no."""
        asked = self.approval or any(play.approval for play in plan.plays)
        if not asked or not any(host.changes for host in plan.hosts):
            return None
        if not scene.woken:
            return self._wait(sum(host.changes for host in plan.hosts))
        try:
            decision = msgspec.convert(scene.signal, Decision)
        except msgspec.ValidationError:  # another program's signal
            return self._wait(sum(host.changes for host in plan.hosts))
        if not decision.approve:
            comment = f": {decision.comment}" if decision.comment else ""
            raise PermanentError(f"the plan was rejected by {decision.by or 'somebody'}{comment}")
        return None

    def _wait(self, count: int) -> Wait:
        asked = Asked(by=list(self.by), message=f"change {count} hosts as {self.file} says? the log has the plan")
        return Wait(note=f"approval of changes of {count} hosts", memory={"approve": msgspec.to_builtins(asked)})

    async def _apply(self, plan: Plan, digest: str, path: Path, inventory: Inventory, scene: Scene) -> Outcome:
        from dogwatch.fleet.plans.driving import apply_saved
        from dogwatch.fleet.plans.going import Going
        from dogwatch.fleet.plans.watching import gate_by

        # Asked for only where a play has probes: a program that watches nothing can apply all others.
        asks = any(play.probes for play in plan.plays)
        gate = gate_by(scene.get(Sight).look, inventory) if asks else None
        going = Going(
            inventory=inventory,
            forks=self.forks,
            batches=self.batch or None,
            max_fail=self.max_fail or None,
        )
        went = await apply_saved(
            plan,
            digest,
            path,
            going,
            holder=f"run {scene.run_id}",
            timeout_s=self.apply_timeout,
            dialer=scene.get(FleetPart).pool(connect_timeout_s=self.connect_timeout),
            watcher=Log(scene),
            gate=gate,
        )
        desk = scene.get(FleetPart).desk
        if desk is not None:
            results = {one.host: (one.state, one.message) for one in went.done}
            await desk.closed(_plan_id(scene), results, went.stopped)
        by_state: dict[str, list[str]] = {}
        for one in went.done:
            by_state.setdefault(one.state if one.ok else "failed", []).append(one.host)
            if one.message:
                scene.write(f"{one.host}: {one.state}: {one.message}\n", "stdout" if one.ok else "stderr")
        unread = [host for play in plan.plays for host in play.unread]
        failed = [*by_state.get("failed", []), *unread]
        if failed:
            raise PermanentError(
                f"{len(failed)} of {len(went.done) + len(unread)} hosts failed: {fold(failed)}",
                hint=f"the rest: dogwatch fleet apply {path} --resume; the way back: --roll-back",
            )
        return Outcome(
            changed=bool(by_state.get("applied")),
            outputs={
                "applied": list(by_state.get("applied", [])),
                "unchanged": list(by_state.get("unchanged", [])),
                "failed": [],
                "hosts": {one.host: {"state": one.state, "changed": list(one.changed)} for one in went.done},
            },
            message=f"{len(by_state.get('applied', []))} changed, {len(by_state.get('unchanged', []))} as they were",
        )


class DriftAction(Action, frozen=True, kw_only=True):
    """Tells which hosts are not as a playbook says, and changes nothing. It fails when more than `max_drift` are not.

    file: the playbook. targets: only these of its hosts. vars: variables, stronger than all others. forks: hosts at
    once. max_drift: how many hosts may have wandered, `3` or `5%`. read_timeout: of the reading on each host.
    connect_timeout: until a login is done.
    """

    kind: ClassVar[str] = "fleet-drift"
    outputs: ClassVar[Mapping[str, str]] = {"wandered": "list", "unread": "list", "hosts": "map"}

    file: str
    targets: str = ""
    vars: Mapping[str, str] = {}
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    max_drift: str = "0"
    read_timeout: Seconds = 60.0
    connect_timeout: Seconds = 10.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.file.strip():
            yield ("file",), "says nothing", ""
        if "{{" not in self.max_drift:
            try:
                parse_amount(self.max_drift)
            except UsageError as error:
                yield ("max_drift",), str(error), error.hint

    def plan(self) -> Change:
        return Change(summary=f"look which hosts are not as {self.file} says")

    async def apply(self, scene: Scene) -> Outcome:
        from dogwatch.fleet.plans.going import rollout_limit

        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        try:
            inventory = await scene.get(FleetPart).inventory()
            plan = await _plan(self, inventory, scene, self.connect_timeout)
            await _keep(plan, inventory, scene, DRIFT, self.file, self.targets)
        except (PermanentError, TransientError):
            raise
        except DogwatchError as error:
            raise PermanentError(str(error), hint=error.hint) from None
        wandered = {
            host.host: [item.name for item in host.items] or list(host.problems)
            for host in plan.hosts
            if host.changes or host.problems
        }
        unread = [host for play in plan.plays for host in play.unread]
        scene.write(told(plan))
        total = len(plan.hosts) + len(unread)
        if len(wandered) > rollout_limit(parse_amount(self.max_drift), total):
            raise PermanentError(f"{len(wandered)} of {total} hosts have wandered: {fold(wandered)}")
        if unread:
            raise TransientError(f"{len(unread)} of {total} hosts could not be read: {fold(unread)}")
        return Outcome(
            changed=False,
            outputs={
                "wandered": list(wandered),
                "unread": unread,
                "hosts": {**wandered},
            },
            message=f"{total - len(wandered)} of {total} hosts are as they should be",
        )


class Log:
    """Writes how each host ended to the run's log."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def started(self, host: str) -> None: ...

    def ended(self, result: HostResult) -> None:
        message = f": {result.message}" if result.message else ""
        self._scene.write(f"{result.host}: {result.word}{message}\n", "stdout" if result.ok else "stderr")

    def stopped(self, reason: str) -> None:
        self._scene.write(f"no further host is started: {reason}\n", "stderr")


def told(plan: Plan) -> str:
    """Return a plan in words, bounded: equal changes once."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for host in plan.hosts:
        steps = tuple((item.name, item.later, tuple((s.title, s.diff) for s in item.steps)) for item in host.items)
        groups.setdefault((host.problems, steps), []).append(host.host)
    lines = []
    for (problems, items), hosts in groups.items():
        lines.append(f"{fold(hosts)}: {'cannot be planned' if problems else 'changes' if items else 'nothing to do'}")
        lines += [f"  {problem}" for problem in problems]
        for name, later, steps in items:
            lines.append(f"  {name}{f' (decided when {later!r} is done)' if later else ''}")
            for title, diff in steps:
                lines.append(f"    {title}")
                lines += [f"      {line}" for line in diff.splitlines()]
    lines += [f"{host}: not read: {why}" for play in plan.plays for host, why in play.unread.items()]
    text = "\n".join(lines) + "\n"
    return text if len(text) <= 16 * _TOLD_CHARS else f"{text[: 16 * _TOLD_CHARS]}\n…\n"


def _plan_id(scene: Scene) -> str:
    return f"{scene.run_id}-{scene.step}"


async def _keep(plan: Plan, inventory: Inventory, scene: Scene, kind: str, file: str, targets: str) -> None:
    """Lay a plan on the desk, for people to look at."""
    from dogwatch.fleet.plans.showing import made_of

    desk = scene.get(FleetPart).desk
    if desk is None:
        return
    new = NewPlan(
        plan_id=_plan_id(scene), kind=kind, playbook=file, targets=targets, actor=scene.actor, run_id=scene.run_id
    )
    await desk.open(new)
    await desk.made(new.plan_id, made_of(plan, inventory))


async def _plan(
    action: PlaybookAction | DriftAction, inventory: Inventory, scene: Scene, connect_timeout_s: float
) -> Plan:
    """Make the plan of an action. Raises: DogwatchError for what is wrong with the playbook."""
    try:
        from dogwatch.fleet.plans.driving import plan_file
    except ImportError:
        raise PermanentError("playbooks are not installed here", hint="pip install 'dogwatch[fleet]'") from None
    return await plan_file(
        Path(action.file),
        inventory,
        targets=action.targets,
        extra=msgspec.to_builtins(action.vars),
        forks=action.forks,
        timeout_s=action.read_timeout,
        dialer=scene.get(FleetPart).pool(connect_timeout_s=connect_timeout_s),
        made_by=f"run {scene.run_id}",
        now_s=time.time,
        watcher=Log(scene),
    )
