"""The action kind `ssh`: a step that runs a command on hosts of the fleet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.core.units import Bytes, Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.values import Json
from dogwatch.errors import DogwatchError, PermanentError, TransientError, UsageError
from dogwatch.fleet.carrying import carrying
from dogwatch.fleet.connection import OUTPUT_BYTES, UNTOUCHED, HostFailed, State
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.login import Login, login_of
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.results import HostResult, counts, gather
from dogwatch.fleet.rollout import Amount, Rollout, judge, parse_amount, parse_batches, rollout_faults
from dogwatch.fleet.run import FleetRun, Order
from dogwatch.fleet.scripts import script_command
from dogwatch.fleet.targets import choose
from dogwatch.fleet.turn import begin_turn

_OUTPUT_CHARS = 4096
_DEEDS = ("run", "script", "copy", "copy_file", "fetch")
_OCTAL = re.compile(r"[0-7]{1,4}")
# Of all hosts together. With more hosts than this their output is not given, and of names only so many.
_OUTPUTS_CHARS = 60_000
_HOSTS = 500
_NAMES = 2000


class SshAction(Action, frozen=True, kw_only=True):
    """Runs a command on hosts of the fleet, by SSH or as the inventory says; or brings a file there, or from there.

    run: for /bin/sh on each host. copy: in place of it the path of a file, to be put at target. copy_file: the same for
    a file that was sent to the daemon, by its id. target: where, on each host. mode: octal permissions of it there.
    fetch: in place of a command the path of a file on each host, to be kept for a day for who asks. script: in place of
    a command the text of a script, run by what its first line names.
    args: of the script. targets: which hosts, a target expression. limit: of these, only what this chooses, too.
    env: of the command. user: to log in as. sudo: as root or sudo_user. sudo_user: as whom. forks: hosts at once.
    host_timeout: of the command on each host. connect_timeout: until its login is done. deadline: of all hosts
    together; what still runs then is ended. batch: `1,10%,100%`. max_fail: how many hosts may fail, `3` or `5%`; with
    more no further host is started and the step fails. output_limit: kept of each stream of each host.
    accept_new_host_keys: take and keep keys of hosts that have none in known_hosts. strict: the step fails where any
    host did, although max_fail let the others go on.
    """

    kind: ClassVar[str] = "ssh"
    shell: ClassVar[tuple[str, ...]] = ("run",)
    outputs: ClassVar[Mapping[str, str]] = {
        "succeeded": "list",
        "failed": "list",
        "hosts": "map",
        "counts": "map",
        "stopped": "string",
    }

    run: str = ""
    script: str = ""
    copy: str = ""
    copy_file: str = ""
    target: str = ""
    mode: str = "644"
    fetch: str = ""
    args: tuple[str, ...] = ()
    targets: str
    limit: str = ""
    env: Mapping[str, str] = {}
    user: str = ""
    sudo: bool = False
    sudo_user: str = ""
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    host_timeout: Seconds = 60.0
    connect_timeout: Seconds = 10.0
    deadline: Seconds | None = None
    batch: str = ""
    max_fail: str = "0"
    output_limit: Bytes = OUTPUT_BYTES
    accept_new_host_keys: bool = False
    strict: bool = False

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        given = [name for name in _DEEDS if getattr(self, name).strip()]
        if len(given) != 1:
            yield ("run",), f"cannot stand beside {given[1]}" if given else "says nothing", ""
        if bool(self.target.strip()) != bool(self.copy or self.copy_file):
            yield ("target",), "says nothing" if not self.target.strip() else "is for a file that is copied", ""
        if "{{" not in self.mode and not _OCTAL.fullmatch(self.mode):
            yield ("mode",), f"'{self.mode}' is not octal", "write 644"
        if not self.targets.strip():
            yield ("targets",), "says nothing", ""
        yield from rollout_faults(self.batch, self.max_fail)

    def plan(self) -> Change:
        lines = (self.run or self.script).strip("\n").split("\n")
        details = [f"| {line}" for line in lines] if len(lines) > 1 else []
        details.append(f"on {self.forks} hosts at once, {format_duration(self.host_timeout)} each")
        details += [f"batches: {self.batch}"] if self.batch else []
        verb = "run " if self.run or self.script else ""
        return Change(summary=f"{verb}{self.what} on {self.targets}", details=tuple(details))

    @property
    def what(self) -> str:
        """Return the command in one line, for people."""
        if self.fetch:
            return f"fetch {self.fetch}"
        if self.target:
            return f"copy {self.copy or 'a file'} to {self.target}"
        lines = (self.run or self.script).strip("\n").split("\n")
        return f"{lines[0]}{' …' if len(lines) > 1 else ''}"

    @property
    def octal(self) -> int:
        return int(self.mode, 8)

    async def apply(self, scene: Scene) -> Outcome:
        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        part = scene.get(FleetPart)
        pool = part.pool(connect_timeout_s=self.connect_timeout, accept_new=self.accept_new_host_keys)
        inventory, order = await self._inventory(part), self._order()
        turn = await begin_turn(scene, part, lambda: self._chosen(inventory), what=self.what, targets=self.targets)
        logins = {host: self._login(inventory, host) for host in turn.hosts}
        async with carrying(self, scene) as work:
            running = FleetRun(order, logins, pool, work=work, watcher=_Log(scene), ledger=turn.ledger, done=turn.done)
            try:
                results = await running.run()
            finally:
                await turn.close(running)
        rollout = Rollout(max_fail=Amount(0)) if self.strict else order.rollout
        return _outcome(results, rollout, running.reason, scene)

    def _order(self) -> Order:
        """Raises: PermanentError."""
        try:
            data = self.script.encode() if self.script else None
            return Order(
                script=self.run if data is None else script_command(data, self.args),
                input=data,
                env=self.env,
                forks=self.forks,
                timeout_s=self.host_timeout,
                deadline_s=self.deadline,
                rollout=Rollout(batches=parse_batches(self.batch), max_fail=parse_amount(self.max_fail)),
                limit_bytes=self.output_limit,
            )
        except UsageError as error:
            raise PermanentError(str(error), hint=error.hint) from None

    async def _inventory(self, part: FleetPart) -> Inventory:
        try:
            return await part.inventory()
        except DogwatchError as error:
            raise PermanentError(str(error), hint=error.hint) from None

    def _chosen(self, inventory: Inventory) -> dict[str, Mapping[str, str]]:
        """Return the hosts with their labels. Raises: PermanentError."""
        try:
            hosts = choose(self.targets, inventory)
            kept = set(choose(self.limit, inventory)) if self.limit else set(hosts)
        except DogwatchError as error:
            raise PermanentError(str(error), hint=error.hint) from None
        found: dict[str, Mapping[str, str]] = {host: inventory.labels(host) for host in hosts if host in kept}
        if not found:
            raise PermanentError(f"no host is chosen by '{self.targets}'")
        return found

    def _login(self, inventory: Inventory, host: str) -> Login | HostFailed:
        if host not in inventory:
            return HostFailed(State.MISCONFIGURED, f"{host} is not in the inventory any more")
        variables = inventory.variables(host)
        if self.sudo_user:
            variables["ansible_become_user"] = self.sudo_user
        if self.user:
            variables["ansible_user"] = self.user
        try:
            return login_of(host, variables, sudo=self.sudo or bool(self.sudo_user))
        except HostFailed as error:
            return error


class _Log:
    """Writes what each host said to the run's log when it has ended."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def started(self, host: str) -> None: ...

    def ended(self, result: HostResult) -> None:
        told = f": {result.message}" if result.message else ""
        self._scene.write(f"{result.host}: {result.word}{told}\n", "stdout" if result.ok else "stderr")
        for stream, data in (("stdout", result.stdout), ("stderr", result.stderr)):
            for line in data.decode(errors="replace").splitlines():
                self._scene.write(f"{result.host} | {line}\n", stream)

    def stopped(self, reason: str) -> None:
        self._scene.write(f"no further host is started: {reason}\n", "stderr")


