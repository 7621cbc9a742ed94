"""Microsoft Teams: an adaptive card to the address of a workflow, or of an incoming webhook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.errors import TransientError
from dogwatch.notify.channel import Channel, Held, Receipt, Tools
from dogwatch.notify.channels.answers import post, said, url_fault, veiled
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut
from dogwatch.words import words

_COLOURS = {"info": "accent", "warning": "warning", "error": "attention", "critical": "attention"}
# A card may have 28 KB in all.
_MOST_TEXT = 8000
_MOST_TITLE = 250


class TeamsChannel(Channel, frozen=True, kw_only=True):
    """Posts a card to a channel of Microsoft Teams.

    webhook: the address that a workflow ("when a webhook request is received") or an incoming webhook has, a secret.
    private: whether it may be of a private network.
    """

    kind: ClassVar[str] = "teams"
    short: ClassVar[str] = "webhook"
    webhook: Secret
    private: bool = True

    def address(self) -> str:
        return shown_url(self.webhook)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if wrong := url_fault(self.webhook):
            yield ("webhook",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        answer = await post(self.webhook, self.body(parcel), parcel, tools, private=self.private)
        # Incoming webhooks answer 200 and say in a sentence that it failed.
        text = veiled(said(answer), [self.webhook])
        if "HTTP error 429" in text:
            raise Held(f"answered {answer.status}{text}")
        if "delivery failed" in text:
            raise TransientError(f"answered {answer.status}{text}")
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        title = {
            "type": "TextBlock",
            "text": cut(parcel.title, _MOST_TITLE),
            "weight": "bolder",
            "size": "medium",
            "wrap": True,
            "color": _COLOURS[message.severity],
        }
        lines = {"type": "TextBlock", "text": cut(parcel.text, _MOST_TEXT).replace("\n", "\n\n"), "wrap": True}
        content: dict[str, object] = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [block for block in (title, lines) if block["text"]],
        }
        if message.url:
            content["actions"] = [
                {"type": "Action.OpenUrl", "title": words(parcel.language).say("Open"), "url": message.url}
            ]
        card = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
        return {"type": "message", "attachments": [card]}
