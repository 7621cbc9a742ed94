"""The action kind `evidence`: what a machine looks like before something is done to it, kept on the incident."""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar, Protocol

import msgspec
from msgspec import Meta

from dogwatch.core.units import format_size
from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.launch.command import Command
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.errors import DogwatchError, PermanentError
from dogwatch.rules.remedy.masking import masked
from dogwatch.rules.remedy.snapshot import snapshot_script
from dogwatch.rules.remedy.spec import Kept, Lasting


class Shell(Protocol):
    """A way to other machines. The fleet implements it."""

    async def knows(self, host: str) -> bool: ...

    async def run(self, host: str, script: str, *, timeout_s: float, limit_bytes: int) -> tuple[bytes, str]:
        """Return what a script for /bin/sh wrote, and what kept it from its end ("" for nothing).

        Raises: DogwatchError where the host cannot be reached.
        """
        ...


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. source: where. note: what is missing of it, and why."""

    number: int
    run_id: str
    target: str
    source: str
    text: str
    note: str = ""


class Keeper(Protocol):
    """Where evidence is kept."""

    async def keep(self, found: Found, key: str) -> None:
        """Keep it once for its key."""
        ...


class EvidenceAction(Action, frozen=True, kw_only=True):
    """Looks at a machine, and keeps what it sees on an incident: top processes, descriptors, memory, disks, units.

    incident: its number. target: what it is about. unit: of systemd. container: of Docker. socket: its engine's. logs:
    files whose last lines are kept. process: a name whose processes are shown. host: of the fleet; "" for this machine.
    lines: of each log. size: how much is kept. limit: how long it may look.
    """

    kind: ClassVar[str] = "evidence"
    outputs: ClassVar[dict[str, str]] = {"bytes": "int", "note": "string"}

    incident: str = ""
    target: str = ""
    unit: str = ""
    container: str = ""
    socket: str = ""
    logs: tuple[str, ...] = ()
    process: str = ""
    host: str = ""
    lines: Annotated[int, Meta(ge=1, le=1000)] = 50
    size: Kept = 64 * 1024
    limit: Lasting = 10.0

    def plan(self) -> Change:
        where = self.host or "this machine"
        more = [f"unit {self.unit}"] * bool(self.unit) + [f"container {self.container}"] * bool(self.container)
        return Change(summary=f"look at {where}", details=(*more, *(f"log {path}" for path in self.logs)))

    async def apply(self, scene: Scene) -> Outcome:
        script = snapshot_script(
            unit=self.unit,
            container=self.container,
            socket=self.socket,
            logs=self.logs,
            process=self.process,
            lines=self.lines,
            limit_s=self.limit,
        )
        source, data, note = await self._look(scene, script)
        text = masked(scene.mask(data.decode(errors="replace"))).replace("\0", "�")
        if len(text) > self.size:
            note = _joined(note, f"of {format_size(len(text))} the first {format_size(self.size)} are kept")
            text = text[: self.size]
        if self.incident.isdecimal() and int(self.incident):
            found = Found(
                number=int(self.incident), run_id=scene.run_id, target=self.target, source=source, text=text, note=note
            )
            await scene.get(Keeper).keep(found, scene.idempotency_key)  # type: ignore[type-abstract]
        scene.write(f"{source}: {format_size(len(text))} kept{': ' if note else ''}{note}\n")
        return Outcome(outputs={"bytes": len(text), "note": note}, changed=False)

    async def _look(self, scene: Scene, script: str) -> tuple[str, bytes, str]:
        """Return where was looked, what was seen, and what is missing."""
        note = ""
        if self.host:
            shell = _shell(scene)
            if shell is not None and await shell.knows(self.host):
                data, note = await shell.run(self.host, script, timeout_s=self.limit, limit_bytes=2 * self.size)
                return self.host, data, note
            missing = f"the fleet has no host '{self.host}'" if shell is not None else "this worker has no fleet"
            note = f"{missing}; the worker's own machine was looked at"
        data, ended = await self._here(scene, script)
        return "this machine", data, _joined(note, ended)

    async def _here(self, scene: Scene, script: str) -> tuple[bytes, str]:
        kept = bytearray()

        def output(_stream: str, data: bytes) -> None:
            # What comes after is not kept: the first sections matter most.
            kept.extend(data[: max(0, 2 * self.size - len(kept))])

        command = Command(args=["sh", "-c", script], env={}, grace_s=0.5)
        try:
            async with asyncio.timeout(self.limit):
                await scene.get(Launcher).run(command, output)
        except TimeoutError:
            return bytes(kept), f"not all was seen within {self.limit:g} s"
        except DogwatchError as error:
            if not kept:
                raise PermanentError(f"nothing could be looked at: {error}") from error
            return bytes(kept), str(error)
        return bytes(kept), ""


def _shell(scene: Scene) -> Shell | None:
    """Return the way to other machines; None where this program has none."""
    try:
        return scene.get(Shell)  # type: ignore[type-abstract]
    except PermanentError:
        return None


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
