"""What operations share that change a part of a file that others write, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from dogwatch.fleet.operations.files import Wanted, parse_mode, path_needs
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Need, State
from dogwatch.fleet.operations.steps import AnyStep
from dogwatch.fleet.operations.text import current, edited


class EditOperation(Operation, frozen=True, kw_only=True):
    """A part of a file is as it should be.

    path: of the file. state: present or absent. create: make the file where it is not there. mode: permissions.
    owner: user. group: group.
    """

    path: str
    state: Literal["present", "absent"] = "present"
    create: bool = False
    mode: str | None = None
    owner: str | None = None
    group: str | None = None

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        yield from self.part_faults()

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        absent = self.state == "absent"
        if absent and not state.loose and state.get(PathNeed(path=self.path)).type == "absent":
            return
        text = self.changed(current(state, self.path, create=self.create), absent=absent)
        yield from edited(
            state, self.path, text, Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        )

    def part_faults(self) -> Iterable[tuple[str, str, str]]:
        """Yield mistakes in what is said of the part."""
        raise NotImplementedError

    def changed(self, text: str, *, absent: bool) -> str:
        """Return the file's text as it should be. Raises: Refused."""
        raise NotImplementedError
