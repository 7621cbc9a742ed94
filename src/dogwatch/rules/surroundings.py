"""What the live part of rules is given, and what it works with: values only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.config.section import Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.rules.decider import Held
from dogwatch.rules.escalation import IncidentOptions, Policy
from dogwatch.rules.incident import Decisions, Order, State
from dogwatch.rules.maintenance import Calendar, Maintenance
from dogwatch.rules.records import Done, Enqueue
from dogwatch.rules.remedy.doing import Doing, Doings
from dogwatch.rules.sight import Known
from dogwatch.rules.spec import Rule, RuleSpec
from dogwatch.rules.watcher import Key
from dogwatch.store.database import Database
from dogwatch.store.protocol import Store

Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[Any]"]


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What the part is given. targets: what is watched now. enqueue: puts a message in the outbox. calendar: of all
    maintenance; None for that of the configuration alone. outside: alerts of others are kept in this database.
    shared: targets whose thresholds alone open no incident here, since several places decide together.
    """

    database: Database
    clock: Clock
    bus: Bus
    store: Store
    spawn: Spawn
    enqueue: Enqueue
    targets: Callable[[], Iterable[Known]]
    rules: Section[list[RuleSpec]]
    incidents: Section[IncidentOptions]
    calendar: Callable[[], Calendar] | None = None
    outside: bool = False
    shared: Callable[[], frozenset[str]] = frozenset
    remedy: Doings | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, compiled."""

    rules: tuple[Rule, ...]
    policy: Policy
    windows: tuple[Maintenance, ...]
    doing: Doing | None = None


_TRIES = 3


class Asked(msgspec.Struct, kw_only=True, eq=False):
    """A person's order on its way, and where its end is awaited. tries: how often it could not be written."""

    order: Order
    done: Done
    answer: asyncio.Future[None]
    tries: int = 0


def tried(asked: Sequence[Asked], error: Exception, waiting: Sequence[Asked]) -> list[Asked]:
    """Refuse orders that could not be written several times, and return those that still wait: nobody waits for ever,
    and what cannot be written must not hold up what else is to be decided.
    """
    for one in asked:
        one.tries += 1
        if one.tries >= _TRIES and not one.answer.done():
            one.answer.set_exception(error)
    return [one for one in waiting if one.tries < _TRIES]


def matters(
    before: State, after: State, decisions: Decisions, held_before: Mapping[Key, Held], held: Mapping[Key, Held]
) -> bool:
    """Return whether there is anything to write down: the clock alone is not."""
    if decisions.notes or decisions.notices or decisions.ended:
        return True
    same = after.alerts == before.alerts and after.incidents == before.incidents and after.queue == before.queue
    if not same or after.silences != before.silences or after.remedy != before.remedy:
        return True
    # How long a condition holds changes with every answer: what began, fired or ended is enough.
    return {key: one.firing for key, one in held.items()} != {key: one.firing for key, one in held_before.items()}
