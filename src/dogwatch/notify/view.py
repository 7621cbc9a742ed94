"""What web, command line and actions may ask of notifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.values import Json, Page
from dogwatch.notify.message import Enqueued, Message, OutboxRow
from dogwatch.store.database import Tx
from dogwatch.words import Language


class DestinationView(msgspec.Struct, frozen=True, kw_only=True):
    """A destination as it is now. address: without what is secret. trouble: why nothing goes there; retry_s: until.

    known: False for one that is no longer configured and still has messages.
    """

    name: str
    kind: str
    address: str
    known: bool = True
    queued: int = 0
    sending: int = 0
    delivered: int = 0
    dead: int = 0
    trouble: str = ""
    trouble_since_s: float | None = None
    retry_s: float | None = None


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination would be sent. content: as the channel sends it, secrets masked."""

    destination: str
    kind: str
    address: str
    title: str
    text: str
    content: Json


class Outbox(Protocol):
    """Raises everywhere: TransientError while the database cannot be used."""

    def enqueue(self, tx: Tx, message: Message) -> list[Enqueued]:
        """Keep a message in a transaction of the caller's: what it tells of and the message are on disk together.

        A destination that is not configured is no error here: the message waits for it, and becomes a dead letter.
        """
        ...

    async def send(self, message: Message) -> list[Enqueued]:
        """Return once the message is on disk. Raises: NotFound for a destination that is not configured."""
        ...

    def language_of(self, destination: str) -> Language:
        """Return the language of who reads there; English for what is not configured."""
        ...

    async def destinations(self) -> Sequence[DestinationView]: ...

    async def find(
        self, *, destination: str = "", state: str = "", limit: int = 50, cursor: str = "", count: bool = False
    ) -> Page[OutboxRow]: ...

    async def show(self, message_id: str) -> OutboxRow:
        """message_id: whole, or a beginning that only one message has. Raises: NotFound."""
        ...

    async def redeliver(self, message_id: str, actor: Actor) -> OutboxRow:
        """Send an ended message again, under the same id. Raises: NotFound, Conflict for one that has not ended."""
        ...

    async def redeliver_dead(self, destination: str, actor: Actor) -> int:
        """Send all dead letters of a destination again; return how many."""
        ...

    def preview(self, destination: str, message: Message | None = None) -> Preview:
        """Return what would be sent; message: None for an example of an incident. Raises: NotFound."""
        ...

    async def test(self, destination: str, actor: Actor) -> Enqueued:
        """Queue a message that says it is a test. Raises: NotFound."""
        ...
