"""Dates and times of day as configuration writes them."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from dogwatch.engine.schedules.zone import Zone

_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_YEARLY = re.compile(r"(\d{1,2})-(\d{1,2})")
DAY_S = 86_400


def time_of_day(text: str) -> int | None:
    """Return the seconds after midnight of `18:00` or `18:00:30`; up to `24:00`. None for what is no time of day.

    Raises: ValueError for one that does not exist.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    seconds = hour * 3600 + minute * 60 + second
    if minute > 59 or second > 59 or seconds > DAY_S:
        raise ValueError(f"'{text}' is no time of day")
    return seconds


def moment(text: str, zone: Zone) -> float:
    """Return when `2026-12-24`, `2026-12-24T18:00` (on the zone's wall) or one with an offset is.

    Raises: ValueError.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        return found.timestamp() if found.tzinfo is not None else float(zone.instant(found))
    except (ValueError, OverflowError):
        raise ValueError(
            f"'{text}' is no date or time; write 2026-12-24, 2026-12-24T18:00 or 2026-12-24T18:00+01:00"
        ) from None


def instant_at(day: date, seconds: int, zone: Zone) -> float:
    """Return when the wall shows a time of a day; see Zone.instant."""
    return float(zone.instant(datetime(day.year, day.month, day.day) + timedelta(seconds=seconds)))  # noqa: DTZ001


class Day:
    """A date, `2026-12-24`, or one of every year, `12-24`.

    Raises: ValueError.
    """

    __slots__ = ("_month_day", "_year")

    def __init__(self, text: str) -> None:
        found = _YEARLY.fullmatch(text.strip())
        try:
            # A leap year, so that 02-29 is one.
            day = date(2000, int(found[1]), int(found[2])) if found else date.fromisoformat(text.strip())
        except ValueError:
            raise ValueError(f"'{text}' is no date; write 2026-12-24, or 12-24 for every year") from None
        self._year = None if found else day.year
        self._month_day = (day.month, day.day)

    def following(self, day: date) -> date | None:
        """Return the first date on or after a day; None where there is none."""
        if self._year is not None:
            found = date(self._year, *self._month_day)
            return found if found >= day else None
        for year in range(day.year, min(day.year + 9, date.max.year)):
            try:
                found = date(year, *self._month_day)
            except ValueError:
                continue  # 02-29 in a common year
            if found >= day:
                return found
        return None
