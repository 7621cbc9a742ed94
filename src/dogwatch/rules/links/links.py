"""Acknowledging by link: 32 random bytes, of which only a digest is kept; it works once, and not for ever."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.errors import Conflict, NotFound
from dogwatch.notify.message import Enqueued, Message
from dogwatch.rules.incident import Incident
from dogwatch.store.database import Database, Tx

LINK_S = 86_400.0
_FORGET_S = 7 * 86_400.0
_TYPES = ("incident.opened", "incident.escalated", "incident.reminder")
_LONGEST = 100


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link that works. told: the destination that was told by it."""

    number: int
    told: str


class Desk(Protocol):
    """What acknowledges."""

    async def show(self, number: int) -> Incident: ...

    async def order(self, number: int, verb: str, actor: Actor, *, text: str = "") -> Incident: ...


class Links:
    """base_url: how people reach the console, "" where nobody said: then there are no links."""

    def __init__(self, database: Database, enqueue: Callable[[Tx, Message], list[Enqueued]]) -> None:
        self._database, self._enqueue = database, enqueue
        self.base_url = ""

    def enqueue(self, tx: Tx, message: Message) -> list[Enqueued]:
        """Put a message in the outbox, with a link of its own where it tells of an incident that goes on."""
        number = message.data.get("number")
        if not self.base_url or message.type not in _TYPES or not isinstance(number, int) or len(message.to) != 1:
            return self._enqueue(tx, message)
        text = secrets.token_urlsafe(32)
        url = f"{self.base_url}/ack/{text}"
        told = self._enqueue(
            tx,
            msgspec.structs.replace(
                message,
                text=f"{message.text}\nAcknowledge: {url}",
                url=message.url or f"{self.base_url}/incidents/{number}",
                data={**message.data, "ack_url": url},
            ),
        )
        if any(one.created for one in told):
            tx.run(
                "INSERT INTO ack_links (link_hash, number, told, expires_s, used_s)"
                " VALUES (:link, :number, :told, :expires_s, NULL)",
                link=_digest(text),
                number=number,
                told=message.to[0],
                expires_s=tx.now_s + LINK_S,
            )
            tx.run("DELETE FROM ack_links WHERE expires_s < :before_s", before_s=tx.now_s - _FORGET_S)
        return told

    async def find(self, text: str) -> Link:
        """Raises: NotFound for one that there is not, was used, or is too old; nobody learns which."""

        def work(tx: Tx) -> Link | None:
            row = tx.one(
                "SELECT number, told FROM ack_links WHERE link_hash = :link AND used_s IS NULL AND expires_s > :now_s",
                link=_digest(text),
                now_s=tx.now_s,
            )
            return Link(number=int(row[0] or 0), told=str(row[1])) if row is not None else None

        found = await self._database.read(work) if text and len(text) <= _LONGEST else None
        if found is None:
            raise NotFound("this link does not work any more", hint="it works once, and for a day; log in instead")
        return found

    async def use(self, text: str, desk: Desk, *, address: str = "") -> Incident:
        """Acknowledge. Raises: NotFound, Conflict where the incident is over."""
        link = await self.find(text)

        def work(tx: Tx) -> bool:
            return bool(
                tx.run(
                    "UPDATE ack_links SET used_s = :now_s"
                    " WHERE link_hash = :link AND used_s IS NULL AND expires_s > :now_s",
                    link=_digest(text),
                    now_s=tx.now_s,
                )
            )

        if not await self._database.write(work):
            raise Conflict("this link was used just now")
        actor = Actor(kind="link", name=link.told, address=address)
        return await desk.order(link.number, "ack", actor, text=f"by the link that {link.told} was told")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
