"""Try again: capped exponential backoff, full jitter, what the other side asked for, and never past the deadline."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from dogwatch.core import deadline
from dogwatch.core.units import Seconds
from dogwatch.errors import TransientError

T = TypeVar("T")


def backoff(attempt: int, *, base_s: float, cap_s: float, random: Callable[[], float] = random_module.random) -> float:
    """Return the wait before a retry, in seconds, in [0, cap_s].

    attempt: 1 for the first retry. random: returns a share in [0, 1).
    Raises: ValueError if attempt < 1.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog (full jitter).
    """
    if attempt < 1:
        raise ValueError(f"attempt is {attempt}; at least 1")
    # 2.0**1024 is an OverflowError; long before that the cap holds.
    return random() * min(cap_s, base_s * 2.0 ** min(attempt - 1, 1000))


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """attempts: tries in all, the first included; 1 never retries. base_s doubles with each retry, up to cap_s."""

    attempts: int = 5
    base_s: Seconds = 0.1
    cap_s: Seconds = 30.0


class Retrier:
    """Retries what raises TransientError; everything else is the caller's at once.

    random, sleep: injected; sleep is asyncio.sleep's shape. retried: called before each wait with the attempt that
    failed, its error and the wait.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        remaining_s: Callable[[], float | None] = deadline.remaining_s,
        retried: Callable[[int, TransientError, float], None] | None = None,
    ) -> None:
        if policy.attempts < 1:
            raise ValueError(f"attempts is {policy.attempts}; at least 1")
        self._policy = policy
        self._random = random
        self._sleep = sleep
        self._remaining_s = remaining_s
        self._retried = retried

    def wait_s(self, attempt: int, error: TransientError) -> float:
        """Return the wait after a failed attempt, never less than the other side asked for.

        The jitter comes on top of what was asked: else everybody who was sent away comes back at the same instant.
        """
        policy = self._policy
        wait_s = backoff(attempt, base_s=policy.base_s, cap_s=policy.cap_s, random=self._random)
        return wait_s + max(0.0, error.retry_after_s or 0.0)

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns.

        Raises: the last TransientError, with a note of how many attempts there were, once they are used up or the
        next would begin after the deadline; any other error at once.
        """
        attempt = 1
        while True:
            try:
                return await call()
            except TransientError as error:
                if attempt >= self._policy.attempts:
                    error.add_note(f"gave up after {attempt} attempts")
                    raise
                wait_s = self.wait_s(attempt, error)
                left_s = self._remaining_s()
                if left_s is not None and wait_s >= left_s:
                    error.add_note(f"gave up after {attempt} attempts: the deadline leaves no time for another")
                    raise
                if self._retried is not None:
                    self._retried(attempt, error, wait_s)
            await self._sleep(wait_s)
            attempt += 1
