"""What a worker makes of templates and expressions: CEL over what the step may see."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from dogwatch.engine.action import Action
from dogwatch.engine.executor import View
from dogwatch.engine.ledger import Claimed
from dogwatch.engine.masks import Masker
from dogwatch.engine.parameters import hidden_values
from dogwatch.engine.scope import Scope, StepView, condition, formula
from dogwatch.engine.templates import render
from dogwatch.engine.values import Json
from dogwatch.engine.writer import Masks
from dogwatch.errors import PermanentError
from dogwatch.expressions.conditions import ConditionError


class Cel:
    """Implements executor.Language."""

    def fill(self, action: Action, view: View) -> Action:
        return render(action, _values(view))

    def holds(self, expression: str, view: View) -> bool:
        try:
            return condition(expression).test(_values(view))
        except ConditionError as error:
            raise PermanentError(f"{expression}: {error}") from error

    def value(self, expression: str, view: View) -> Json:
        try:
            return msgspec.to_builtins(formula(expression).value(_values(view)))
        except ConditionError as error:
            raise PermanentError(f"{expression}: {error}") from error

    def masks(self, claimed: Claimed) -> Masks:
        hidden = (*claimed.secrets.values(), *hidden_values(claimed.definition, claimed.run.parameters))
        return _masker(hidden)


# The forms in which a secret can be written are many; most runs of a job have the same secrets.
@lru_cache(maxsize=64)
def _masker(values: tuple[str, ...]) -> Masker:
    return Masker(values)


def _values(view: View) -> dict[str, Any]:
    claimed, row = view.claimed, view.row
    steps = {
        one.name: StepView(state=one.state.value, outputs=one.outputs, reason=one.reason, attempt=one.attempt)
        for one in view.rows.values()
        if not one.of
    }
    return Scope(
        job=claimed.definition,
        run=claimed.run,
        parameters=claimed.run.parameters,
        secrets=claimed.secrets,
        steps=steps,
        step=row.name,
        attempt=max(1, row.attempt),
        item=(row.item, row.index) if row.of else None,
        result=view.result,
    ).values()