def _outcome(results: list[HostResult], rollout: Rollout, reason: str, scene: Scene) -> Outcome:
    failed = [one for one in results if not one.ok]
    # Not where it ran anywhere: another attempt would run it there again.
    if failed and all(one.state in UNTOUCHED for one in results):
        raise TransientError(f"it ran on no host: {_told(failed)}")
    if reason or not judge(rollout, total=len(results), failed=len(failed)).go_on:
        raise PermanentError(f"{len(failed)} of {len(results)} hosts failed: {_told(failed)}")
    # What a step gives is bounded; all of it is in the book of fleet runs.
    room = min(_OUTPUT_CHARS, _OUTPUTS_CHARS // len(results))
    return Outcome(
        outputs={
            "succeeded": [one.host for one in results if one.ok][:_NAMES],
            "failed": [one.host for one in failed][:_NAMES],
            "hosts": {one.host: _plain(one, scene, room) for one in results} if len(results) <= _HOSTS else {},
            "counts": counts(results),
            "stopped": reason,
        },
        message=f"{len(results) - len(failed)} of {len(results)} hosts",
    )


def _told(failed: list[HostResult]) -> str:
    words: dict[str, list[str]] = {}
    for group in gather(failed):
        words.setdefault(group.sample.word, []).extend(group.hosts)
    return "; ".join(f"{fold(hosts)}: {word}" for word, hosts in words.items())[:500]


def _plain(one: HostResult, scene: Scene, room: int) -> dict[str, Json]:
    text = scene.mask(one.stdout.decode(errors="replace"))
    return {"state": str(one.state), "exit_code": one.exit_code, "stdout": text[-room:]}
