"""Changing only what one has seen: compared in the transaction of the change, where its audit event is written.

Every change writes one (audit.record), and is handed who makes it: the condition travels with the actor. So no handler
has a line of its own for it, and none can forget it.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.errors import Conflict
from dogwatch.store.database import Tx

_KEPT_S = 86_400.0
# Before a mark: a change elsewhere than in the database has begun, and not ended. So long one is waited for: where a
# crash came in between, it never ends.
_UNDER_WAY, _UNDER_WAY_S = "!", 60.0


class Overtaken(Conflict):
    """What was to be changed was changed by somebody else since it was seen."""


class Condition:
    """That a thing is still as it was when `seen` was read; None: whatever it is like, it is changed now."""

    def __init__(self, thing: str, seen: str | None) -> None:
        self._thing, self._seen = thing, seen
        self._own = uuid4().hex
        self._met = self._over = False

    def end(self) -> None:
        """Stand no more: what goes on in the background is no part of what was asked."""
        self._over = True

    def meet(self, tx: Tx, outcome: str) -> None:
        """Mark the thing as changed, under the lock of the audit trail. The transaction may be run again, and may hold
        several events.

        outcome: of the event. `begun` is a change elsewhere, and nobody can tell what the thing is like until it ends.
        Raises: Overtaken.
        """
        if self._met:
            tx.run(
                "UPDATE marks SET mark = :own WHERE thing = :thing AND mark = :busy",
                thing=self._thing,
                own=self._own,
                busy=_UNDER_WAY + self._own,
            )
        elif not self._over:
            tx.after(self._is_met)
            self._mark(tx, _UNDER_WAY + self._own if outcome == "begun" else self._own)

    def _is_met(self) -> None:
        self._met = True

    def _mark(self, tx: Tx, mark: str) -> None:
        values: dict[str, str | float] = {"thing": self._thing, "at_s": tx.now_s, "mark": mark}
        if self._seen is None:
            tx.run("DELETE FROM marks WHERE at_s < :before", before=tx.now_s - _KEPT_S)
            tx.run(
                "INSERT INTO marks (thing, at_s, mark) VALUES (:thing, :at_s, :mark) "
                "ON CONFLICT (thing) DO UPDATE SET mark = :mark, at_s = :at_s",
                **values,
            )
            return
        query = "UPDATE marks SET mark = :mark, at_s = :at_s WHERE thing = :thing AND (mark = :seen OR mark = :mark)"
        if tx.run(query, seen=self._seen, **values):
            return
        made = "INSERT INTO marks (thing, at_s, mark) VALUES (:thing, :at_s, :mark) ON CONFLICT (thing) DO NOTHING"
        if self._seen or not tx.run(made, **values):
            raise Overtaken("it changed meanwhile", hint="look at it again")


class ActorUnder(Actor, frozen=True, kw_only=True, dict=True):
    """An actor whose change is made under a condition, which is no part of the value: it is kept nowhere."""


def under(actor: Actor, condition: Condition) -> Actor:
    """Return the actor, with the condition on whatever it changes."""
    found = ActorUnder(kind=actor.kind, name=actor.name, address=actor.address)
    msgspec.structs.force_setattr(found, "condition", condition)
    return found


def condition_of(actor: Actor) -> Condition | None:
    return found if isinstance(found := getattr(actor, "condition", None), Condition) else None


def mark_of(thing: str) -> Callable[[Tx], str]:
    """Return the mark of a thing's newest change, "" where none is known. To be read before the thing itself is.

    Raises (inside): Overtaken while it is being changed, and what it will be like is not known.
    """

    def work(tx: Tx) -> str:
        row = tx.one("SELECT mark, at_s FROM marks WHERE thing = :thing", thing=thing)
        mark, at_s = (str(row[0]), float(row[1] or 0.0)) if row else ("", 0.0)
        if mark.startswith(_UNDER_WAY) and at_s > tx.now_s - _UNDER_WAY_S:
            raise Overtaken("it is being changed at this moment", hint="look at it again")
        return mark

    return work
