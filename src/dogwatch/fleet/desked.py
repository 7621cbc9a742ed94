"""The action kinds `fleet-plan` and `fleet-apply`: plans that lie on the desk, made and applied by durable runs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from dogwatch.core.units import Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.port import Runs
from dogwatch.errors import DogwatchError, NotFound, PermanentError, TransientError
from dogwatch.fleet.book.book import FleetBook, Recorder
from dogwatch.fleet.book.desk import PlanDesk
from dogwatch.fleet.book.plan_rows import NewPlan
from dogwatch.fleet.book.planned import APPLYING, Asked, Claim, Claimed, PlanRow
from dogwatch.fleet.book.values import Key, Opening
from dogwatch.fleet.connection import State
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.planned import Log, told
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.rollout import rollout_faults
from dogwatch.fleet.sight import Sight

if TYPE_CHECKING:
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.plans.going import Went
    from dogwatch.fleet.plans.make import Making
    from dogwatch.fleet.plans.plan import Plan

_NOTHING = "nothing to do"


class PlanAction(Action, frozen=True, kw_only=True):
    """Makes a plan and lays it on the desk, where it is looked at, agreed to and applied (`fleet-apply`).

    playbook: a name of `fleet.playbooks`. targets: only these of its hosts. vars: variables, stronger than all others.
    drift: only look, for the report of hosts that wandered. forks: hosts at once. read_timeout: of the reading on each
    host. connect_timeout: until a login is done. plan_id: in place of all that, a plan that was asked for by the API.
    """

    kind: ClassVar[str] = "fleet-plan"
    outputs: ClassVar[Mapping[str, str]] = {"plan": "string", "changing": "int", "unread": "list"}

    playbook: str = ""
    plan_id: str = ""
    targets: str = ""
    vars: Mapping[str, str] = {}
    drift: bool = False
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    read_timeout: Seconds = 60.0
    connect_timeout: Seconds = 10.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if bool(self.playbook.strip()) == bool(self.plan_id.strip()):
            yield ("playbook",), "says nothing" if not self.playbook.strip() else "cannot stand beside plan_id", ""

    def plan(self) -> Change:
        what = f"make plan {self.plan_id}" if self.plan_id else f"look what {self.playbook} would change"
        return Change(summary=f"{what}{f' on {self.targets}' if self.targets else ''}")

    async def apply(self, scene: Scene) -> Outcome:
        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        part, desk = scene.get(FleetPart), desk_of(scene)
        plan_id = self.plan_id or await desk.open(self._new(scene))
        try:
            return await self._make(part, desk, await desk.show(plan_id), scene)
        except asyncio.CancelledError:
            await _shielded(desk.failed(plan_id, "it was cancelled"))
            raise
        except DogwatchError as error:
            await desk.failed(plan_id, scene.mask(f"{error}; {error.hint}" if error.hint else str(error)))
            if isinstance(error, PermanentError | TransientError):
                raise
            raise PermanentError(str(error), hint=error.hint) from None

    def _new(self, scene: Scene) -> NewPlan:
        return NewPlan(
            # The same in each attempt.
            plan_id=f"{scene.run_id}-{scene.step}",
            kind="drift" if self.drift else "plan",
            playbook=self.playbook,
            targets=self.targets,
            actor=scene.actor,
            run_id=scene.run_id,
            orders=Asked(
                vars=msgspec.to_builtins(self.vars),
                forks=self.forks,
                read_timeout_s=self.read_timeout,
                connect_timeout_s=self.connect_timeout,
            ),
        )

    async def _make(self, part: FleetPart, desk: PlanDesk, row: PlanRow, scene: Scene) -> Outcome:
        from dogwatch.fleet.plans.make import make_plan
        from dogwatch.fleet.plans.showing import made_of

        inventory = await part.inventory()
        new = NewPlan(
            plan_id=row.plan_id,
            kind=row.kind,
            playbook=row.playbook,
            targets=row.targets,
            actor=row.actor,
            orders=desk.orders(row),
            bundle=await desk.bundle(row.plan_id),
        )
        with making_for(part, new, inventory) as making:
            pool = part.pool(connect_timeout_s=row.orders.connect_timeout_s)
            plan = await make_plan(making, pool, watcher=Log(scene))
        scene.write(told(plan))
        row = await desk.made(row.plan_id, made_of(plan, inventory))
        unread = [host for play in plan.plays for host in play.unread]
        return Outcome(
            changed=False,
            outputs={"plan": row.plan_id, "changing": row.changing, "unread": unread},
            message=f"plan {row.plan_id}: {row.changing} of {row.total} hosts would be changed",
        )


@contextmanager
def making_for(part: FleetPart, new: NewPlan, inventory: Inventory) -> Iterator[Making]:
    """Yield what a plan is made of; files that were sent along are there meanwhile.

    Raises: NotFound, UsageError, ConfigError with every mistake of the playbook.
    """
    from dogwatch.fleet.playbook.bundle import Bundle, unpacked

    if new.bundle is None:
        yield _making(part.playbook(new.playbook), new, inventory, confined=False)
        return
    with unpacked(msgspec.msgpack.decode(new.bundle, type=Bundle)) as path:
        yield _making(path, new, inventory, confined=True)


def _making(path: Path, new: NewPlan, inventory: Inventory, *, confined: bool) -> Making:
    try:
        from dogwatch.fleet.plans.driving import making_of
    except ImportError:
        raise PermanentError("playbooks are not installed here", hint="pip install 'dogwatch[fleet]'") from None
    return making_of(
        path,
        inventory,
        targets=new.targets,
        extra=new.orders.vars,
        forks=new.orders.forks,
        timeout_s=new.orders.read_timeout_s,
        made_by=str(new.actor),
        confined=confined,
    )


def hosts_for(part: FleetPart, new: NewPlan, inventory: Inventory) -> list[str]:
    """Return the hosts that a plan would be about. It reads files: not for the loop's thread. Raises: as making_for."""
    from dogwatch.fleet.plans.make import hosts_of

    with making_for(part, new, inventory) as making:
        return [host for hosts in hosts_of(making).values() for host in hosts]


