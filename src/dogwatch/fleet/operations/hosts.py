"""The operation `host_entry`: names in /etc/hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.files import Wanted, path_needs
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import path_fault
from dogwatch.fleet.operations.state import Need, State
from dogwatch.fleet.operations.steps import AnyStep
from dogwatch.fleet.operations.text import bare, current, edited, insert, split

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class HostEntryOperation(Operation, frozen=True, kw_only=True):
    """Names stand for an address in /etc/hosts, and for no other one of its kind.

    address: IPv4 or IPv6. names: of the host, the first is the full one. state: present or absent. path: of the file.
    """

    kind: ClassVar[str] = "host_entry"

    address: str
    names: tuple[str, ...] = ()
    state: Literal["present", "absent"] = "present"
    path: str = "/etc/hosts"

    def faults(self) -> Iterable[tuple[str, str, str]]:
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            yield "address", f"'{self.address}' is not an address", ""
        if not self.names and self.state == "present":
            yield "names", "are missing", ""
        for name in self.names:
            if not _NAME.fullmatch(name):
                yield "names", f"'{name}' cannot be the name of a host", ""
        if fault := path_fault(self.path):
            yield "path", fault, ""

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        text = current(state, self.path, create=True)
        yield from edited(state, self.path, self._changed(text), Wanted())

    def _changed(self, text: str) -> str:
        lines, end = split(text)
        wanted = ipaddress.ip_address(self.address)
        found: list[str] = []
        placed = self.state == "absent"
        for line in lines:
            words, comment = _words(line)
            if not words:
                found.append(line)
                continue
            address, names = words[0], words[1:]
            mine = _same(address, wanted)
            if mine and self.state == "absent":
                names = [name for name in names if self.names and name not in self.names]
            elif mine and not placed:
                names = [*names, *(name for name in self.names if name not in names)]
                placed = True
            elif _same_kind(address, wanted):
                names = [name for name in names if name not in self.names]
            if names == words[1:]:
                found.append(line)
            elif names:
                found.append("\t".join([address, " ".join(names)]) + comment + end)
        if not placed:
            insert(found, len(found), [f"{self.address}\t{' '.join(self.names)}{end}"], end)
        return "".join(found)


def _words(line: str) -> tuple[list[str], str]:
    content, mark, comment = bare(line).partition("#")
    return content.split(), f" {mark}{comment}" if mark else ""


def _same(text: str, address: object) -> bool:
    try:
        return ipaddress.ip_address(text) == address
    except ValueError:
        return False


def _same_kind(text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return ipaddress.ip_address(text).version == address.version
    except ValueError:
        return False
