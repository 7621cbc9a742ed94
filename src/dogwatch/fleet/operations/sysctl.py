"""The operation `sysctl`: parameters of the kernel, now and after a start of the machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, path_needs
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Run
from dogwatch.fleet.operations.text import current, edited, with_line, without_lines

_KEY = re.compile(r"[a-z0-9_-]+([./][A-Za-z0-9_*:-]+)+")


class SysctlFact(Fact, frozen=True, kw_only=True):
    """A parameter's value, its blanks made one; None where the kernel has no such parameter."""

    value: str | None


class SysctlNeed(Need[SysctlFact], frozen=True, kw_only=True, tag="sysctl"):
    """A parameter of the running kernel."""

    name: str

    @property
    def key(self) -> str:
        return f"sysctl {self.name}"

    def script(self) -> str:
        return f"sysctl -n {shlex.quote(self.name)} 2>/dev/null && echo there"

    def parse(self, raw: bytes) -> SysctlFact:
        lines = raw.decode(errors="backslashreplace").strip().split("\n")
        return SysctlFact(value=_plain(" ".join(lines[:-1])) if lines[-1] == "there" else None)


class SysctlOperation(Operation, frozen=True, kw_only=True):
    """A parameter of the kernel has a value, now and after a start of the machine.

    key: `net.ipv4.ip_forward`. value: what it should be. path: the file that keeps it. live: set it now, too. state:
    present; absent takes it out of the file, and leaves the running kernel as it is.
    """

    kind: ClassVar[str] = "sysctl"

    key: str
    value: str | int = ""
    path: str = "/etc/sysctl.d/99-dogwatch.conf"
    live: bool = True
    state: Literal["present", "absent"] = "present"

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if not _KEY.fullmatch(self.key):
            yield "key", f"'{self.key}' is not a parameter", ""
        if fault := path_fault(self.path):
            yield "path", fault, ""
        if self.state == "present" and not str(self.value).strip():
            yield "value", "is missing", ""
        if "\n" in str(self.value):
            yield "value", "must be one line", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [SysctlNeed(name=self.key), *path_needs(self.path)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        match = re.compile(rf"^\s*-?{re.escape(self.key)}\s*=")
        value = _plain(str(self.value))
        if self.state == "absent":
            if state.get(PathNeed(path=self.path)).type == "file":
                yield from edited(
                    state, self.path, without_lines(current(state, self.path, create=True), None, match), Wanted()
                )
            return
        need = SysctlNeed(name=self.key)
        fact = state.get(need)
        if fact.value is None and self.live:
            raise Refused(f"the kernel has no parameter {self.key}", hint="live: false only writes it down")
        text = with_line(current(state, self.path, create=True), f"{self.key} = {value}", match=match)
        yield from edited(state, self.path, text, Wanted())
        if self.live and fact.value != value:
            state.put(need, SysctlFact(value=value))
            yield Run(
                title=f"set {self.key}",
                diff=f"{fact.value} → {value}\n",
                script=shlex.join(["sysctl", "-q", "-w", f"{self.key}={value}"]),
                undo=shlex.join(["sysctl", "-q", "-w", f"{self.key}={fact.value}"]),
            )


def _plain(value: str) -> str:
    return " ".join(value.split())
