"""A limit that holds for every period: at most so many in any time of that length.

A token bucket lets twice as many through in its first period; who says "30 a minute" has promised somebody else 30.
"""

from __future__ import annotations

import math
from collections import deque


class Window:
    """Remembers when the newest `most` were."""

    __slots__ = ("_times", "most", "per_s")

    def __init__(self, most: int, per_s: float) -> None:
        if most < 1 or not per_s > 0:
            raise ValueError(f"at most {most} in {per_s} s; both must be more than 0")
        self.most, self.per_s = most, per_s
        self._times: deque[float] = deque()

    def available(self, now_s: float) -> int:
        """Return how many there may be now."""
        while self._times and now_s - self._times[0] >= self.per_s:
            self._times.popleft()
        return self.most - len(self._times)

    def wait_s(self, now_s: float) -> float:
        """Return how long until there may be one, 0 for now."""
        if self.available(now_s):
            return 0.0
        # Rounded to nothing it would say "now", which it is not.
        return max(math.ulp(now_s), self._times[0] + self.per_s - now_s)

    def take(self, now_s: float) -> float:
        """Count one and return 0; or count nothing and return how long until there may be one."""
        wait_s = self.wait_s(now_s)
        if wait_s == 0.0:
            self._times.append(now_s)
        return wait_s
