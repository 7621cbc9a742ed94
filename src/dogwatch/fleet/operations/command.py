"""The operation `command`: a command that is run until something says that it was."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from dogwatch.fleet.connection import compose
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Fact, Need, State
from dogwatch.fleet.operations.steps import AnyStep, Run


class ExitFact(Fact, frozen=True, kw_only=True):
    """How a question ended. ok: with 0."""

    ok: bool


class ExitNeed(Need[ExitFact], frozen=True, kw_only=True, tag="exit"):
    """Whether a command that only looks ends with 0."""

    run: str

    @property
    def key(self) -> str:
        return f"exit {hashlib.sha256(self.run.encode()).hexdigest()[:32]}"

    def script(self) -> str:
        return f"/bin/sh -c {shlex.quote(self.run)} >/dev/null 2>&1 && echo yes || echo no"

    def parse(self, raw: bytes) -> ExitFact:
        return ExitFact(ok=raw.strip() == b"yes")


class CommandOperation(Operation, frozen=True, kw_only=True):
    """A command was run. Something must say when it need not: creates, removes, unless or only_if, or `always`.

    run: for /bin/sh. creates: a path; where it is there nothing is done. removes: a path; where it is not there nothing
    is done. unless: a command that only looks; where it ends with 0 nothing is done. only_if: likewise, where it does
    not. always: run it each time. user: as whom, where one is root. chdir: in this folder. env: its environment.
    stdin: given to it. undo: a command that takes it back when the apply is rolled back.
    """

    kind: ClassVar[str] = "command"
    short: ClassVar[str] = "run"

    run: str
    creates: str | None = None
    removes: str | None = None
    unless: str | None = None
    only_if: str | None = None
    always: bool = False
    user: str | None = None
    chdir: str | None = None
    env: Mapping[str, str] = {}
    stdin: str | None = None
    undo: str | None = None

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if not self.run.strip():
            yield "run", "says nothing", ""
        if not self.always and not any((self.creates, self.removes, self.unless, self.only_if)):
            yield "run", "nothing says when it need not be run", "creates, removes, unless, only_if, or always: true"
        for name, path in (("creates", self.creates), ("removes", self.removes), ("chdir", self.chdir)):
            if path is not None and (fault := path_fault(path)):
                yield name, fault, ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        paths = [PathNeed(path=path) for path in (self.creates, self.removes) if path]
        return [*paths, *(ExitNeed(run=self._as_user(run)) for run in (self.unless, self.only_if) if run)]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        if self.creates and state.get(PathNeed(path=self.creates)).type != "absent":
            return
        if self.removes and state.get(PathNeed(path=self.removes)).type == "absent":
            return
        if self.unless and state.get(ExitNeed(run=self._as_user(self.unless))).ok:
            return
        if self.only_if and not state.get(ExitNeed(run=self._as_user(self.only_if))).ok:
            return
        for need in self.needs(context):
            state.forget(need, context.name)
        first = self.run.strip().splitlines()[0]
        state.loose = state.loose or context.name
        yield Run(
            title=f"run {first if len(first) <= 80 else first[:79] + '…'}",
            diff="".join(f"| {line}\n" for line in self.run.strip().splitlines()) if "\n" in self.run.strip() else "",
            script=self._as_user(self.run),
            undo=self._as_user(self.undo) if self.undo else "",
            stdin=None if self.stdin is None else self.stdin.encode(),
            skip=self._skip(),
            loose=True,
        )

    def _skip(self) -> str:
        asked = []
        if self.creates:
            asked.append(f"[ -e {shlex.quote(self.creates)} ]")
        if self.removes:
            asked.append(f"[ ! -e {shlex.quote(self.removes)} ]")
        if self.unless:
            asked.append(f"/bin/sh -c {shlex.quote(self._as_user(self.unless))} >/dev/null 2>&1")
        if self.only_if:
            asked.append(f"! /bin/sh -c {shlex.quote(self._as_user(self.only_if))} >/dev/null 2>&1")
        return " || ".join(asked)

    def _as_user(self, run: str) -> str:
        where = f"cd {shlex.quote(self.chdir)} || exit; " if self.chdir else ""
        script = where + compose(run, self.env)
        return script if self.user is None else as_user(self.user, script)


def as_user(user: str, script: str) -> str:
    """Return the script that root runs as a user."""
    return f"exec su {shlex.quote(user)} -s /bin/sh -c {shlex.quote(script)}"
