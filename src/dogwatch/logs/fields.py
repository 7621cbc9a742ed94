"""What several sinks read out of a record: its time, its level, its text, its trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from operator import floordiv, sub

import msgspec

Record = Mapping[str, object]
OWN = frozenset({"id", "source", "file"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# What 64 bits hold, from 1677 to 2262. Other times, as that of a clock that was never set, nobody takes.
_NS = range(-(2**63), 2**63)
# Syslog's numbers; OTLP's are in `severity_number`.
LEVELS: Mapping[str, int] = {
    **dict.fromkeys(("emerg", "emergency", "panic"), 0),
    "alert": 1,
    **dict.fromkeys(("crit", "critical", "fatal"), 2),
    **dict.fromkeys(("err", "error", "severe"), 3),
    **dict.fromkeys(("warn", "warning"), 4),
    "notice": 5,
    **dict.fromkeys(("info", "information", "informational"), 6),
    **dict.fromkeys(("debug", "trace", "verbose"), 7),
}
_OTLP = (21, 19, 18, 17, 13, 10, 9, 5)


def time_ns(record: Record, now_ns: int) -> int:
    """Return the record's `timestamp`, RFC 3339 as the transform of that name writes it, in nanoseconds; now for one
    that is none, or beyond what 64 bits hold.
    """
    text = record.get("timestamp")
    if not isinstance(text, str):
        return now_ns
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return now_ns
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    found = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    return found if found in _NS else now_ns


def times_ns(texts: Sequence[object], now_ns: int) -> list[int]:
    """Return the same of many `timestamp`s."""
    try:
        since = map(sub, map(datetime.fromisoformat, texts), repeat(_EPOCH))  # type: ignore[arg-type]
        found = [at * 1000 for at in map(floordiv, since, repeat(_MICROSECOND))]
    except (ValueError, TypeError):
        # Of some kind that is judged by itself: none at all, no time, or one without a zone.
        return [time_ns({"timestamp": text}, now_ns) for text in texts]
    if found and (min(found) not in _NS or max(found) not in _NS):
        return [at if at in _NS else now_ns for at in found]
    return found


def rfc3339(at_ns: int) -> str:
    """Return a time in UTC, to the millisecond."""
    moment = _EPOCH + timedelta(microseconds=at_ns // 1000)
    return moment.isoformat(timespec="milliseconds")[:23] + "Z"


def rfc3339s(times: Iterable[int]) -> list[str]:
    """Return the same of many times."""
    seconds: dict[int, str] = {}
    found = []
    for at_ns in times:
        second, rest = divmod(at_ns // 1_000_000, 1000)
        if second not in seconds:
            seconds[second] = rfc3339(second * 1_000_000_000)[:20]
        found.append(f"{seconds[second]}{rest:03d}Z")
    return found


def level(record: Record) -> tuple[str, int] | None:
    """Return the level's name and its number in syslog, or None for one that is not known."""
    name = record.get("level", record.get("severity"))
    number = LEVELS.get(name.lower()) if isinstance(name, str) else None
    return None if number is None else (str(name), number)


def severity_number(name: str, number: int) -> int:
    """Return OpenTelemetry's number of a level."""
    return 1 if name.lower() == "trace" else _OTLP[number]


def message(record: Record) -> str:
    """Return the message; of a record that was made into columns, those as JSON."""
    rest = {name: value for name, value in record.items() if name not in OWN}
    text = rest.get("message")
    if isinstance(text, str) and len(rest) == 1:
        return text
    return msgspec.json.encode(rest, enc_hook=str).decode()
