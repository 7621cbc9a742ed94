"""The operations `directory` and `link`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, parse_mode, path_needs, put_directory, put_link, remove
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, above, path_fault
from dogwatch.fleet.operations.same import SameFact, SameNeed
from dogwatch.fleet.operations.state import Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep, Link
from dogwatch.fleet.operations.who import WhoNeed


class DirectoryOperation(Operation, frozen=True, kw_only=True):
    """A folder is there with these attributes, or is not there.

    path: of the folder. state: present or absent; absent takes away everything below it, too. parents: make the
    folders above it, too. mode: permissions, such as "755". owner: user. group: group.
    """

    kind: ClassVar[str] = "directory"

    path: str
    state: Literal["present", "absent"] = "present"
    parents: bool = True
    mode: str | None = None
    owner: str | None = None
    group: str | None = None

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        elif self.state == "absent" and not above(self.path):
            yield "path", "a folder of the root is not taken away", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [PathNeed(path=self.path), WhoNeed(), *(PathNeed(path=path) for path in above(self.path))]

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        if self.state == "absent":
            yield from remove(state, self.path, folder=True)
            return
        wanted = Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        if self.parents:
            for path in above(self.path):
                if state.get(PathNeed(path=path)).type == "absent":
                    yield from put_directory(state, path, Wanted(owner=self.owner, group=self.group))
        yield from put_directory(state, self.path, wanted)


class LinkOperation(Operation, frozen=True, kw_only=True):
    """A link is there, or is not there.

    path: of the link. target: where it leads, as it is written. hard: another name of the same file. state: present or
    absent. force: replace a file that is in its place.
    """

    kind: ClassVar[str] = "link"

    path: str
    target: str | None = None
    hard: bool = False
    state: Literal["present", "absent"] = "present"
    force: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        if self.state == "present" and not self.target:
            yield "target", "is missing", ""
        elif self.target is not None and ("\n" in self.target or "\0" in self.target):
            yield "target", "cannot hold line ends", ""
        elif self.hard and self.target is not None and (fault := path_fault(self.target)):
            yield "target", f"of a hard link {fault}", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        found: list[Need[Any]] = [*path_needs(self.path, content=False)]
        if self.hard and self.target and self.state == "present":
            found += [PathNeed(path=self.target), SameNeed(path=self.path, other=self.target)]
        return found

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        if self.state == "absent":
            fact = state.get(PathNeed(path=self.path))
            if fact.type not in ("absent", "link") and not (self.force and fact.type == "file"):
                raise Refused(f"{self.path} is there and is no link", hint="`file:` with state: absent removes files")
            yield from remove(state, self.path)
        elif self.hard:
            yield from self._hard(state)
        else:
            yield from put_link(state, self.path, self.target or "", force=self.force)

    def _hard(self, state: State) -> Iterator[AnyStep]:
        target = self.target or ""
        same = SameNeed(path=self.path, other=target)
        if state.get(same).same:
            return
        source, fact = state.get(PathNeed(path=target)), state.get(PathNeed(path=self.path))
        if source.type != "file" and not state.loose:
            raise Refused(f"{target} is not there as a file")
        if fact.type not in ("absent", "link") and not (self.force and fact.type == "file"):
            raise Refused(f"{self.path} is there and is no link", hint="force: true")
        state.put(PathNeed(path=self.path), source)
        state.put(same, SameFact(same=True))
        yield Link(title=f"make {self.path} another name of {target}", path=self.path, target=target, hard=True)
