"""The operation `key`: one value in a YAML, JSON, TOML or INI file; the rest of the file stays as it is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.editing import EditOperation
from dogwatch.fleet.operations.keys import EDITORS, KeyMistake, parse_key
from dogwatch.fleet.operations.state import Refused

_ENDS = {"yaml": "yaml", "yml": "yaml", "json": "json", "toml": "toml", "ini": "ini", "cfg": "ini", "conf": "ini"}


class KeyOperation(EditOperation, frozen=True, kw_only=True):
    """A file has this value at a key, or has no such key. Comments, order and blanks of the rest stay.

    key: `server.ports[0]`; a name with a dot in it is quoted, `"a.b".c`. Of INI files: section and name. value: what it
    should be. format: yaml, json, toml or ini; by the file's name otherwise.
    """

    kind: ClassVar[str] = "key"

    key: str
    value: Any = None
    format: Literal["yaml", "json", "toml", "ini", ""] = ""

    def part_faults(self) -> Iterable[tuple[str, str, str]]:
        if not self._format():
            yield "format", "is not told by the file's name", "yaml, json, toml or ini"
        try:
            parse_key(self.key)
        except KeyMistake as error:
            yield "key", str(error), ""

    def changed(self, text: str, *, absent: bool) -> str:
        editor = EDITORS[self._format()]
        key = parse_key(self.key)
        try:
            return editor.without(text, key) if absent else editor.with_value(text, key, self.value)
        except KeyMistake as error:
            raise Refused(f"{self.path}: {error}") from None

    def _format(self) -> str:
        return self.format or _ENDS.get(self.path.rpartition(".")[2].lower(), "")
