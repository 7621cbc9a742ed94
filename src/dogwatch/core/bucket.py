"""A token bucket: `burst` at once, `rate_per_s` in the long run. The arithmetic is pure; the waiting is fair."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from dogwatch.core.clock import Clock, SystemClock


class TokenBucket:
    """The arithmetic. It keeps one moment, the one at which the bucket will be full, so no rounding adds up.

    In any time of t seconds it gives at most burst + rate_per_s × t tokens. It starts full.
    """

    __slots__ = ("_full_at_s", "burst", "rate_per_s")

    def __init__(self, *, rate_per_s: float, burst: float) -> None:
        if not (rate_per_s > 0 and burst > 0 and math.isfinite(rate_per_s + burst)):
            raise ValueError(f"rate {rate_per_s} and burst {burst}; both must be more than 0")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._full_at_s = -math.inf

    def available(self, now_s: float) -> float:
        """Return the tokens that are there, in [0, burst]."""
        return min(self.burst, max(0.0, self.burst - (self._full_at_s - now_s) * self.rate_per_s))

    def wait_s(self, now_s: float, amount: float = 1.0) -> float:
        """Return how long until `amount` tokens are there, 0 if they are.

        Raises: ValueError for more than the bucket ever holds.
        """
        if not 0 < amount <= self.burst:
            raise ValueError(f"{amount} tokens from a bucket that holds {self.burst}")
        wait_s = self._after(now_s, amount) - self.burst / self.rate_per_s - now_s
        # Less than the clock can tell at this size of number is nothing: else a waiter would wake for ever just early.
        return wait_s if wait_s > math.ulp(now_s) * 8 else 0.0

    def take(self, now_s: float, amount: float = 1.0) -> float:
        """Take `amount` tokens and return 0; or take nothing and return how long until they are there."""
        wait_s = self.wait_s(now_s, amount)
        if wait_s == 0.0:
            self._full_at_s = self._after(now_s, amount)
        return wait_s

    def _after(self, now_s: float, amount: float) -> float:
        return max(self._full_at_s, now_s) + amount / self.rate_per_s


class RateLimiter:
    """Tasks wait for tokens, first come, first served: a small demand never overtakes a big one.

    Whoever is cancelled while waiting has taken nothing.
    """

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: float,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._bucket = TokenBucket(rate_per_s=rate_per_s, burst=burst)
        self._clock = clock or SystemClock()
        self._sleep = sleep
        # asyncio's lock is fair, and a cancelled waiter leaves no trace in it.
        self._turn = asyncio.Lock()
        self.waiting = 0

    async def acquire(self, amount: float = 1.0) -> None:
        """Return once `amount` tokens were taken.

        Raises: ValueError for more than the burst.
        """
        self._bucket.wait_s(self._clock.monotonic_s(), amount)
        self.waiting += 1
        try:
            async with self._turn:
                while (wait_s := self._bucket.take(self._clock.monotonic_s(), amount)) > 0:
                    await self._sleep(wait_s)
        finally:
            self.waiting -= 1

    def try_acquire(self, amount: float = 1.0) -> bool:
        """Take tokens if they are there and nobody waits for some."""
        return not self.waiting and self._bucket.take(self._clock.monotonic_s(), amount) == 0.0

    def available(self) -> float:
        return self._bucket.available(self._clock.monotonic_s())
