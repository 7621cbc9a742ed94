"""What a run is carried out with: the language of its templates, its services, the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from dogwatch.core.clock import Clock
from dogwatch.engine.action import Action
from dogwatch.engine.ledger import Claimed, Ledger, StepRow
from dogwatch.engine.scene import Services
from dogwatch.engine.values import Json
from dogwatch.engine.writer import Masks


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What expressions of a step read. result: of its action, for the step's own outputs."""

    claimed: Claimed
    rows: Mapping[str, StepRow]
    row: StepRow
    result: Mapping[str, Json] | None = None


class Language(Protocol):
    """Fills in templates and evaluates expressions. Raises everywhere: DogwatchError."""

    def fill(self, action: Action, view: View) -> Action: ...

    def holds(self, expression: str, view: View) -> bool: ...

    def value(self, expression: str, view: View) -> Json: ...

    def hides(self, action: Action, claimed: Claimed) -> bool: ...

    def masks(self, claimed: Claimed, items: Iterable[Json] = ()) -> Masks: ...


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What every run of a worker is carried out with. held: whether the worker's lease surely lasts."""

    ledger: Ledger
    language: Language
    services: Services
    clock: Clock
    held: Callable[[], bool] = lambda: True
