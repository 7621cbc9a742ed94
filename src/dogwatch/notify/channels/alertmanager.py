"""Prometheus Alertmanager's API, version 2: our incidents are alerts there, routed as all others are."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, cast

from dogwatch.core.units import Seconds, Secret
from dogwatch.engine.http_types import shown_url
from dogwatch.engine.values import Json
from dogwatch.errors import DogwatchError
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import post, url_fault
from dogwatch.notify.message import Parcel, iso_time
from dogwatch.notify.templates import cut

_ENDED = ("incident.resolved", "incident.merged")
_NAME = re.compile(r"[^a-zA-Z0-9_]")


class AlertmanagerChannel(Channel, frozen=True, kw_only=True):
    """Posts alerts to Alertmanager; an incident that ends resolves its alert.

    urls: of all members of a cluster, `http://alertmanager:9093`; each gets every alert, as Prometheus does it.
    labels: of every alert. keep: how long an alert lasts there unless it is told again. token: where it wants
    one. user, password: where it wants these.
    """

    kind: ClassVar[str] = "alertmanager"
    short: ClassVar[str] = "urls"
    urls: tuple[str, ...]
    labels: Mapping[str, str] = {}
    keep: Seconds = 86_400.0
    token: Secret = ""
    user: str = ""
    password: Secret = ""

    def address(self) -> str:
        return ", ".join(shown_url(url) for url in self.urls)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.urls:
            yield ("urls",), "names no Alertmanager", ""
        for at, url in enumerate(self.urls):
            if wrong := url_fault(url):
                yield ("urls", at), wrong, ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        headers: list[tuple[str, str]] = []
        if self.token:
            headers.append(("Authorization", f"Bearer {self.token}"))
        elif self.user:
            given = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers.append(("Authorization", f"Basic {given}"))
        taken, failed = 0, list[DogwatchError]()
        for url in self.urls:
            try:
                await post(
                    f"{url.rstrip('/')}/api/v2/alerts",
                    [self.alert(parcel)],
                    parcel,
                    tools,
                    secrets=[self.token, self.password],
                    headers=headers,
                )
                taken += 1
            except DogwatchError as error:
                failed.append(error)
        # Members of a cluster tell each other what they know of silences and notices, but not of alerts: one that was
        # not there learns of this alert when it is told again.
        if not taken:
            raise failed[0]
        return Receipt(detail=f"taken by {taken} of {len(self.urls)}")

    def content(self, parcel: Parcel) -> Json:
        return cast("Json", [self.alert(parcel)])

    def alert(self, parcel: Parcel) -> dict[str, object]:
        message = parcel.message
        data = message.data
        own = {
            "alertname": str(data.get("rule") or message.type),
            "severity": message.severity,
            "instance": str(data.get("root") or ""),
            "incident": str(data.get("number") or ""),
        }
        # What it is told by must be the same when it ends, so that it is the same alert there.
        if "number" in data:
            own.pop("severity")
        labels = {_NAME.sub("_", name): value for name, value in message.labels.items()}
        begun = str(data.get("opened") or iso_time(parcel.created_s))
        ended = parcel.created_s if message.type in _ENDED else parcel.now_s + self.keep
        alert: dict[str, object] = {
            "labels": {name: value for name, value in {**labels, **own, **self.labels}.items() if value},
            "annotations": {
                "summary": cut(parcel.title, 1000),
                "description": cut(parcel.text, 8000),
                "severity": message.severity,
            },
            "startsAt": begun,
            "endsAt": iso_time(ended),
        }
        if message.url:
            alert["generatorURL"] = message.url
        return alert
