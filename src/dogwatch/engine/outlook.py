"""What a start of a job would do, as a value that people are shown before it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dogwatch.engine.action import Change
from dogwatch.engine.values import Json, StartRun


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """note: under which condition it does that, "" for always."""

    name: str
    kind: str
    needs: Sequence[str] = ()
    change: Change
    note: str = ""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """parameters: as given and defaulted, secrets masked. locks: what it would hold."""

    job: str
    parameters: Mapping[str, Json]
    steps: Sequence[PlannedStep]
    locks: Sequence[str] = ()


# Raises: NotFound, UsageError (parameters, all mistakes at once).
Planner = Callable[[StartRun], Outlook]
