"""The `remote` kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Protocol

from msgspec import Meta

from dogwatch.core.units import Ratio, Seconds
from dogwatch.errors import DogwatchError, UsageError
from dogwatch.inspection.judging import DAY_S, Finding, Limits, judge
from dogwatch.inspection.reading import MEANINGS, VARIABLES, read
from dogwatch.inspection.script import inspection_script
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe, clock_of

Check = Literal["time", "load", "memory", "disk", "services", "packages", "reboot", "errors", "certificates"]
_OUTPUT_BYTES = 512 * 1024


class RemoteShell(Protocol):
    """A way to hosts of the fleet, in `env.extra["shell"]`."""

    async def knows(self, host: str) -> bool: ...

    async def run(self, host: str, script: str, *, timeout_s: float, limit_bytes: int) -> tuple[bytes, str]: ...


class RemoteProbe(SteppedProbe, frozen=True, kw_only=True):
    """Looks at a host of the fleet over SSH, as `dogwatch fleet inspect` does: no agent is needed there.

    host: its name in the inventory. checks: what is looked at: time, load, memory, disk, services, packages, reboot,
    errors, certificates; default: time, load, memory, disk and services, which are quick. disk: a file system or its
    inodes fuller than this fails. memory: more in use fails. load: more by core fails. offset: a clock further off
    fails. expires: a certificate that ends within this fails. certificates: patterns of files with certificates;
    default: the usual places. strict: what would be nice to mend (errors in the log, a reboot that waits) fails, too.
    """

    kind: ClassVar[str] = "remote"
    short: ClassVar[str] = "host"
    variables: ClassVar[Mapping[str, str]] = {**VARIABLES, "findings": "list"}
    meanings: ClassVar[Mapping[str, str]] = {**MEANINGS, "findings": "what is wrong, in sentences"}
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        name: (f"probe_remote_{name.removesuffix('_in_s')}{'_in_seconds' if name.endswith('_in_s') else ''}", meaning)
        for name, meaning in MEANINGS.items()
    }

    host: str = ""
    checks: tuple[Check, ...] = ("time", "load", "memory", "disk", "services")
    disk: Ratio = 0.85
    memory: Ratio = 0.95
    load: Annotated[float, Meta(gt=0)] = 2.0
    offset: Seconds = 1.0
    expires: Seconds = 14 * DAY_S
    certificates: tuple[str, ...] = ()
    strict: bool = False

    def address(self) -> str:
        return self.host

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        if not self.host.strip():
            return [(("host",), "says nothing", "")]
        if not self.checks:
            return [(("checks",), "there is nothing to look at", "")]
        try:
            self._script()
        except UsageError as error:
            return [(("certificates",), str(error), error.hint)]
        return []

    def _script(self) -> str:
        return (
            inspection_script(self.checks, self.certificates) if self.certificates else inspection_script(self.checks)
        )

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        shell: RemoteShell | None = attempt.env.extra.get("shell")
        if shell is None:
            raise ProbeFailed("local", "this program has no fleet")
        progress.doing = "asking for the host"
        clock = clock_of(attempt)
        asked_s, begun_s = clock.now_s(), clock.monotonic_s()
        try:
            if not await shell.knows(self.host):
                raise ProbeFailed("missing", f"the inventory has no host '{self.host}'")
            progress.doing = "running the script there"
            said, trouble = await shell.run(
                self.host, self._script(), timeout_s=attempt.timeout_s, limit_bytes=_OUTPUT_BYTES
            )
        except DogwatchError as error:
            raise ProbeFailed(_reason(str(error)), str(error)) from None
        answered_s = asked_s + clock.monotonic_s() - begun_s
        reading = read(said.decode(errors="replace"), asked_s=asked_s, answered_s=answered_s)
        if trouble and not reading.complete:
            raise ProbeFailed(_reason(trouble), trouble)
        found = judge(reading, self._limits(), answered_s)
        progress.values = {**reading.values(answered_s), "findings": [_told(one) for one in found]}
        progress.hear("\n".join(progress.values["findings"]).encode())
        bad = [_told(one) for one in found if one.serious or self.strict]
        if bad:
            raise ProbeFailed("unhealthy", "; ".join(bad)[:500])

    def _limits(self) -> Limits:
        return Limits(
            disk_ratio=self.disk,
            memory_ratio=self.memory,
            load=self.load,
            offset_s=self.offset,
            certificate_s=self.expires,
        )


def _told(one: Finding) -> str:
    return f"{one.what}: {one.message}"


def _reason(text: str) -> str:
    """Return the word for why a host could not be looked at."""
    words = {"timed out": "timeout", "refused": "refused", "unreachable": "unreachable", "lost": "reset"}
    return next((reason for word, reason in words.items() if word in text), "protocol")
