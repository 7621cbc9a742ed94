"""A signed webhook, as Standard Webhooks has it: any program can check who sent it and that it is not a replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, cast

import msgspec

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import HttpRequest, shown_url
from dogwatch.engine.values import Json
from dogwatch.notify import standard
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import ask, url_fault
from dogwatch.notify.message import Parcel, iso_time

_OWN_HEADERS = frozenset({"content-type", "content-length", "host", "transfer-encoding", "connection"})


class WebhookChannel(Channel, frozen=True, kw_only=True):
    """Posts the message as JSON, signed as Standard Webhooks has it; the id stays the same over retries.

    url: where to; not shown, since addresses of webhooks are often their own secret. secrets: `whsec_…`, the newest
    first; every one signs, so that the other side can change over. unsigned: send without any. headers: sent as well.
    private: whether the address may be of this machine or a private network. ca_file: further trust.
    """

    kind: ClassVar[str] = "webhook"
    texts: ClassVar[bool] = False
    url: Secret
    secrets: tuple[Secret, ...] = ()
    unsigned: bool = False
    headers: Mapping[str, Secret] = {}
    private: bool = True
    ca_file: str = ""

    def address(self) -> str:
        return shown_url(self.url)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if wrong := url_fault(self.url):
            yield ("url",), wrong, ""
        if not self.secrets and not self.unsigned:
            hint = "'dogwatch notify secret' makes one; or say unsigned: true"
            yield ("secrets",), "is empty: nobody could tell that a message is ours", hint
        for index, secret in enumerate(self.secrets):
            try:
                size = len(standard.parse_secret(secret))
            except ValueError as error:
                yield ("secrets", index), str(error), ""
                continue
            if not standard.LEAST_SECRET <= size <= standard.MOST_SECRET:
                yield ("secrets", index), f"must be {standard.LEAST_SECRET} to {standard.MOST_SECRET} bytes", ""
        for name in self.headers:
            if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
                yield ("headers", name), "is set by Dogwatch itself", ""

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", msgspec.json.decode(payload(parcel)))

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        body = payload(parcel)
        keys = [standard.parse_secret(secret) for secret in self.secrets]
        # Whoever subscribed chose the address: it is none of this network's, and gets no headers of the destination's.
        other = next(iter(parcel.message.recipients), "")
        request = HttpRequest(
            url=other or self.url,
            method="POST",
            headers=[
                ("Content-Type", "application/json"),
                *(() if other else self.headers.items()),
                *standard.headers(keys, parcel.message_id, parcel.now_s, body),
            ],
            body=body,
            timeout_s=parcel.timeout_s,
            body_limit=4096,
            private=self.private and not other,
            ca_file=self.ca_file,
        )
        answer = await ask(request, tools)
        return Receipt(detail=f"answered {answer.status}")


def payload(parcel: Parcel) -> bytes:
    """Return the body: type, timestamp (of the event, not of the attempt) and data. The same for every attempt."""
    message = parcel.message
    data = dict(message.data)
    for name in ("title", "text", "severity", "url", "labels"):
        if value := getattr(message, name):
            data.setdefault(name, value)
    return msgspec.json.encode(
        {"type": message.type, "timestamp": iso_time(parcel.created_s), "data": data}, order="deterministic"
    )
