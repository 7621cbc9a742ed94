"""WeCom (企业微信): a robot of a group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import coded, post, url_fault
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut

_COLOURS = {"info": "info", "warning": "warning", "error": "warning", "critical": "warning"}
# Too often; and -1 is its own "busy".
_BUSY = frozenset({-1, 45009, 45033})
_MOST_BYTES = 4000


class WecomChannel(Channel, frozen=True, kw_only=True):
    """Writes to a group of WeCom as its robot.

    key: of the robot, the end of its address. mention: user ids that are named, @all for everybody. url: of the API.
    """

    kind: ClassVar[str] = "wecom"
    short: ClassVar[str] = "key"
    key: Secret
    mention: tuple[str, ...] = ()
    url: str = "https://qyapi.weixin.qq.com/cgi-bin/webhook/send"

    def address(self) -> str:
        return shown_url(self.url)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.key.strip() or not self.key.isprintable() or "://" in self.key:
            yield ("key",), "is empty, or no key", "it is what follows key= in the robot's address"
        if wrong := url_fault(self.url):
            yield ("url",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        answer = await post(f"{self.url}?key={self.key}", self.body(parcel), parcel, tools, secrets=[self.key])
        coded(answer, field="errcode", busy=_BUSY, secrets=[self.key])
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        title = cut(" ".join(parcel.title.split()), 250)
        head = f'<font color="{_COLOURS[message.severity]}">**{title}**</font>' if title else ""
        link = f"[Dogwatch]({message.url})" if message.url else ""
        named = " ".join(f"<@{one.removeprefix('@')}>" for one in self.mention)
        room = _MOST_BYTES - len(f"{head}{link}{named}".encode())
        text = parcel.text.encode()[: max(0, room)].decode("utf-8", "ignore")
        content = "\n".join(part for part in (head, text, link, named) if part)
        return {"msgtype": "markdown", "markdown": {"content": content}}
