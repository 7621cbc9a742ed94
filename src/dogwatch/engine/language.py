"""What the executor asks of expressions and templates, for one step of one run that it owns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from dogwatch.engine.action import Action
from dogwatch.engine.ledger import Claimed, StepRow
from dogwatch.engine.masks import Masker
from dogwatch.engine.parameters import hidden_values, leaves
from dogwatch.engine.read_check import reads_secret
from dogwatch.engine.scope import Scope, StepView, condition, formula, with_environment
from dogwatch.engine.templates import fields, render
from dogwatch.engine.values import Json
from dogwatch.errors import PermanentError
from dogwatch.expressions.conditions import ConditionError, ConditionFailure


class View(Protocol):
    """Where a run stands. rows: by name, items of maps included. row: whose turn it is. result: of its action."""

    @property
    def claimed(self) -> Claimed: ...

    @property
    def rows(self) -> Mapping[str, StepRow]: ...

    @property
    def row(self) -> StepRow: ...

    @property
    def result(self) -> Mapping[str, Json] | None: ...


class CelLanguage:
    """Templates and conditions in CEL. It keeps nothing of a run."""

    def fill(self, action: Action, view: View) -> Action:
        """Return the action with its templates filled in, and the job's environment below its own.

        Raises: TemplateError.
        """
        if not view.claimed.definition.env and next(fields(action), None) is None:
            return action
        values = values_of(view)
        return with_environment(render(action, values), values["env"])

    def holds(self, expression: str, view: View) -> bool:
        """Return whether a condition holds. Raises: ConditionFailure, PermanentError for one that does not compile."""
        try:
            return condition(expression).test(values_of(view))
        except ConditionError as error:
            raise PermanentError(f"{expression}: {error}", hint=error.hint) from None

    def value(self, expression: str, view: View) -> Json:
        """Return the value of an expression, as JSON can say it. Raises: as holds."""
        try:
            return msgspec.to_builtins(formula(expression).value(values_of(view)))
        except ConditionError as error:
            raise PermanentError(f"{expression}: {error}", hint=error.hint) from None
        except ConditionFailure as error:
            raise PermanentError(str(error)) from None

    def hides(self, action: Action, claimed: Claimed) -> bool:
        """Return whether the items of a map, as it is written, are secrets."""
        over = getattr(action, "over", None)
        return isinstance(over, str) and bool(reads_secret(over, claimed.definition))

    def masks(self, claimed: Claimed, items: Iterable[Json] = ()) -> Masker:
        """Return what hides every secret of the run. items: of maps, that are secrets, too."""
        hidden = hidden_values(claimed.definition, claimed.run.parameters)
        return Masker([*claimed.secrets.values(), *hidden, *(text for item in items for text in leaves(item))])


def values_of(view: View) -> dict[str, Any]:
    """Return what expressions of a step read. Raises: TemplateError for the job's environment."""
    claimed, row = view.claimed, view.row
    steps = {name: StepView.of(other) for name, other in view.rows.items() if not other.of}
    return Scope(
        job=claimed.definition,
        run=claimed.run,
        parameters=claimed.run.parameters,
        secrets=claimed.secrets,
        steps=steps,
        step=row.name,
        attempt=row.attempt,
        item=(row.item, row.index) if row.of else None,
        result=view.result,
    ).values()
