"""Slack's incoming webhooks; Mattermost and Rocket.Chat take the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import post, url_fault
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut

_COLOURS = {"info": "#2f81f7", "warning": "#d29922", "error": "#d1242f", "critical": "#8b0000"}
# Slack cuts an attachment's text beyond this itself, in the middle of a word.
_MOST_TEXT = 3000
_MOST_TITLE = 250


class SlackChannel(Channel, frozen=True, kw_only=True):
    """Posts to a Slack incoming webhook (Mattermost and Rocket.Chat take the same).

    webhook: its address, a secret. channel, username, icon_emoji: in place of the webhook's own, where the server
    allows it. mention: put before the title, for instance `<!here>`. private: whether the address may be of a private
    network.
    """

    kind: ClassVar[str] = "slack"
    short: ClassVar[str] = "webhook"
    webhook: Secret
    channel: str = ""
    username: str = ""
    icon_emoji: str = ""
    mention: str = ""
    private: bool = True

    def address(self) -> str:
        return f"{shown_url(self.webhook)} {self.channel}".rstrip()

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if wrong := url_fault(self.webhook):
            yield ("webhook",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        answer = await post(self.webhook, self.body(parcel), parcel, tools, private=self.private)
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        title = escaped(cut(parcel.title, _MOST_TITLE))
        if message.url:
            # In Slack's markup a bar or an angle bracket would end the link.
            title = f"<{message.url.replace('|', '%7C').replace('>', '%3E').replace('<', '%3C')}|{title}>"
        head = " ".join(part for part in (self.mention, f"*{title}*" if title else "") if part)
        text = escaped(cut(parcel.text, _MOST_TEXT))
        body: dict[str, object] = {"text": head or text}
        if head and text:
            fallback = cut(parcel.title, _MOST_TITLE)
            body["attachments"] = [{"color": _COLOURS[message.severity], "text": text, "fallback": fallback}]
        for name in ("channel", "username", "icon_emoji"):
            if value := getattr(self, name):
                body[name] = value
        return body


def escaped(text: str) -> str:
    """Return text in which Slack sees no markup that notifies people or makes links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
