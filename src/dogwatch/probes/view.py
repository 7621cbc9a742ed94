"""What the rest of the program sees of the watch: values to show, and the calls that pages, API and CLI make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from dogwatch.core.metrics import Family
from dogwatch.probes.probe import Phases, ProbeResult


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """One target as it is now. last_* are None until the first result. status: the word of a Status.

    lateness_s: how late its last attempt started. next_s: seconds until the next, None while paused.
    """

    name: str
    kind: str
    address: str
    group: str
    labels: Mapping[str, str]
    status: str
    since_s: float
    every_s: float
    timeout_s: float
    last_time_s: float | None = None
    last_success: bool | None = None
    last_duration_s: float | None = None
    last_phases: Phases | None = None
    last_reason: str = ""
    last_message: str = ""
    consecutive_failures: int = 0
    lateness_s: float = 0.0
    next_s: float | None = None
    depends_on: Sequence[str] = ()
    values: Mapping[str, Any] = {}


class WatchView(Protocol):
    """The watch as web and CLI use it. Unknown names raise NotFound with the nearest name."""

    def targets(self) -> Sequence[TargetView]:
        """Return all targets in configuration order."""
        ...

    def target(self, name: str) -> TargetView: ...

    async def pause(self, name: str) -> TargetView: ...

    async def resume(self, name: str) -> TargetView: ...

    async def run_now(self, name: str) -> ProbeResult:
        """Run one attempt now, beside its schedule; it counts as any other."""
        ...

    async def run_ad_hoc(
        self, kind: str, options: Mapping[str, Any], *, timeout_s: float
    ) -> tuple[ProbeResult, list[Family]]:
        """Run a probe that is not configured and forget it: the blackbox `/probe` endpoint.

        Raises: ConfigError.
        """
        ...

    async def ping(
        self, name: str, *, signal: str, exit_status: int | None, body: str, remote: str, rid: str = ""
    ) -> None:
        """Take a heartbeat call; returns once it is on disk.

        name: the target's name or its ping id. rid: the run it belongs to, where the caller says.
        """
        ...

    def metrics(self) -> Iterable[Family]: ...


class ResultSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What a live view hears of one attempt (topic "result"). status: the word, after this attempt."""

    target: str
    time_s: float
    success: bool
    status: str
    duration_s: float
    phases: Phases | None = None
    reason: str = ""
    message: str = ""
    lateness_s: float = 0.0
