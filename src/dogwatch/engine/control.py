"""Steps that the engine carries out itself: a map, which does one action for each item of a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from dogwatch.engine.action import Action
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.values import Json, StepState
from dogwatch.errors import PermanentError
from dogwatch.expressions.cel_values import kind_of

# A list that somebody else's answer made long must not become as many rows.
MOST_ITEMS = 1000


@runtime_checkable
class Fan(Protocol):
    """What a map's action offers. over: a list, once it is filled in. do: what is done with each item, not filled in.

    parallel: how many at the same time. on_error: stop: the first failure ends the rest; collect: all are done.
    """

    over: Json
    do: Action
    parallel: int
    on_error: Literal["stop", "collect"]


def fan_of(action: Action) -> Fan | None:
    """Return a map's options; None for any other action."""
    return action if type(action).control and isinstance(action, Fan) else None


def opened(parent: StepRow, fan: Fan, known: Mapping[str, StepRow], now_s: float) -> list[StepRow]:
    """Return the steps of a map whose list has been filled in: itself, and its items `name[0]`, `name[1]`…

    known: steps that exist. Items that succeeded before the run was repeated are not done again.
    Raises: PermanentError.
    """
    items = fan.over
    if not isinstance(items, list | tuple):
        raise PermanentError(f"{parent.name} maps over {kind_of(items)}, not a list")
    if len(items) > MOST_ITEMS:
        raise PermanentError(f"{parent.name} maps over {len(items)} items; at most {MOST_ITEMS}")
    rows = [msgspec.structs.replace(parent, memory=len(items))]
    if not items:
        return [gathered(rows[0], [], now_s)]
    for index, item in enumerate(items):
        name = f"{parent.name}[{index}]"
        before = known.get(name)
        if before is None or before.state is not StepState.SUCCEEDED or before.item != item:
            before = StepRow(name=name, kind=fan.do.kind, of=parent.name, index=index, item=item)
        rows.append(before)
    return rows


def hidden(rows: Sequence[StepRow], secret: Callable[[Json], bool]) -> list[StepRow]:
    """Return the steps of a map, those marked whose items are secret."""
    return [
        msgspec.structs.replace(row, hidden=True) if row.of and not row.hidden and secret(row.item) else row
        for row in rows
    ]


def gathered(parent: StepRow, rows: Sequence[StepRow], now_s: float) -> StepRow:
    """Return a map all of whose children have ended: their outputs in order, and what failed."""
    if isinstance(parent.memory, int):
        # Items that the list had before the run was repeated, and has no more, are nobody's.
        rows = [row for row in rows if row.index < parent.memory]
    failed = [row for row in rows if row.state is StepState.FAILED]
    good = all(row.state is StepState.SUCCEEDED for row in rows)
    rest = next((row for row in rows if row.state in (StepState.CANCELLED, StepState.SKIPPED)), None)
    reason = ""
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        reason = f"{failed[0].name} failed: {failed[0].reason}{more} ({len(failed)} of {len(rows)})"
    elif rest is not None:
        reason = rest.reason
    state = StepState.SUCCEEDED if good else StepState.FAILED if failed else StepState.CANCELLED
    return msgspec.structs.replace(
        parent,
        state=state,
        reason=reason,
        ended_s=now_s,
        wake_s=None,
        memory=None,
        cut=False,
        outputs={"items": [dict(row.outputs) for row in sorted(rows, key=lambda row: row.index)]},
    )
