"""DingTalk (钉钉): a robot of a group, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import ClassVar, cast
from urllib.parse import quote

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import coded, post, url_fault
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut

# Too often, and its own "busy".
_BUSY = frozenset({-1, 130101, 130102, 410100})
_MOST_TEXT = 15_000


class DingtalkChannel(Channel, frozen=True, kw_only=True):
    """Writes to a group of DingTalk as its robot.

    token: what follows access_token= in the robot's address. secret: of its setting "signature", SEC…; "" where it is
    kept by a keyword or an address range. mention: mobile numbers that are named; all for everybody. url: of the API.
    """

    kind: ClassVar[str] = "dingtalk"
    token: Secret
    secret: Secret = ""
    mention: tuple[str, ...] = ()
    url: str = "https://oapi.dingtalk.com/robot/send"

    def address(self) -> str:
        return shown_url(self.url)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.token.strip() or "://" in self.token:
            yield ("token",), "is empty, or an address", "it is what follows access_token= in the robot's address"
        if self.secret and not self.secret.startswith("SEC"):
            yield ("secret",), "is no secret of a signature", "it begins with SEC"
        if wrong := url_fault(self.url):
            yield ("url",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        url = f"{self.url}?access_token={quote(self.token, safe='')}"
        if self.secret:
            timestamp = round(parcel.now_s * 1000)
            url += f"&timestamp={timestamp}&sign={quote(signature(self.secret, timestamp), safe='')}"
        secrets = [self.token, self.secret]
        answer = await post(url, self.body(parcel), parcel, tools, secrets=secrets)
        coded(answer, field="errcode", busy=_BUSY, secrets=secrets)
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        title = cut(" ".join((parcel.title or message.type).split()), 250)
        numbers = [one for one in self.mention if one != "all"]
        named = " ".join(f"@{one}" for one in numbers)
        link = f"[Dogwatch]({message.url})" if message.url else ""
        text = cut(parcel.text, _MOST_TEXT).replace("\n", "  \n")
        parts = (f"#### {title}", text, link, named)
        return {
            "msgtype": "markdown",
            "markdown": {"title": title, "text": "\n\n".join(part for part in parts if part)},
            "at": {"atMobiles": numbers, "isAtAll": "all" in self.mention},
        }


def signature(secret: str, timestamp_ms: int) -> str:
    """Return the signature of a time. Source: "Custom robot: signature", DingTalk's documentation."""
    text = f"{timestamp_ms}\n{secret}"
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha256)).decode()
