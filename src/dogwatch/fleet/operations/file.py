"""The operation `file`: a file with this content and these attributes, or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, parse_mode, path_needs, put_attributes, put_file, remove
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep


class FileOperation(Operation, frozen=True, kw_only=True):
    """A file has this content, or is not there.

    path: on the host. content: what it holds. src: a file beside the playbook that it is a copy of; without content
    and src only the attributes of a file that is there are changed. state: present or absent. mode: permissions, such
    as "644". owner: user. group: group. force: replace a symbolic link that is in its place.
    """

    kind: ClassVar[str] = "file"
    local_files: ClassVar[tuple[str, ...]] = ("src",)

    path: str
    content: str | None = None
    src: str | None = None
    state: Literal["present", "absent"] = "present"
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    force: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        if self.content is not None and self.src is not None:
            yield "src", "content and src cannot both be given", ""
        if self.state == "absent" and (self.content is not None or self.src is not None):
            yield "state", "a file that is absent has no content", ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        if self.state == "absent":
            yield from remove(state, self.path)
            return
        wanted = Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        if self.content is None and self.src is None:
            if state.get(PathNeed(path=self.path)).type == "absent" and not state.loose:
                raise Refused(f"{self.path} is not there", hint="content: or src: says what it should hold")
            yield from put_attributes(state, self.path, wanted)
            return
        content = context.local(self.src) if self.src is not None else (self.content or "").encode()
        yield from put_file(state, self.path, content, wanted, replace_link=self.force)
