"""Ids of messages and deliveries."""

from __future__ import annotations

import secrets


class Ids:
    """Ids that sort by when they were made, within this process exactly. prefix: what they are ids of."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._last = 0

    def new(self, now_s: float) -> str:
        self._last = max(self._last + 1, int(now_s * 1_000_000))
        return f"{self._prefix}_{self._last:014x}{secrets.token_hex(6)}"
