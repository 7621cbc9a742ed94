"""What the store reads out of records: their time, and their words."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

TIME_FIELDS = ("timestamp", "time", "@timestamp", "ts")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Words are runs of letters, digits and _, and of anything beyond ASCII; case counts for nothing within ASCII.
WORD = re.compile(r"[0-9a-z_\x80-\U0010ffff]+")
WORD_CLASS = r"[0-9A-Za-z_\x{80}-\x{10ffff}]"
_UPPER = {code: code + 32 for code in range(65, 91)}
_EARLIEST_US, _LATEST_US = 0, 4_102_444_800_000_000  # 1970 to 2100: beyond, a number is something else


def lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_UPPER)


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return WORD.findall(lower(text))


def checksums(texts: Iterable[str]) -> set[int]:
    """Return a number for each different word."""
    found: set[str] = set()
    for text in texts:
        found.update(WORD.findall(lower(text)))
    return {zlib.crc32(word.encode("utf-8", "replace")) for word in found}


def time_us(record: Mapping[str, object], arrived_us: int) -> int:
    """Return a record's own time in microseconds, or when it arrived where it has none that can be read."""
    for name in TIME_FIELDS:
        value = record.get(name)
        if value is not None and (found := _read(value)) is not None:
            return found
    return arrived_us


def _read(value: object) -> int | None:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        found = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e19:
        # Seconds, milliseconds, microseconds or nanoseconds, by their size.
        factor = next((f for limit, f in ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0)) if value < limit), 1e-3)
        found = int(value * factor)
    else:
        return None
    return found if _EARLIEST_US < found < _LATEST_US else None
