"""Feishu (飞书) and Lark: a robot of a group, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import ClassVar, cast

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import coded, post, url_fault
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut
from dogwatch.words import words

_COLOURS = {"info": "blue", "warning": "orange", "error": "red", "critical": "carmine"}
# Too often.
_BUSY = frozenset({9499, 11232})
_MOST_TEXT = 15_000


class FeishuChannel(Channel, frozen=True, kw_only=True):
    """Writes to a group of Feishu or Lark as its robot.

    webhook: the robot's address, a secret. secret: of its signature, where that is set.
    """

    kind: ClassVar[str] = "feishu"
    short: ClassVar[str] = "webhook"
    webhook: Secret
    secret: Secret = ""

    def address(self) -> str:
        return shown_url(self.webhook)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if wrong := url_fault(self.webhook):
            yield ("webhook",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        answer = await post(self.webhook, self.body(parcel), parcel, tools, secrets=[self.secret])
        coded(answer, field="code", busy=_BUSY, secrets=[self.webhook, self.secret])
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        elements: list[dict[str, object]] = []
        if parcel.text:
            # Plain: markup of a message's text must name nobody.
            text = {"tag": "plain_text", "content": cut(parcel.text, _MOST_TEXT)}
            elements.append({"tag": "div", "text": text})
        if message.url:
            button = {"tag": "plain_text", "content": words(parcel.language).say("Open")}
            action = {"tag": "button", "text": button, "url": message.url, "type": "default"}
            elements.append({"tag": "action", "actions": [action]})
        title = {"tag": "plain_text", "content": cut(parcel.title or message.type, 250)}
        card = {
            "config": {"wide_screen_mode": True},
            "header": {"title": title, "template": _COLOURS[message.severity]},
            "elements": elements,
        }
        body: dict[str, object] = {"msg_type": "interactive", "card": card}
        if self.secret:
            timestamp = int(parcel.now_s)
            body |= {"timestamp": str(timestamp), "sign": signature(self.secret, timestamp)}
        return body


def signature(secret: str, timestamp_s: int) -> str:
    """Return the signature of a time: time and secret are the key, and nothing is signed.

    Source: "Custom bot guide: signature verification", Feishu's documentation.
    """
    return base64.b64encode(hmac.digest(f"{timestamp_s}\n{secret}".encode(), b"", hashlib.sha256)).decode()