class ApplyAction(Action, frozen=True, kw_only=True):
    """Applies a plan of the desk: exactly its changes, on hosts that are still as it was made for.

    plan_id: as `fleet-plan` gives it out. resume: finish what an earlier apply of it left. back: take back what the
    last apply did. targets: only these of its hosts. forks: hosts at once. batch: in place of the playbook's batches.
    max_fail: in place of the playbook's. apply_timeout: of the changes on each host. connect_timeout: until a login is
    done.
    """

    kind: ClassVar[str] = "fleet-apply"
    outputs: ClassVar[Mapping[str, str]] = {"state": "string", "hosts": "map"}

    plan_id: str
    resume: bool = False
    back: bool = False
    targets: str = ""
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    batch: str = ""
    max_fail: str = ""
    apply_timeout: Seconds = 600.0
    connect_timeout: Seconds = 10.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.plan_id.strip():
            yield ("plan_id",), "says nothing", ""
        if self.resume and self.back:
            yield ("resume",), "cannot stand beside back", ""
        yield from rollout_faults(self.batch, self.max_fail or "0")

    def plan(self) -> Change:
        what = "take back" if self.back else "finish" if self.resume else "apply"
        return Change(
            summary=f"{what} plan {self.plan_id}",
            details=(f"on {self.forks} hosts at once, {format_duration(self.apply_timeout)} each",),
            undo="" if self.back else f"dogwatch fleet apply {self.plan_id} --roll-back --server URL",
        )

    async def apply(self, scene: Scene) -> Outcome:
        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        try:
            return await _Apply(self, scene).run()
        except (PermanentError, TransientError):
            raise
        except DogwatchError as error:
            raise PermanentError(str(error), hint=error.hint) from None


