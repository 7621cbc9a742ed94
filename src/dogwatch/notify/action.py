"""The action kind `notify`: a step that tells somebody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.values import Json
from dogwatch.errors import NotFound, PermanentError
from dogwatch.notify.message import Message, Severity, masked
from dogwatch.notify.view import Outbox


class NotifyAction(Action, frozen=True, kw_only=True):
    """Puts a message in the outbox; it is sent from there, tried again, and not sent twice by a repeated step.

    to: names of destinations. title, text: what people read. severity: info, warning, error or critical. data: what
    programs read. type: for programs, too. url: where people read more. dedupe: further messages with the same key are
    not sent; "" for one message for each run and step.
    """

    kind: ClassVar[str] = "notify"
    outputs: ClassVar[Mapping[str, str]] = {"messages": "list"}
    to: tuple[str, ...]
    title: str = ""
    text: str = ""
    severity: Severity = "info"
    data: Mapping[str, Json] = {}
    type: str = "job.message"
    url: str = ""
    dedupe: str = ""

    def plan(self) -> Change:
        details = tuple(line for line in (self.title, *self.text.splitlines()) if line)
        return Change(summary=f"tell {', '.join(self.to) or 'nobody'}", details=details)

    async def apply(self, scene: Scene) -> Outcome | Wait:
        message = Message(
            to=self.to,
            type=self.type,
            title=scene.mask(self.title),
            text=scene.mask(self.text),
            severity=self.severity,
            data={"job": scene.job, "run_id": scene.run_id, "step": scene.step, **masked(self.data, scene.mask)},
            labels=scene.labels,
            url=scene.mask(self.url),
            dedupe=self.dedupe or scene.idempotency_key,
        )
        # Protocols cannot be asked for by mypy's reckoning of type[T].
        outbox = scene.get(Outbox)  # type: ignore[type-abstract]
        try:
            queued = await outbox.send(message)
        except NotFound as error:
            raise PermanentError(str(error), hint=error.hint) from None
        ids = [one.message_id for one in queued]
        return Outcome(
            outputs={"messages": ids}, changed=any(one.created for one in queued), message=f"told {', '.join(self.to)}"
        )
