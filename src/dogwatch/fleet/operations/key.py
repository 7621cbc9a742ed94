"""The operation `key`: one value in a YAML, JSON, TOML or INI file; the rest of the file stays as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, parse_mode, path_needs
from dogwatch.fleet.operations.keys import EDITORS, KeyMistake, parse_key
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import PathNeed, path_fault
from dogwatch.fleet.operations.state import Need, Refused, State
from dogwatch.fleet.operations.steps import AnyStep
from dogwatch.fleet.operations.text import current, edited

_ENDS = {"yaml": "yaml", "yml": "yaml", "json": "json", "toml": "toml", "ini": "ini", "cfg": "ini", "conf": "ini"}


class KeyOperation(Operation, frozen=True, kw_only=True):
    """A file has this value at a key, or has no such key. Comments, order and blanks of the rest stay.

    path: of the file. key: `server.ports[0]`; a name with a dot in it is quoted, `"a.b".c`. Of INI files: section and
    name. value: what it should be. format: yaml, json, toml or ini; by the file's name otherwise. state: present or
    absent. create: make the file where it is not there. mode: permissions. owner: user. group: group.
    """

    kind: ClassVar[str] = "key"

    path: str
    key: str
    value: Any = None
    format: Literal["yaml", "json", "toml", "ini", ""] = ""
    state: Literal["present", "absent"] = "present"
    create: bool = False
    mode: str | None = None
    owner: str | None = None
    group: str | None = None

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if fault := path_fault(self.path):
            yield "path", fault, ""
        if not self._format():
            yield "format", "is not told by the file's name", "yaml, json, toml or ini"
        try:
            parse_key(self.key)
        except KeyMistake as error:
            yield "key", str(error), ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        absent = self.state == "absent"
        if absent and not state.loose and state.get(PathNeed(path=self.path)).type == "absent":
            return
        text = current(state, self.path, create=self.create)
        editor = EDITORS[self._format()]
        key = parse_key(self.key)
        try:
            after = editor.without(text, key) if absent else editor.with_value(text, key, self.value)
        except KeyMistake as error:
            raise Refused(f"{self.path}: {error}") from None
        yield from edited(
            state, self.path, after, Wanted(mode=parse_mode(self.mode), owner=self.owner, group=self.group)
        )

    def _format(self) -> str:
        return self.format or _ENDS.get(self.path.rpartition(".")[2].lower(), "")
