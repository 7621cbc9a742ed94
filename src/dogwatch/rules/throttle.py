"""How many notices a destination gets: single ones up to a number, then one for all that wait. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from dogwatch.rules.escalation import Throttle
from dogwatch.rules.incident import Notice, Waiting

Sent = Mapping[str, tuple[float, ...]]
Queue = Mapping[str, tuple[Waiting, ...]]


def send(
    throttle: Throttle, sent: Sent, queue: Queue, new: Sequence[Waiting], clock_s: float
) -> tuple[Sent, Queue, list[Notice]]:
    """Return what was sent when, what waits on, and what goes out now. Nothing is lost: it goes, or it waits."""
    waits: dict[str, list[Waiting]] = {name: list(parts) for name, parts in queue.items()}
    for one in new:
        for name in one.to:
            waits.setdefault(name, []).append(one)
    times: dict[str, tuple[float, ...]] = {}
    rest: dict[str, tuple[Waiting, ...]] = {}
    notices: list[Notice] = []
    for name in sorted({*sent, *waits}):
        recent = tuple(at for at in sent.get(name, ()) if clock_s - at < throttle.interval)
        parts = waits.get(name, [])
        room = throttle.burst - len(recent)
        if parts and len(parts) <= room:
            notices += (_notice(name, (part,)) for part in parts)
            recent += (clock_s,) * len(parts)
        elif parts and room > 0:
            notices.append(_notice(name, tuple(parts)))
            # One for all uses up the rest: the next ones wait together, too.
            recent += (clock_s,) * room
        elif parts:
            rest[name] = tuple(parts)
        if recent:
            times[name] = recent
    return times, rest, notices


def _notice(name: str, parts: tuple[Waiting, ...]) -> Notice:
    text = ",".join(f"{part.number}.{part.serial}" for part in parts)
    key = text if len(parts) == 1 else hashlib.sha256(text.encode()).hexdigest()[:32]
    return Notice(to=(name,), parts=parts, key=f"incident:{key}")
