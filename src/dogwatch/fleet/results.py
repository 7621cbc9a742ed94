"""What became of each host, and how many results are told as one."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from dogwatch.fleet.connection import State
from dogwatch.fleet.inventory.ranges import fold

_ADDRESS = re.compile(r"(?<![\w:])[0-9a-f.:#]*[0-9#][0-9a-f.:#]*(?!\w)")


class HostResult(msgspec.Struct, frozen=True, kw_only=True):
    """One host's outcome. batch: from 1, 0 where it was not started. cut: bytes of output that were not kept."""

    host: str
    state: State
    exit_code: int | None = None
    signal: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    cut: int = 0
    message: str = ""
    hint: str = ""
    batch: int = 0
    connect_s: float = 0.0
    run_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.state is State.SUCCEEDED

    @property
    def word(self) -> str:
        """Return the state in a word or two, with the exit code where that says more."""
        if self.state is State.NON_ZERO:
            return f"signal {self.signal}" if self.signal else f"exit code {self.exit_code}"
        return str(self.state)


class Gathered(msgspec.Struct, frozen=True):
    """Hosts that said the same and ended the same. messages: of those that failed, which tell different things."""

    hosts: tuple[str, ...]
    sample: HostResult
    messages: tuple[str, ...] = ()

    @property
    def names(self) -> str:
        return fold(self.hosts)


def gather(results: Iterable[HostResult]) -> list[Gathered]:
    """Return groups of hosts with equal output and end, the largest first."""
    groups: dict[tuple[object, ...], list[HostResult]] = {}
    for one in results:
        # What a message says of an address differs from host to host and is no difference.
        told = one.message if one.state is State.SUCCEEDED else ""
        key = (one.state, one.exit_code, one.signal, one.stdout, one.stderr, one.cut, told)
        groups.setdefault(key, []).append(one)
    ordered = sorted(groups.values(), key=lambda members: (not members[0].ok, -len(members)))
    return [Gathered(tuple(one.host for one in members), members[0], _messages(members)) for members in ordered]


def _messages(members: Sequence[HostResult]) -> tuple[str, ...]:
    """Return what is told of hosts, those left out that differ only in the host's name, or in numbers and addresses."""
    found: dict[str, str] = {}
    for one in members:
        if one.message:
            found.setdefault(_ADDRESS.sub("#", one.message.replace(one.host, "#")), one.message)
    return tuple(found.values())


def differences(groups: Sequence[Gathered]) -> list[tuple[Gathered, list[str]]]:
    """Return how each further group's output differs from that of the largest one."""
    ran = [group for group in groups if group.sample.state in (State.SUCCEEDED, State.NON_ZERO)]
    if not ran:
        return []
    first = max(ran, key=lambda group: len(group.hosts))
    base = _lines(first.sample)
    found = []
    for group in ran:
        if group is not first:
            lines = difflib.unified_diff(base, _lines(group.sample), first.names, group.names, lineterm="", n=2)
            found.append((group, list(lines)))
    return found


def _lines(result: HostResult) -> list[str]:
    return (result.stdout + result.stderr).decode(errors="replace").splitlines()


def exit_code(results: Sequence[HostResult]) -> int:
    """Return what the command ends with: 0 all went well, 3 some did, 1 none did."""
    well = sum(one.ok for one in results)
    if well == len(results):
        return 0
    return 3 if well else 1


def counts(results: Iterable[HostResult]) -> dict[str, int]:
    """Return how many hosts ended in each state, the good one first."""
    found = Counter(str(one.state) for one in results)
    return {str(state): found[str(state)] for state in State if found[str(state)]}
