"""Makes a plan: connects to the hosts of a play, reads them, decides. It changes nothing."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dogwatch.core.component import Registry
from dogwatch.errors import DogwatchError, UsageError
from dogwatch.fleet.connection import Connection, Ended, HostFailed, State
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.login import Login, login_of
from dogwatch.fleet.operations.operation import Operation
from dogwatch.fleet.plans.asking import ask
from dogwatch.fleet.plans.decide import decide_host, needs_of
from dogwatch.fleet.plans.plan import HostPlan, Plan, PlayPlan
from dogwatch.fleet.plans.secrets import sealed
from dogwatch.fleet.playbook.expand import Expander, Scope, read_secrets, scope_of
from dogwatch.fleet.playbook.model import Play, Playbook
from dogwatch.fleet.playbook.templates import Engine
from dogwatch.fleet.pool import Dialer
from dogwatch.fleet.run import FleetRun, Order, Watcher
from dogwatch.fleet.targets import choose


class FactSource(Protocol):
    """Gives facts of hosts: those kept, or gathered over the connection."""

    async def of(self, host: str, login: Login, connection: Connection) -> Mapping[str, Any]: ...


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is made of. targets: only these of the playbook's hosts, "" for all. more: variables of logins.

    extra: --var. forks: hosts at once. timeout_s: of the reading on each host.
    """

    playbook: Playbook
    inventory: Inventory
    engine: Engine
    operations: Registry[Operation]
    facts: FactSource
    environ: Mapping[str, str]
    targets: str = ""
    extra: Mapping[str, Any] = {}
    more: Mapping[str, Any] = {}
    forks: int = 50
    timeout_s: float = 60.0
    made_by: str = ""


def hosts_of(making: Making) -> dict[int, list[str]]:
    """Return the hosts of each play, by its place. Raises: UsageError where one is in two plays."""
    inventory = making.inventory
    kept = set(choose(making.targets, inventory)) if making.targets else set(inventory.hosts)
    found: dict[int, list[str]] = {}
    seen: dict[str, Play] = {}
    for at, play in enumerate(making.playbook.plays):
        found[at] = [host for host in choose(play.hosts, inventory) if host in kept]
        for host in found[at]:
            if host in seen:
                raise UsageError(
                    f"{host} is in two plays: line {seen[host].line} and line {play.line} of {play.file}",
                    hint="a plan rests on one reading of each host: join them, or make two playbooks",
                )
            seen[host] = play
    return found


def logins_of(
    hosts: Sequence[str],
    inventory: Inventory,
    *,
    become: bool | None,
    become_user: str,
    more: Mapping[str, Any],
) -> dict[str, Login | HostFailed]:
    """Return how each host is reached, with what a play says of becoming another user."""
    given = dict(more)
    if become_user:
        given["ansible_become_user"] = become_user
    if become is False:
        given["ansible_become"] = False
    found: dict[str, Login | HostFailed] = {}
    for host in hosts:
        try:
            sudo = bool(become) or bool(become_user) or bool(more.get("ansible_become_user"))
            found[host] = login_of(host, {**inventory.variables(host), **given}, sudo=sudo)
        except HostFailed as error:
            found[host] = error
    return found


async def make_plan(
    making: Making, dialer: Dialer, *, watcher: Watcher | None = None, heed: Callable[[FleetRun], None] | None = None
) -> Plan:
    """Return the plan for all hosts of the playbook; those that cannot be read stand in it with the reason.

    Raises: UsageError and others for what is wrong with the playbook as a whole.
    """
    salt = secrets.token_hex(8)
    plays = []
    for at, hosts in hosts_of(making).items():
        play = making.playbook.plays[at]
        planner = _Planner(making, play, salt)
        logins = logins_of(hosts, making.inventory, become=play.become, become_user=play.become_user, more=making.more)
        running = FleetRun(
            Order(script="", forks=making.forks, timeout_s=making.timeout_s),
            logins,
            dialer,
            work=planner.work,
            watcher=watcher,
        )
        if heed is not None:
            heed(running)
        results = await running.run()
        plays.append(planner.play([(one.host, one.message or one.word) for one in results]))
    return Plan(
        plan_id=secrets.token_hex(8),
        made_at_s=time.time(),
        made_by=making.made_by,
        playbook=making.playbook.file,
        folder=str(making.playbook.folder.absolute()),
        salt=salt,
        plays=tuple(plays),
    )


class _Planner:
    """Plans one play, host by host."""

    def __init__(self, making: Making, play: Play, salt: str) -> None:
        self._making, self._play, self._salt = making, play, salt
        self._secrets = read_secrets(play.secrets, making.playbook.folder, making.environ)
        self._expander = Expander(making.playbook, play, making.operations, making.engine)
        self._plans: dict[str, HostPlan] = {}

    async def work(self, host: str, login: Login, connection: Connection) -> Ended:
        try:
            await self._host(host, login, connection)
        except HostFailed:
            raise
        except DogwatchError as error:
            raise HostFailed(State.MISCONFIGURED, str(error), hint=error.hint) from None
        return Ended(state=State.SUCCEEDED)

    async def _host(self, host: str, login: Login, connection: Connection) -> None:
        facts = await self._making.facts.of(host, login, connection) if self._play.uses_facts else None
        scope = self.scope(host, facts)
        tasks, problems = self._expander.tasks(scope)
        needs, more = needs_of(tasks)
        problems += more
        if problems:
            plan = HostPlan(host=host, problems=tuple(problems), total=len(tasks))
        else:
            plan = decide_host(host, tasks, await ask(connection, login, needs, timeout_s=self._making.timeout_s))
        self._plans[host] = sealed(plan, scope.secrets, self._salt, scope.masked)

    def scope(self, host: str, facts: Mapping[str, Any] | None) -> Scope:
        return scope_of(
            self._play,
            self._making.inventory,
            host,
            self._making.engine,
            secrets=self._secrets,
            extra=self._making.extra,
            facts=facts,
        )

    def play(self, ended: Sequence[tuple[str, str]]) -> PlayPlan:
        play = self._play
        return PlayPlan(
            name=play.name,
            targets=play.hosts,
            hosts=tuple(self._plans[host] for host, _ in ended if host in self._plans),
            unread={host: told for host, told in ended if host not in self._plans},
            become=play.become,
            become_user=play.become_user,
            batches=play.batches,
            max_fail=play.max_fail,
            approval=play.approval,
            probes=() if play.probes is None else play.probes.match,
            settle_s=60.0 if play.probes is None else play.probes.settle_s,
            secrets=play.secrets,
        )
