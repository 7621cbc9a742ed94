"""PagerDuty's Events API, version 2: incidents open, are acknowledged and close there as they do here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from dogwatch.core.units import Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import decoded, post, url_fault
from dogwatch.notify.message import Parcel, iso_time
from dogwatch.notify.templates import cut
from dogwatch.words import words

_ACTIONS = {
    "incident.resolved": "resolve",
    "incident.merged": "resolve",
    "incident.acked": "acknowledge",
}
_MOST_SUMMARY = 1024
_MOST_TEXT = 20_000


class PagerdutyChannel(Channel, frozen=True, kw_only=True):
    """Sends events to a service of PagerDuty; one incident of ours is one of theirs.

    routing_key: of the service's integration "Events API v2". source: what is said to be broken where a message does
    not say. url: of the API; the European one is https://events.eu.pagerduty.com/v2/enqueue.
    """

    kind: ClassVar[str] = "pagerduty"
    short: ClassVar[str] = "routing_key"
    routing_key: Secret
    source: str = "dogwatch"
    url: str = "https://events.pagerduty.com/v2/enqueue"

    def address(self) -> str:
        return shown_url(self.url)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.routing_key.strip():
            yield ("routing_key",), "is empty", ""
        if wrong := url_fault(self.url):
            yield ("url",), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        answer = await post(self.url, self.body(parcel), parcel, tools, secrets=[self.routing_key])
        return Receipt(detail=f"answered {answer.status} {decoded(answer).get('status', '')}".rstrip())

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", self.body(parcel))

    def body(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        number = message.data.get("number")
        key = f"dogwatch-incident-{number}" if number is not None else parcel.message_id
        action = _ACTIONS.get(message.type, "trigger")
        body: dict[str, object] = {"routing_key": self.routing_key, "event_action": action, "dedup_key": key}
        if action != "trigger":
            return body
        body["payload"] = {
            "summary": cut(parcel.title or parcel.text or message.type, _MOST_SUMMARY),
            "source": str(message.data.get("root") or self.source),
            "severity": message.severity,
            "timestamp": iso_time(parcel.created_s),
            "class": message.type,
            "custom_details": {"text": cut(parcel.text, _MOST_TEXT), "labels": dict(message.labels), **message.data},
        }
        body["client"] = "Dogwatch"
        if message.url:
            body["links"] = [{"href": message.url, "text": words(parcel.language).say("Open in Dogwatch")}]
        return body
