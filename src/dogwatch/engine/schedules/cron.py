"""Cron expressions: cronsim's fields, with seconds, `~`, and the rules of Debian's cron for changes of summer time."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from dogwatch.engine.schedules.zone import LAST_S, Zone, digits, wall

if TYPE_CHECKING:
    from cronsim import CronSim

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# Name, lowest, highest, highest of a value that is spread: every month has a day 28.
_FIELDS = (
    ("second", 0, 59, 59),
    ("minute", 0, 59, 59),
    ("hour", 0, 23, 23),
    ("day of month", 1, 31, 28),
    ("month", 1, 12, 12),
    ("day of week", 0, 7, 6),
)
_TAKES = {
    "day of month": "1-31, L, LW, lists, ranges, /steps, * or ~",
    "month": "1-12 or JAN-DEC, lists, ranges, /steps, * or ~",
    "day of week": "0-7 or SUN-SAT, 5L, 5#2, lists, ranges, /steps, * or ~",
}


def expression_faults(text: str, name: str) -> Iterator[str]:
    """Yield what is wrong with an expression, one sentence for each field. name: of the schedule, for `~`."""
    from cronsim import CronSimError
    from cronsim.cronsim import Field

    stripped = text.strip()
    if stripped.startswith("@"):
        if stripped.lower() not in MACROS:
            why = "; a daemon's start is no time" if stripped.lower() == "@reboot" else ""
            yield f"'{stripped}' is not known{why}; known: {', '.join(MACROS)}"
        return
    parts = stripped.split()
    if len(parts) not in (5, 6):
        yield (
            f"has {len(parts)} field{'s' * (len(parts) != 1)}; it takes 5 (minute, hour, day of month, month, "
            f"day of week), or 6 with the second before them"
        )
        return
    wrong = False
    for index, part in enumerate(parts, 6 - len(parts)):
        field, low, high, _ = _FIELDS[index]
        try:
            Field(index).parse(_spread(part.upper(), index, name))
        except (CronSimError, ValueError):
            wrong = True
            yield f"{field} '{part}' is not understood; it takes {_TAKES.get(field, _numbers(low, high))}"
    if not wrong:
        try:
            if Cron(text, Zone("UTC"), name).after(0.0) is None:
                yield "never fires"
        except CronSimError:
            yield "never fires: none of its months has such a day"


def _numbers(low: int, high: int) -> str:
    return f"{low}-{high}, lists, ranges, /steps, * or ~"


def _spread(part: str, index: int, name: str) -> str:
    """Return the field with every `~` replaced by values that follow from the schedule's name."""
    if "~" not in part:
        return part
    return ",".join(
        _spread_term(term, index, f"{name}\0{index}\0{number}") if "~" in term else term
        for number, term in enumerate(part.split(","))
    )


def _spread_term(term: str, index: int, seed: str) -> str:
    from cronsim.cronsim import Field

    field, lowest, highest, spread_highest = _FIELDS[index]
    limits, slash, step_text = term.partition("/")
    low_text, _, high_text = limits.partition("~")
    low = Field(index).int(low_text) if low_text else lowest
    high = Field(index).int(high_text) if high_text else spread_highest
    if low > high or (slash and not (step_text.isdecimal() and int(step_text) > 0)) or high > highest:
        raise ValueError(f"{field} '{term}'")
    random = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big")
    if not slash:
        return str(low + random % (high - low + 1))
    step = int(step_text)
    return ",".join(map(str, range(low + random % min(step, high - low + 1), high + 1, step)))


@lru_cache(maxsize=256)
def _same(values: frozenset[object]) -> frozenset[object]:
    """Return one object for equal sets: ten thousand schedules have few different fields."""
    return values


@lru_cache(maxsize=256)
def _parsed(expression: str) -> CronSim:
    from cronsim import CronSim

    found = CronSim(expression, wall(0))
    for field in ("seconds", "minutes", "hours", "days", "months", "weekdays"):
        setattr(found, field, _same(frozenset(getattr(found, field))))
    return found


class Cron:
    """An expression in a zone. name: what `~` follows from.

    Where minute and hour are both given, a time that the wall skips fires right after the gap, and one that it shows
    twice fires the first time. Where either begins with `*`, the wall is followed: what it skips does not fire, what
    it shows twice fires twice. So does Debian's cron; here it holds for expressions with seconds, too.

    Raises: CronSimError, ValueError; see expression_faults.
    """

    __slots__ = ("_fixed", "_sim", "_zone", "expression")

    def __init__(self, text: str, zone: Zone, name: str = "") -> None:
        text = MACROS.get(text.strip().lower(), text)
        parts = text.upper().split()
        if len(parts) not in (5, 6):
            raise ValueError(f"'{text}' has {len(parts)} fields; it takes 5, or 6 with seconds first")
        parts = [_spread(part, index, name) for index, part in enumerate(parts, 6 - len(parts))]
        if len(parts) == 5:
            parts.insert(0, "0")
        self.expression = " ".join(parts)
        self._zone = zone
        self._fixed = not parts[1].startswith("*") and not parts[2].startswith("*")
        self._sim = copy.copy(_parsed(self.expression))

    def after(self, seconds: float) -> float | None:
        """Return the first fire after a time; None where there is none within 50 years."""
        base = math.floor(seconds)
        if not 0 <= base < LAST_S:
            return None if base >= LAST_S else self.after(0.0)
        found = self._fixed_after(base) if self._fixed else self._wall_after(base)
        return None if found is None else float(found)

    def _fixed_after(self, base: int) -> int | None:
        shown: datetime | None = self._zone.local(base)
        while shown is not None:
            shown = self._step(shown)
            # The second time that the wall shows an hour lies before what it fired for.
            if shown is not None and (found := self._zone.instant(shown)) > base:
                return found
        return None

    def _wall_after(self, base: int) -> int | None:
        """Walk through stretches of one offset, in which the wall is UTC with other digits."""
        while True:
            offset = self._zone.offset(base)
            shown = self._step(wall(base + offset))
            found = None if shown is None else digits(shown) - offset
            change = self._zone.change(base, base + 366 * 86_400 if found is None else found)
            if change is None:
                return found
            # From the first second of the next stretch on, that one included.
            offset = self._zone.offset(change)
            shown = self._step(wall(change + offset - 1))
            if shown is not None and digits(shown) == change + offset:
                return change
            base = change

    def _step(self, shown: datetime) -> datetime | None:
        self._sim.dt = shown
        try:
            return next(self._sim)
        except (StopIteration, OverflowError):
            return None
