"""Acknowledging and approving by link: 32 random bytes, of which only a digest is kept; one works once, and not for
ever.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.engine.values import Json, Run
from dogwatch.errors import Conflict, NotFound
from dogwatch.notify.message import Enqueued, Message
from dogwatch.rules.incident import Incident
from dogwatch.rules.remedy.records import Action, action_of_run
from dogwatch.store.database import Database, Tx

LINK_S = 86_400.0
_FORGET_S = 7 * 86_400.0
_TYPES = ("incident.opened", "incident.escalated", "incident.reminder")
_ASKED = "incident.asked"
_LONGEST = 100


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link that works. told: the destination that was told by it. run_id: that it decides on, "" where it
    acknowledges.
    """

    number: int
    told: str
    run_id: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a link asks. waits: an answer is waited for now."""

    link: Link
    incident: Incident
    action: Action
    run: Run

    @property
    def waits(self) -> bool:
        return not self.run.state.ended and self.run.waiting_for.startswith("approval")


class Desk(Protocol):
    """What acknowledges."""

    async def show(self, number: int) -> Incident: ...

    async def order(self, number: int, verb: str, actor: Actor, *, text: str = "") -> Incident: ...


class Decides(Protocol):
    """What approves."""

    async def show(self, run_id: str) -> Run: ...

    async def decide(self, run_id: str, step: str, actor: Actor, *, approve: bool, comment: str = "") -> Run: ...


class Links:
    """base_url: how people reach the console, "" where nobody said: then there are no links.

    runs: what is approved. approvers: those of a job's question; only who is named as `link:DESTINATION` there decides
    by link.
    """

    def __init__(
        self,
        database: Database,
        enqueue: Callable[[Tx, Message], list[Enqueued]],
        runs: Decides | None = None,
        approvers: Callable[[str], Sequence[str]] = lambda _job: (),
    ) -> None:
        self._database, self._enqueue, self._runs, self._approvers = database, enqueue, runs, approvers
        self.base_url = ""

    def enqueue(self, tx: Tx, message: Message) -> list[Enqueued]:
        """Put a message in the outbox, with links of its own where it tells of an incident that goes on, or asks."""
        number = message.data.get("number")
        if not self.base_url or not isinstance(number, int) or len(message.to) != 1:
            return self._enqueue(tx, message)
        if message.type == _ASKED:
            return self._asking(tx, message, number)
        if message.type not in _TYPES:
            return self._enqueue(tx, message)
        text, url = self._new("ack")
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
            _keep(tx, text, Link(number=number, told=message.to[0]))
        return told

    def _asking(self, tx: Tx, message: Message, number: int) -> list[Enqueued]:
        """Put a question in the outbox, with a link for each run that its destination may decide on."""
        runs, name = message.data.get("runs"), f"link:{message.to[0]}"
        lines, urls, links = [message.text], dict[str, Json](), dict[str, Link]()
        for run_id in runs if isinstance(runs, list) else ():
            action = action_of_run(tx, str(run_id))
            if action is None or name not in self._approvers(action.start.job):
                continue
            text, url = self._new("approve")
            urls[str(run_id)], links[text] = url, Link(number=number, told=message.to[0], run_id=str(run_id))
            lines.append(f"Approve or reject without logging in ({action.start.group}): {url}")
        if not links:
            return self._enqueue(tx, message)
        more = {**message.data, "approve_urls": urls}
        told = self._enqueue(tx, msgspec.structs.replace(message, text="\n".join(lines), data=more))
        if any(one.created for one in told):
            for text, link in links.items():
                _keep(tx, text, link)
        return told

    def _new(self, path: str) -> tuple[str, str]:
        text = secrets.token_urlsafe(32)
        return text, f"{self.base_url}/{path}/{text}"

    async def find(self, text: str, *, asks: bool = False) -> Link:
        """Raises: NotFound for one that there is not, was used, or is too old; nobody learns which."""

        def work(tx: Tx) -> Link | None:
            row = tx.one(
                "SELECT number, told, run_id FROM ack_links"
                " WHERE link_hash = :link AND used_s IS NULL AND expires_s > :now_s",
                link=_digest(text),
                now_s=tx.now_s,
            )
            return Link(number=int(row[0] or 0), told=str(row[1]), run_id=str(row[2])) if row is not None else None

        found = await self._database.read(work) if text and len(text) <= _LONGEST else None
        if found is None or bool(found.run_id) is not asks:
            raise NotFound("this link does not work any more", hint="it works once, and for a day; log in instead")
        return found

    async def use(self, text: str, desk: Desk, *, address: str = "") -> Incident:
        """Acknowledge. Raises: NotFound, Conflict where the incident is over."""
        link = await self.find(text)
        if not await self._take(text):
            raise Conflict("this link was used just now")
        actor = Actor(kind="link", name=link.told, address=address)
        return await desk.order(link.number, "ack", actor, text=f"by the link that {link.told} was told")

    async def ask(self, text: str, desk: Desk) -> Question:
        """Return what a link asks. Raises: NotFound."""
        link = await self.find(text, asks=True)
        action = await self._database.read(lambda tx: action_of_run(tx, link.run_id))
        if action is None or self._runs is None:
            raise NotFound("what this link asks about is not kept any more")
        run = await self._runs.show(link.run_id)
        return Question(link=link, incident=await desk.show(link.number), action=action, run=run)

    async def decide(self, text: str, desk: Desk, *, approve: bool, address: str = "") -> Question:
        """Approve or reject. Raises: NotFound, NotAllowed; Conflict where nothing waits for it, or the time is over."""
        asked = await self.ask(text, desk)
        assert self._runs is not None
        actor = Actor(kind="link", name=asked.link.told, address=address)
        comment = f"by the link that {asked.link.told} was told"
        # The run takes one answer only: of two that come at once, the second hears so. Where it cannot be answered yet
        # the link stays good.
        run = await self._runs.decide(asked.link.run_id, "", actor, approve=approve, comment=comment)
        await self._take(text)
        return msgspec.structs.replace(asked, run=run)

    async def _take(self, text: str) -> bool:
        """Use a link up; return whether it was good until now."""

        def work(tx: Tx) -> bool:
            return bool(
                tx.run(
                    "UPDATE ack_links SET used_s = :now_s"
                    " WHERE link_hash = :link AND used_s IS NULL AND expires_s > :now_s",
                    link=_digest(text),
                    now_s=tx.now_s,
                )
            )

        return await self._database.write(work)


def _keep(tx: Tx, text: str, link: Link) -> None:
    tx.run(
        "INSERT INTO ack_links (link_hash, number, told, expires_s, used_s, run_id)"
        " VALUES (:link, :number, :told, :expires_s, NULL, :run_id)",
        link=_digest(text),
        number=link.number,
        told=link.told,
        expires_s=tx.now_s + LINK_S,
        run_id=link.run_id,
    )
    tx.run("DELETE FROM ack_links WHERE expires_s < :before_s", before_s=tx.now_s - _FORGET_S)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
