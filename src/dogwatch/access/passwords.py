"""Passwords as argon2id hashes; checking one costs the same whether the user exists or not."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from dogwatch.access.options import PasswordPolicy
from dogwatch.errors import UsageError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

# Each takes its memory (19 MiB); more at once would be a way to exhaust it.
_AT_ONCE = 2
_LONGEST = 1000


class Passwords:
    """argon2 is loaded for the first password."""

    def __init__(self, policy: PasswordPolicy) -> None:
        self.policy = policy
        self._turn = asyncio.Semaphore(_AT_ONCE)

    @cached_property
    def _hasher(self) -> PasswordHasher:
        from argon2 import PasswordHasher

        return PasswordHasher(
            time_cost=self.policy.passes, memory_cost=max(8192, self.policy.memory // 1024), parallelism=1
        )

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash("nobody has this password")

    def require(self, password: str, name: str) -> None:
        """Raises: UsageError where the policy forbids it."""
        if len(password) < self.policy.least:
            raise UsageError(f"the password is shorter than {self.policy.least} characters")
        if len(password) > _LONGEST:
            raise UsageError(f"the password is longer than {_LONGEST} characters")
        if len(set(password)) < 5 or (name and name.lower() in password.lower()):
            raise UsageError("the password is too easy to guess", hint="a few random words are easy to keep in mind")

    async def hash(self, password: str) -> str:
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password.encode("utf-8", "surrogatepass"))

    async def matches(self, password: str, known: str) -> bool:
        """Return whether it is the password of a hash; "" is nobody's hash, and takes as long."""
        if len(password) > _LONGEST:
            password = ""
        async with self._turn:
            return await asyncio.to_thread(self._matches, password.encode("utf-8", "surrogatepass"), known)

    def _matches(self, password: bytes, known: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            self._hasher.verify(known or self._nobodys, password)
            return bool(known)
        except (VerificationError, InvalidHashError):
            return False

    def outdated(self, known: str) -> bool:
        """Return whether a hash was made at another cost, and should be made anew."""
        return bool(known) and self._hasher.check_needs_rehash(known)
