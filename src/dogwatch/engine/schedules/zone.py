"""A time zone as schedules need it: seconds since 1970 on one side, what a clock on the wall shows on the other."""

from __future__ import annotations

import bisect
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from dogwatch.core.component import nearest

DAY_S = 86_400
# Beyond, datetime ends soon.
LAST_S = 9_000 * 31_556_952 - 62_167_219_200


def wall(seconds: int) -> datetime:
    """Return seconds since 1970 as a naive datetime of the same digits."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def digits(naive: datetime) -> int:
    """Undo `wall`."""
    return int(naive.replace(tzinfo=UTC).timestamp())


class Zone:
    """One zone; shared by all schedules that are in it.

    Raises: ValueError naming the nearest zone.
    """

    def __init__(self, name: str) -> None:
        try:
            self._info = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            known = {zone: zone for zone in available_timezones()}
            short = {zone.rpartition("/")[2].lower(): zone for zone in sorted(known)}
            hint = short.get(name.strip().lower().replace(" ", "_"))
            told = f"did you mean '{hint}'?" if hint else nearest(name, list(known))
            raise ValueError(f"unknown time zone '{name}'{f'; {told}' if told else ''}") from None
        self.name = name
        self._changes: list[int] = []
        # What of the time is known in _changes: from, to.
        self._known: tuple[int, int] | None = None

    def offset(self, seconds: int) -> int:
        """Return how many seconds the wall is ahead of UTC."""
        ahead = datetime.fromtimestamp(seconds, self._info).utcoffset()
        return int(ahead.total_seconds()) if ahead is not None else 0

    def local(self, seconds: int) -> datetime:
        """Return what the wall shows, naive."""
        return datetime.fromtimestamp(seconds, self._info).replace(tzinfo=None)

    def instant(self, naive: datetime) -> int:
        """Return when the wall shows it: the first of two times; right after the gap for one that is skipped."""
        early = int(naive.replace(tzinfo=self._info).timestamp())
        if self.local(early) == naive.replace(microsecond=0):
            return early
        late = int(naive.replace(tzinfo=self._info, fold=1).timestamp())
        return self._first_other(min(early, late), max(early, late))

    def change(self, after: int, until: int) -> int | None:
        """Return the first second in (after, until] at which another offset begins."""
        self._learn(after, until)
        at = bisect.bisect_right(self._changes, after)
        return self._changes[at] if at < len(self._changes) and self._changes[at] <= until else None

    def _learn(self, low: int, high: int) -> None:
        """Look once a day: no zone has changed and changed back within one since clocks are set by law."""
        if self._known is None:
            low, high = low - DAY_S, high + 366 * DAY_S
            self._changes = self._between(low, high)
            self._known = (low, high)
        begin, end = self._known
        if low < begin:
            self._changes[:0] = self._between(low - 30 * DAY_S, begin)
            begin = low - 30 * DAY_S
        if high > end:
            self._changes += self._between(end, high + 366 * DAY_S)
            end = high + 366 * DAY_S
        self._known = (begin, end)

    def _between(self, low: int, high: int) -> list[int]:
        found = []
        last = self.offset(low)
        while low < high:
            step = min(low + DAY_S, high)
            if (offset := self.offset(step)) != last:
                found.append(self._first_other(low, step))
                last = offset
            low = step
        return found

    def _first_other(self, low: int, high: int) -> int:
        """Return the first second after low with another offset than low's; high has one."""
        before = self.offset(low)
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset(middle) == before:
                low = middle
            else:
                high = middle
        return high
