"""What is known of the newest reloads: shown by `dogwatch reload status`, the API, metrics and the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

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


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a section that would be another. name: "" for a section that is one value.

    keys: of a changed one, which of its keys differ; never what they hold, which may be secret.
    """

    section: str
    name: str
    what: Literal["added", "changed", "removed"]
    keys: Sequence[str] = ()


class ReloadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload would do now. Nothing is done.

    outcome: unchanged, applies, or fails: then everything stays as it is. differences: bounded; total: how many there
    are. counts: section → added, changed, removed. problems: why it would fail, one line each. restart: those of them
    that only a restart puts in force. files: what was read.
    """

    outcome: Literal["unchanged", "applies", "fails"]
    differences: Sequence[Difference] = ()
    total: int = 0
    counts: Mapping[str, Mapping[str, int]] = {}
    problems: Sequence[str] = ()
    restart: Sequence[str] = ()
    files: Sequence[str] = ()


class ReloadControl(Protocol):
    def history(self) -> Sequence[ReloadRecord]:
        """Return the newest reloads, newest first, bounded. A failed one stands until another is applied."""
        ...

    async def reload(self, trigger: str) -> ReloadRecord:
        """Reload now and return how it ended; a bad configuration is a record, not an exception."""
        ...

    async def plan(self) -> ReloadPlan:
        """Return what a reload would do now, as far as it can be told without doing it."""
        ...
