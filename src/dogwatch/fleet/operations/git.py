"""The operation `git`: a checkout of a repository."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from dogwatch.fleet.operations.command import as_user
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, parent, path_fault
from dogwatch.fleet.operations.state import CannotRead, Fact, Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Run

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT = "GIT_TERMINAL_PROMPT=0 git"


class GitFact(Fact, frozen=True, kw_only=True):
    """A checkout. state: absent, checkout, or other (something else is there). head: its commit. remote: its origin.

    dirty: it has changes of its own. wanted: the commit that the version means, "" where the repository has none.
    """

    state: str
    head: str = ""
    remote: str = ""
    dirty: bool = False
    wanted: str = ""


class GitNeed(Need[GitFact], frozen=True, kw_only=True, tag="git"):
    """A checkout, and what its repository has."""

    repo: str
    path: str
    version: str
    user: str = ""

    @property
    def key(self) -> str:
        return f"git {self.path} {self.version}"

    def script(self) -> str:
        repo, path, version = map(shlex.quote, (self.repo, self.path, self.version))
        asked = f"{version} {shlex.quote(f'refs/heads/{self.version}')} {shlex.quote(f'refs/tags/{self.version}^{{}}')}"
        script = (
            "command -v git >/dev/null || { echo missing; exit; }; "
            f'if [ ! -e {path} ] || [ -z "$(ls -A {path} 2>/dev/null)" ]; then echo absent; '
            f"elif [ ! -e {path}/.git ]; then echo other; "
            f"else echo checkout; {_GIT} -C {path} rev-parse HEAD || echo none; "
            f"{_GIT} -C {path} config --get remote.origin.url || echo none; "
            f"{_GIT} -C {path} status --porcelain --untracked-files=no | head -n 1 | cut -c 1-2; fi; "
            f"echo ls-remote; {_GIT} ls-remote -- {repo} {asked}"
        )
        return f"({as_user(self.user, script)})" if self.user else f"({script})"

    def parse(self, raw: bytes) -> GitFact:
        head, mark, refs = raw.decode(errors="backslashreplace").partition("ls-remote\n")
        lines = head.splitlines()
        if not lines or lines[0] == "missing" or not mark:
            raise CannotRead("git is not on the host", hint="an operation `package` may bring it")
        wanted = self.version if _COMMIT.fullmatch(self.version) else _wanted(refs, self.version)
        if lines[0] != "checkout":
            return GitFact(state=lines[0], wanted=wanted)
        return GitFact(
            state="checkout",
            head=lines[1] if len(lines) > 1 else "",
            remote=lines[2] if len(lines) > 2 else "",
            dirty=len(lines) > 3,
            wanted=wanted,
        )


class GitOperation(Operation, frozen=True, kw_only=True):
    """A folder is a checkout of a repository at a version.

    repo: where it is cloned from. path: of the folder. version: branch, tag or commit. depth: only so many commits
    back, 0 for all. user: as whom, where one is root. force: throw away changes in the checkout.
    """

    kind: ClassVar[str] = "git"

    repo: str
    path: str
    version: str = "HEAD"
    depth: int = 0
    user: str = ""
    force: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        for field in ("repo", "version"):
            value = getattr(self, field)
            if not value or value.startswith("-") or any(char.isspace() for char in value):
                yield field, f"'{value}' cannot be one", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [self._need(), PathNeed(path=self.path), PathNeed(path=parent(self.path))]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        fact = state.get(self._need())
        if fact.state == "other":
            raise Refused(f"{self.path} is there and is no checkout")
        if not fact.wanted:
            raise Refused(f"{self.repo} cannot be read, or has no version {self.version}")
        same = fact.remote == self.repo
        if fact.state == "checkout" and fact.head == fact.wanted and same and not (fact.dirty and self.force):
            return
        if fact.state == "checkout" and fact.dirty and not self.force:
            raise Refused(f"{self.path} has changes of its own", hint="force: true throws them away")
        state.put(self._need(), GitFact(state="checkout", head=fact.wanted, remote=self.repo, wanted=fact.wanted))
        state.forget(PathNeed(path=self.path), context.name)
        state.loose = state.loose or context.name
        yield self._clone(fact) if fact.state == "absent" else self._update(fact)

    def _clone(self, fact: GitFact) -> Run:
        repo, path, wanted = map(shlex.quote, (self.repo, self.path, fact.wanted))
        # Beside its place first: one that is cut short is not taken for a checkout.
        part = shlex.quote(f"{parent(self.path)}/.dogwatch-clone-{fact.wanted[:12]}")
        script = (
            f"rm -rf {part} && {_GIT} init -q {part} && {_GIT} -C {part} remote add origin {repo} && "
            f"{self._fetch(part)} && {_GIT} -C {part} checkout -q {self._branch()}{wanted} && "
            f"{{ rmdir {path} 2>/dev/null || :; }} && mv {part} {path} || {{ rm -rf {part}; exit 1; }}"
        )
        undo = f"rm -rf -- {path}"
        return Run(
            title=f"clone {self.repo} to {self.path}",
            diff=f"+{fact.wanted} ({self.version})\n",
            script=self._as(script),
            undo=self._as(undo),
            loose=True,
        )

    def _update(self, fact: GitFact) -> Run:
        repo, path, wanted = map(shlex.quote, (self.repo, self.path, fact.wanted))
        force = "-f " if self.force else ""
        script = (
            f"{_GIT} -C {path} remote set-url origin {repo} && {self._fetch(path)} && "
            f"{_GIT} -C {path} checkout -q {force}{self._branch()}{wanted}"
        )
        undo = (
            f"{_GIT} -C {path} remote set-url origin {shlex.quote(fact.remote)} && "
            f"{_GIT} -C {path} checkout -q {shlex.quote(fact.head)}"
        )
        return Run(
            title=f"check {self.version} out in {self.path}",
            diff=f"-{fact.head}\n+{fact.wanted}\n",
            script=self._as(script),
            undo=self._as(undo),
            loose=True,
        )

    def _fetch(self, path: str) -> str:
        depth = f"--depth {self.depth} " if self.depth else ""
        what = shlex.quote(self.version)
        if self.depth or self.version == "HEAD":
            return f"{_GIT} -C {path} fetch -q {depth}origin {what}"
        return f"{_GIT} -C {path} fetch -q --tags origin '+refs/heads/*:refs/remotes/origin/*'"

    def _branch(self) -> str:
        # At the commit itself: a branch of the checkout's own would be one more thing that can wander.
        return "--detach "

    def _as(self, script: str) -> str:
        return as_user(self.user, script) if self.user else script

    def _need(self) -> GitNeed:
        return GitNeed(repo=self.repo, path=self.path, version=self.version, user=self.user)


def _wanted(refs: str, version: str) -> str:
    """Return the commit that a version means; of a tag that has words of its own, what it points to."""
    found = {}
    for line in refs.splitlines():
        commit, _, name = line.partition("\t")
        if _COMMIT.fullmatch(commit):
            found[name] = commit
    for name in (f"refs/tags/{version}^{{}}", f"refs/heads/{version}", f"refs/tags/{version}", version):
        if name in found:
            return found[name]
    return ""
