"""What is known of the newest reloads: shown by `dogwatch reload status`, the API, metrics and the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

# The steps of a reload's life, in order; a failed one ends at the step that failed.
STEPS = ("detected", "parsed", "validated", "built", "started", "swapped", "stopped")


class ReloadStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a reload that was reached. duration_s: the time it took."""

    name: str
    duration_s: float


class ReloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One reload. trigger: start, signal, api or file. outcome: running, applied, unchanged or failed.

    problems: one line each, with file and line; empty unless it failed. changed: names of what was added (+name),
    removed (-name) or changed (~name), bounded.
    """

    number: int
    trigger: str
    time_s: float
    outcome: str
    steps: Sequence[ReloadStep] = ()
    problems: Sequence[str] = ()
    changed: Sequence[str] = ()


class ReloadControl(Protocol):
    def history(self) -> Sequence[ReloadRecord]:
        """Return the newest reloads, newest first, bounded. A failed one stands until another is applied."""
        ...

    async def reload(self, trigger: str) -> ReloadRecord:
        """Reload now and return how it ended; a bad configuration is a record, not an exception."""
        ...
