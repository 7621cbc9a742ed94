"""What is told, and what becomes of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from dogwatch.engine.values import Json
from dogwatch.words import SOURCE, Language

Severity = Literal["info", "warning", "error", "critical"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something to tell. to: names of destinations. type: dotted words, `run.failed`, for programs that read it.

    data: what programs read. url: where people read more. dedupe: a second message with the same key to the same
    destination is not kept; "" for none. recipients: who gets it in place of the destination's own (addresses of mail,
    or of one webhook): subscribers of a status page. language: of who gets it, in which title and text are already;
    "" for the destination's, in which what Dogwatch says is then said.
    """

    to: Sequence[str]
    type: str
    title: str = ""
    text: str = ""
    severity: Severity = "info"
    data: Mapping[str, Json] = {}
    labels: Mapping[str, str] = {}
    url: str = ""
    dedupe: str = ""
    recipients: Sequence[str] = ()
    language: Language | Literal[""] = ""


class MessageState(enum.StrEnum):
    """queued: waits. sending: somebody sends it now. dead: given up; it can be redelivered."""

    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"


class Enqueued(msgspec.Struct, frozen=True, kw_only=True):
    """created: False where its dedupe key was known; message_id is the first one's then."""

    message_id: str
    destination: str
    created: bool


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way to one destination. reason: why its last attempt failed, or what was answered.

    due_s: queued: not before. attempts: all; failures: those that count against the limit.
    """

    message_id: str
    destination: str
    message: Message
    state: MessageState
    attempts: int = 0
    failures: int = 0
    created_s: float
    since_s: float
    due_s: float
    ended_s: float | None = None
    reason: str = ""


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel is given. title and text: with the destination's templates filled in. now_s: of this attempt.

    language: for the few words that a channel adds.
    """

    message_id: str
    destination: str
    message: Message
    title: str
    text: str
    created_s: float
    now_s: float
    attempt: int
    timeout_s: float
    language: str = SOURCE


def iso_time(time_s: float) -> str:
    """Return `2026-11-21T05:40:00Z`."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def masked(value: Json, mask: Callable[[str], str]) -> Json:
    """Return what JSON can say with every text in it masked, keys as well."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(key)): masked(item, mask) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, mask) for item in value]
    return value