class _Apply:
    """One attempt of an apply."""

    def __init__(self, action: ApplyAction, scene: Scene) -> None:
        self._action, self._scene = action, scene
        self._part, self._desk = scene.get(FleetPart), desk_of(scene)
        if self._part.book is None:
            raise PermanentError("this program keeps no fleet runs")
        self._book: FleetBook = self._part.book
        self._key = Key(scene.run_id, scene.step)
        self._claim = Claim(run_id=scene.run_id, new_id=secrets.token_hex(8), resume=action.resume, back=action.back)

    async def run(self) -> Outcome:
        from dogwatch.fleet.plans.plan import Plan

        scene, desk = self._scene, self._desk
        former = await desk.show(self._action.plan_id)
        claimed = await desk.claim(
            former.plan_id, self._claim, scene.actor, other_ended=await self._other_ended(former)
        )
        plan = msgspec.json.decode(await desk.document(former.plan_id), type=Plan)
        kept: dict[str, tuple[str, str]] = {}
        try:
            inventory = await self._part.inventory()
            before = {one.host: one.result for one in await desk.hosts(former.plan_id)}
            went = await self._go(plan, former, claimed, inventory, before, kept)
        except BaseException as error:
            # Cut short from outside, or by trouble of ours: what was done stays to be resumed.
            told = str(error) if isinstance(error, DogwatchError) else "it was ended"
            ending = desk.ended(
                former.plan_id, self._claim, scene.actor, kept, former=former, stopped=told[:1000], cut=True
            )
            await _shielded(ending)
            raise
        results = {one.host: (one.state, one.message) for one in went.done}
        state = await desk.ended(former.plan_id, self._claim, scene.actor, results, former=former, stopped=went.stopped)
        return self._outcome(went, state, former)

    async def _other_ended(self, row: PlanRow) -> bool:
        """Return whether the run that has the plan, another than this, is over: its end was not written then."""
        if row.state != APPLYING or row.apply_run == self._scene.run_id:
            return False
        try:
            return (await self._scene.get(Runs).show(row.apply_run)).state.ended  # type: ignore[type-abstract]
        except NotFound:
            return True

    async def _go(
        self,
        plan: Plan,
        row: PlanRow,
        claimed: Claimed,
        inventory: Inventory,
        before: Mapping[str, str],
        kept: dict[str, tuple[str, str]],
    ) -> Went:
        from dogwatch.fleet.operations import OPERATIONS
        from dogwatch.fleet.plans.apply import Applier, Applying
        from dogwatch.fleet.plans.driving import plan_secrets
        from dogwatch.fleet.plans.going import Goer, Going, folders_of, rollout_of
        from dogwatch.fleet.plans.journal import NoNotes
        from dogwatch.fleet.plans.watching import gate_by
        from dogwatch.fleet.targets import choose

        action, scene = self._action, self._scene
        going = Going(
            inventory=inventory,
            forks=action.forks,
            batches=action.batch or None,
            max_fail=action.max_fail or None,
            only=frozenset(choose(action.targets, inventory)) if action.targets else None,
            back=action.back,
        )
        for play in plan.plays:
            rollout_of(play, going)
        hosts = [one.host for one in plan.hosts if going.only is None or one.host in going.only]
        if not hosts:
            raise PermanentError("no host of the plan is chosen")
        recorder, done = await self._opened(plan, row, inventory, hosts, before if claimed.resume else {})
        applying = Applying(
            apply_id=claimed.apply_id,
            salt=plan.salt,
            holder=f"apply {claimed.apply_id} of run {scene.run_id}",
            plans={host.host: host for host in plan.hosts},
            secrets=plan_secrets(plan, inventory),
            operations=OPERATIONS,
            folders=folders_of(inventory, [host.host for host in plan.hosts]),
            resume=claimed.resume,
            timeout_s=action.apply_timeout,
        )
        asks = any(play.probes for play in plan.plays) and not action.back
        goer = Goer(
            plan,
            going,
            applier := Applier(applying, NoNotes()),
            NoNotes(),
            self._part.pool(connect_timeout_s=action.connect_timeout),
            gate=gate_by(scene.get(Sight).look, inventory) if asks else None,
            watcher=Log(scene),
            ledger=recorder,
        )
        try:
            went = await goer.go(done)
        finally:
            kept.update({one.host: (one.state, one.message) for one in applier.done.values()})
        await self._close(went)
        return went

    async def _opened(
        self, plan: Plan, row: PlanRow, inventory: Inventory, hosts: list[str], before: Mapping[str, str]
    ) -> tuple[Recorder, dict[str, str]]:
        """Write down that the run begins or goes on; return who takes its hosts, and those that are done."""
        action, scene, book = self._action, self._scene, self._book
        empty = {one.host for one in plan.hosts if not one.items and not one.problems and not action.back}
        done = {host: before[host] for host in hosts if before.get(host) in ("applied", "unchanged")}
        done = {} if action.back else done
        if await book.known(self._key):
            await book.reopen(self._key, scene.actor, attempt=scene.attempt)
        else:
            settled = {
                host: _settled(host, done.get(host, _NOTHING)) for host in hosts if host in done or host in empty
            }
            verb = "take back" if action.back else "finish" if action.resume else "apply"
            opening = Opening(
                what=f"# {verb} {row.playbook}: plan {row.plan_id}",
                targets=action.targets or row.targets or ", ".join(play.targets for play in plan.plays),
                orders={},
                actor=scene.actor,
                hosts={host: inventory.labels(host) if host in inventory else {} for host in hosts},
                done=settled,
            )
            await book.open(opening, self._key)
        kept = await book.hosts(self._key)
        if scene.attempt > 1 and not action.back:
            # The attempt before this one was cut off: what it finished is finished.
            done |= {
                one.host: "applied"
                for one in kept
                if one.result is not None and one.result.ok and one.host not in done and one.host not in empty
            }
        return book.recorder(self._key, kept, attempt=scene.attempt, mask=scene.mask), done

    async def _close(self, went: Went) -> None:
        results = [
            HostResult(
                host=one.host,
                state=State.SUCCEEDED
                if one.ok
                else State.NOT_STARTED
                if one.state == "not started"
                else State.NON_ZERO,
            )
            for one in went.done
        ]
        await self._book.close(self._key, results, went.stopped, self._scene.actor)

    def _outcome(self, went: Went, state: str, row: PlanRow) -> Outcome:
        for one in went.done:
            if one.message:
                self._scene.write(f"{one.host}: {one.state}: {one.message}\n", "stdout" if one.ok else "stderr")
        bad = [one.host for one in went.done if not one.ok]
        if bad:
            raise PermanentError(
                f"{len(bad)} of {len(went.done)} hosts are not done: {fold(bad)}",
                hint=f"see `dogwatch fleet plans {row.plan_id}`; --resume finishes the rest, --roll-back takes it back",
            )
        return Outcome(
            changed=any(one.state in ("applied", "rolled back") for one in went.done),
            outputs={
                "state": state,
                "hosts": {one.host: {"state": one.state, "changed": list(one.changed)} for one in went.done},
            },
            message=f"{state}: {len(went.done)} hosts",
        )


def _settled(host: str, message: str) -> HostResult:
    return HostResult(host=host, state=State.SUCCEEDED, message=message)


def desk_of(scene: Scene) -> PlanDesk:
    """Raises: PermanentError where this program keeps no plans."""
    desk = scene.get(FleetPart).desk
    if desk is None:
        raise PermanentError("this program keeps no plans")
    return desk


async def _shielded(writing: Awaitable[Any]) -> None:
    """Write the end of something that is cancelled; what cannot be written is not waited for."""
    task = asyncio.ensure_future(writing)
    with contextlib.suppress(DogwatchError, asyncio.CancelledError):
        await asyncio.shield(task)
