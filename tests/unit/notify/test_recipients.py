"""A message with recipients of its own: a destination's server, sender and secrets are used, and nothing else of it."""

from __future__ import annotations

import msgspec
import pytest
from tests.contract.test_channels import parcel

from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.errors import DogwatchError
from dogwatch.notify.channels.email import EmailChannel
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.message import Message
from dogwatch.notify.standard import new_secret


class Tools:
    def __init__(self) -> None:
        self.asked: list[HttpRequest] = []

    async def request(self, request: HttpRequest) -> HttpResponse:
        self.asked.append(request)
        raise DogwatchError("enough")


def told(*recipients: str) -> Message:
    return msgspec.structs.replace(parcel().message, recipients=recipients)


def test_a_mail_goes_to_them_and_not_to_the_destinations_own() -> None:
    channel = EmailChannel(host="mail.example", sender="Status <s@example.org>", to=("ops@example.org",))
    letter = channel.letter(parcel(message=told("ann@example.org")))
    assert letter["To"] == "ann@example.org"
    assert letter["From"] == "Status <s@example.org>"
    assert "ops@example.org" not in letter.as_string()
    assert channel.letter(parcel())["To"] == "ops@example.org"


async def test_a_webhook_goes_to_a_public_address_without_our_headers() -> None:
    channel = WebhookChannel(
        url="https://own.example/x", secrets=(new_secret(),), headers={"authorization": "Bearer own"}
    )
    tools = Tools()
    for message in (told("https://theirs.example/hook"), told()):
        with pytest.raises(DogwatchError):
            await channel.send(parcel(message=message), tools)
    theirs, own = tools.asked
    assert theirs.url == "https://theirs.example/hook"
    assert not theirs.private
    assert "authorization" not in {name.lower() for name, _value in theirs.headers}
    assert "webhook-signature" in {name.lower() for name, _value in theirs.headers}
    assert own.url == "https://own.example/x"
    assert own.private
    assert ("authorization", "Bearer own") in list(own.headers)
