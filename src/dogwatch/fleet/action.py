"""The action kind `ssh`: a step that runs a command on hosts of the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.core.units import Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.values import Json
from dogwatch.errors import DogwatchError, PermanentError, TransientError, UsageError
from dogwatch.fleet.connection import UNTOUCHED, HostFailed
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.login import Login, login_of
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.results import HostResult, gather
from dogwatch.fleet.rollout import Rollout, judge, parse_amount, parse_batches
from dogwatch.fleet.run import FleetRun, Order
from dogwatch.fleet.targets import choose

_OUTPUT_CHARS = 4096


class SshAction(Action, frozen=True, kw_only=True):
    """Runs a command on hosts of the fleet, by SSH or as the inventory says.

    run: for /bin/sh on each host. targets: which hosts, a target expression. env: of the command. sudo: as root or
    sudo_user. sudo_user: as whom. forks: hosts at once. host_timeout: of the command on each host. connect_timeout:
    until its login is done. batch: `1,10%,100%`. max_fail: how many hosts may fail, `3` or `5%`; with more no further
    host is started and the step fails.
    """

    kind: ClassVar[str] = "ssh"
    shell: ClassVar[tuple[str, ...]] = ("run",)
    outputs: ClassVar[Mapping[str, str]] = {"succeeded": "list", "failed": "list", "hosts": "map", "stopped": "string"}

    run: str
    targets: str
    env: Mapping[str, str] = {}
    sudo: bool = False
    sudo_user: str = ""
    forks: Annotated[int, Meta(ge=1, le=2000)] = 50
    host_timeout: Seconds = 60.0
    connect_timeout: Seconds = 10.0
    batch: str = ""
    max_fail: str = "0"

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        for name, text in (("run", self.run), ("targets", self.targets)):
            if not text.strip():
                yield (name,), "says nothing", ""
        for name, text, parse in (("batch", self.batch, parse_batches), ("max_fail", self.max_fail, parse_amount)):
            if "{{" not in text:
                try:
                    parse(text)
                except UsageError as error:
                    yield (name,), str(error), error.hint

    def plan(self) -> Change:
        lines = self.run.strip("\n").split("\n")
        details = [f"| {line}" for line in lines] if len(lines) > 1 else []
        details.append(f"on {self.forks} hosts at once, {format_duration(self.host_timeout)} each")
        details += [f"batches: {self.batch}"] if self.batch else []
        return Change(
            summary=f"run {lines[0]}{' …' if len(lines) > 1 else ''} on {self.targets}", details=tuple(details)
        )

    async def apply(self, scene: Scene) -> Outcome:
        try:
            from dogwatch.fleet.connections.ssh import SshDialer, SshOptions
        except ImportError:
            raise PermanentError("SSH is not installed here", hint="pip install 'dogwatch[fleet]'") from None

        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        logins = await self._logins(scene)
        rollout = Rollout(batches=parse_batches(self.batch), max_fail=parse_amount(self.max_fail))
        order = Order(script=self.run, env=self.env, forks=self.forks, timeout_s=self.host_timeout, rollout=rollout)
        dialer = SshDialer(SshOptions(connect_timeout_s=self.connect_timeout))
        running = FleetRun(order, logins, dialer, watcher=_Log(scene))
        try:
            results = await running.run()
        finally:
            await dialer.close()
        return _outcome(results, rollout, running.reason, scene)

    async def _logins(self, scene: Scene) -> dict[str, Login | HostFailed]:
        try:
            inventory = await scene.get(FleetPart).inventory()
            hosts = choose(self.targets, inventory)
        except DogwatchError as error:
            raise PermanentError(str(error), hint=error.hint) from None
        if not hosts:
            raise PermanentError(f"no host is chosen by '{self.targets}'")
        return {host: self._login(inventory, host) for host in hosts}

    def _login(self, inventory: Inventory, host: str) -> Login | HostFailed:
        variables = inventory.variables(host)
        if self.sudo_user:
            variables["ansible_become_user"] = self.sudo_user
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
    return Outcome(
        outputs={
            "succeeded": [one.host for one in results if one.ok],
            "failed": [one.host for one in failed],
            "hosts": {one.host: _plain(one, scene) for one in results},
            "stopped": reason,
        },
        message=f"{len(results) - len(failed)} of {len(results)} hosts",
    )


def _told(failed: list[HostResult]) -> str:
    words: dict[str, list[str]] = {}
    for group in gather(failed):
        words.setdefault(group.sample.word, []).extend(group.hosts)
    return "; ".join(f"{fold(hosts)}: {word}" for word, hosts in words.items())[:500]


def _plain(one: HostResult, scene: Scene) -> dict[str, Json]:
    text = scene.mask(one.stdout.decode(errors="replace"))
    return {"state": str(one.state), "exit_code": one.exit_code, "stdout": text[-_OUTPUT_CHARS:]}
