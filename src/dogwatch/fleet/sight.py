"""The targets that a daemon's probes look at, as planned changes ask for them; light, for the daemon's start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """A target as a daemon's probes see it. last_time_s: of the last look, None where there was none."""

    name: str
    status: str
    labels: Mapping[str, str] = {}
    last_time_s: float | None = None


class _Target(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def last_time_s(self) -> float | None: ...


class Sight:
    """The targets of the running program, for steps that change what is watched."""

    def __init__(self, targets: Callable[[], Sequence[_Target]]) -> None:
        self._targets = targets

    async def look(self) -> list[Looked]:
        return [
            Looked(name=one.name, status=one.status, labels=one.labels, last_time_s=one.last_time_s)
            for one in self._targets()
        ]
