"""Ids of runs: they sort by time, are found by their beginning, and cannot be guessed from one another."""

from __future__ import annotations

import secrets
import threading

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {digit: number for number, digit in enumerate(_DIGITS)}
_TIME, _COUNT, _CHANCE = 9, 3, 6
LENGTH = _TIME + _COUNT + _CHANCE


def _written(number: int, length: int) -> str:
    out = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        out.append(_DIGITS[digit])
    return "".join(reversed(out))


class Mint:
    """Makes ids: milliseconds, a count within the millisecond, chance. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = -1
        self._count = 0

    def next(self, now_s: float) -> str:
        """Return an id of this time. Those of one process and one time sort as they were made."""
        milliseconds = int(now_s * 1000)
        with self._lock:
            # Begun anywhere in the first quarter, so that two processes seldom count alike.
            self._count = self._count + 1 if milliseconds == self._last_ms else secrets.randbelow(32**_COUNT // 4)
            self._last_ms = milliseconds
            count = self._count % 32**_COUNT
        chance = _written(secrets.randbits(5 * _CHANCE), _CHANCE)
        return _written(milliseconds, _TIME) + _written(count, _COUNT) + chance


def span_of(prefix: str) -> tuple[float, float] | None:
    """Return the times between which ids with this beginning were made; None where no id begins so."""
    if not prefix or len(prefix) > LENGTH or any(digit not in _VALUES for digit in prefix):
        return None
    head = prefix[:_TIME]
    number = 0
    for digit in head:
        number = number * 32 + _VALUES[digit]
    scale = 32 ** (_TIME - len(head))
    return number * scale / 1000 - 0.002, (number + 1) * scale / 1000 + 0.002
