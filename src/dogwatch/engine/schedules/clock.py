"""The database's clock, known between two looks at it: its last reading, and the time that passed here since."""

from __future__ import annotations

from dogwatch.core.clock import Clock
from dogwatch.store.database import Database


class DatabaseClock:
    """Steps of this machine's wall clock do not move it; those of the database's are seen at the next reading."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._read_s: float | None = None
        self._at_s = 0.0

    @property
    def known(self) -> bool:
        return self._read_s is not None

    def now_s(self) -> float:
        """Return the time, seconds since 1970; this machine's until the first reading."""
        if self._read_s is None:
            return self._clock.now_s()
        return self._read_s + self._clock.monotonic_s() - self._at_s

    def age_s(self) -> float:
        """Return how long ago it was read."""
        return self._clock.monotonic_s() - self._at_s

    async def read(self) -> float:
        """Read it, and return by how much it had moved against what was thought.

        Raises: TransientError.
        """
        before_s = self._clock.monotonic_s()
        now_s = await self._database.read(lambda tx: tx.now_s)
        thought_s = self.now_s() if self.known else now_s
        after_s = self._clock.monotonic_s()
        self._at_s = (before_s + after_s) / 2
        moved_s = now_s + (after_s - self._at_s) - thought_s
        self._read_s = now_s
        return moved_s
