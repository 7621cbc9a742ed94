"""ntfy: a topic of ntfy.sh, or of a server of one's own."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Annotated, ClassVar, cast

from msgspec import Meta

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import post, url_fault
from dogwatch.notify.message import Parcel
from dogwatch.notify.templates import cut

_PRIORITY = {"info": 3, "warning": 3, "error": 4, "critical": 5}
_TAGS = {"info": "information_source", "warning": "warning", "error": "rotating_light", "critical": "rotating_light"}
# What is longer becomes a file there.
_MOST_BYTES = 4000


class NtfyChannel(Channel, frozen=True, kw_only=True):
    """Publishes to a topic of ntfy.

    topic: whoever knows it may read it on ntfy.sh, so it is a secret. server: its address. token: where the server
    wants one. user, password: where it wants these. priority: 1 to 5 in place of one by severity. private: whether
    the server may be of a private network.
    """

    kind: ClassVar[str] = "ntfy"
    short: ClassVar[str] = "topic"
    topic: Secret
    server: str = "https://ntfy.sh"
    token: Secret = ""
    user: str = ""
    password: Secret = ""
    priority: Annotated[int, Meta(ge=1, le=5)] | None = None
    private: bool = True

    def address(self) -> str:
        return shown_url(self.server)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.topic.strip() or "/" in self.topic:
            yield ("topic",), "is empty, or holds a slash", ""
        if wrong := url_fault(self.server):
            yield ("server",), wrong, ""
        if self.token and self.user:
            yield ("token",), "stands beside user", "one of them is enough"

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        headers: list[tuple[str, str]] = []
        if self.token:
            headers.append(("Authorization", f"Bearer {self.token}"))
        elif self.user:
            given = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers.append(("Authorization", f"Basic {given}"))
        secrets = [self.topic, self.token, self.password]
        answer = await post(
            self.server.rstrip("/") + "/", self.body(parcel), parcel, tools, secrets=secrets, headers=headers,
            private=self.private,
        )  # fmt: skip
        return Receipt(detail=f"answered {answer.status}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        text = (parcel.text or parcel.title).encode()[:_MOST_BYTES].decode("utf-8", "ignore")
        body: dict[str, object] = {
            "topic": self.topic,
            "title": cut(" ".join(parcel.title.split()), 250),
            "message": text,
            "priority": self.priority or _PRIORITY[message.severity],
            "tags": [_TAGS[message.severity]],
        }
        if message.url:
            body["click"] = message.url
        return body
