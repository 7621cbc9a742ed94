"""The operation `template`: a file whose content is a Jinja template, filled in for each host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from dogwatch.fleet.operations.files import Wanted, parse_mode, path_needs, put_file
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import path_fault
from dogwatch.fleet.operations.state import Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep


class TemplateOperation(Operation, frozen=True, kw_only=True):
    """A file is what a Jinja template gives for the host. A variable that has no value is an error.

    src: the template, a file beside the playbook. path: on the host. mode: permissions, such as "644". owner: user.
    group: group. force: replace a symbolic link that is in its place.
    """

    kind: ClassVar[str] = "template"
    local_files: ClassVar[tuple[str, ...]] = ("src",)

    src: str
    path: str
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    force: bool = False

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:
        try:
            text = context.local(self.src).decode()
        except UnicodeDecodeError:
            raise Refused(f"{self.src} is not UTF-8 text", hint="`file:` copies what is no text") from None
        wanted = Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        yield from put_file(state, self.path, context.render(text).encode(), wanted, replace_link=self.force)
