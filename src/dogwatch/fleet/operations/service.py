"""The operation `service`: units of systemd."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec

from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.state import CannotRead, Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Run

_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*")


class ServiceFact(Fact, frozen=True, kw_only=True):
    """A unit as systemd sees it. known: there is one. running, enabled, masked: whether it is.

    stale: its file is another than the one that systemd has read.
    """

    known: bool
    running: bool
    enabled: bool
    masked: bool = False
    stale: bool = False


class ServiceNeed(Need[ServiceFact], frozen=True, kw_only=True, tag="service"):
    """How a unit of systemd is."""

    name: str

    @property
    def key(self) -> str:
        return f"service {self.name}"

    def script(self) -> str:
        wanted = "-p LoadState -p ActiveState -p UnitFileState -p NeedDaemonReload"
        return f"systemctl show {wanted} -- {shlex.quote(self.name)} 2>&1"

    def parse(self, raw: bytes) -> ServiceFact:
        lines = raw.decode(errors="backslashreplace").splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        if "LoadState" not in found:
            raise CannotRead(f"service {self.name} cannot be read: {lines[-1] if lines else 'systemctl said nothing'}")
        file = found.get("UnitFileState", "")
        return ServiceFact(
            known=found["LoadState"] not in ("not-found", ""),
            running=found.get("ActiveState", "") in ("active", "activating", "reloading"),
            # A unit that is made by another one, or needs no enabling, is as enabled as it can be.
            enabled=file in ("enabled", "enabled-runtime", "static", "generated", "alias", "indirect"),
            masked=found["LoadState"] == "masked",
            stale=found.get("NeedDaemonReload") == "yes",
        )


class ServiceOperation(Operation, frozen=True, kw_only=True):
    """A unit of systemd runs or does not, now and after a start of the machine.

    name: of the unit. running: whether it runs. enabled: whether it is started with the machine. masked: whether it
    can be started at all. restarted: restart it, each time: for handlers. reloaded: have it read its configuration
    anew, each time: for handlers. daemon_reload: have systemd read its units anew before, where this one's file has
    changed; always for handlers that restart, reload, or say nothing else.
    """

    kind: ClassVar[str] = "service"
    short: ClassVar[str] = "name"

    name: str
    running: bool | None = None
    enabled: bool | None = None
    masked: bool | None = None
    restarted: bool = False
    reloaded: bool = False
    daemon_reload: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if not _NAME.fullmatch(self.name):
            yield "name", f"'{self.name}' is not the name of a unit", ""
        said = (self.running, self.enabled, self.masked)
        if all(one is None for one in said) and not (self.restarted or self.reloaded or self.daemon_reload):
            yield "name", "nothing is said of it", "running, enabled, masked, restarted or reloaded"
        if self.masked and (self.running or self.enabled):
            yield "masked", "a masked unit neither runs nor is enabled", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [ServiceNeed(name=self.name)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        need = ServiceNeed(name=self.name)
        fact = state.get(need)
        written = state.wrote(self._is_of_it)
        if not fact.known and not state.loose and not written:
            if self.running is not True and self.enabled is not True and not (self.restarted or self.reloaded):
                return
            raise Refused(f"there is no unit {self.name}")
        guess = not fact.known
        always = self.restarted or self.reloaded or (self.running is self.enabled is self.masked is None)
        if self.daemon_reload and (written or guess or fact.stale or always):
            if fact.stale:
                fact = msgspec.structs.replace(fact, stale=False)
                state.put(need, fact)
            yield Run(title="have systemd read its units anew", script="systemctl daemon-reload")
        changes = [
            (self.masked, fact.masked, ("mask", "unmask"), "masked"),
            (self.enabled, fact.enabled, ("enable", "disable"), "enabled"),
            (self.running, fact.running, ("start", "stop"), "running"),
        ]
        # What is masked cannot be started: it is masked last, and so unmasked first on the way back.
        for wanted, now, verbs, change in reversed(changes) if self.masked else changes:
            # Of a unit that a package is about to bring, nothing is known: it is said in any case.
            if wanted is None or (wanted == now and not guess):
                continue
            verb, back = verbs if wanted else verbs[::-1]
            fact = msgspec.structs.replace(fact, known=True, **{change: wanted})
            if change == "masked":
                fact = msgspec.structs.replace(fact, enabled=fact.enabled and not wanted)
            state.put(need, fact, sure=not guess and change != "masked")
            yield self._run(verb, back)
        if self.restarted:
            state.put(need, msgspec.structs.replace(fact, running=True))
            yield self._run("restart", "")
        elif self.reloaded:
            yield self._run("reload-or-restart", "")

    def _is_of_it(self, key: str) -> bool:
        """Return whether a fact is a file of this unit, or one of its drop-ins."""
        unit = self.name if re.search(r"\.[a-z]+$", self.name) else f"{self.name}.service"
        template = re.sub(r"@[^.]*\.", "@.", unit)
        if not key.startswith("path ") or "/systemd/" not in key:
            return False
        return any(key.endswith(f"/{one}") or f"/{one}.d/" in key for one in (unit, template))

    def _run(self, verb: str, back: str) -> Run:
        name = shlex.quote(self.name)
        undo = f"systemctl {back} -- {name}" if back else ""
        return Run(title=f"{verb} {self.name}", script=f"systemctl {verb} -- {name}", undo=undo)
