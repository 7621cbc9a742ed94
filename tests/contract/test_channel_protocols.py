"""Channels that speak HTTP against what the services document: what is sent, and what each answer means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import threading
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from tests.receiver import Received, receiving

from dogwatch.errors import DogwatchError, PermanentError, TransientError
from dogwatch.notify.channel import Channel, Held
from dogwatch.notify.channels.alertmanager import AlertmanagerChannel
from dogwatch.notify.channels.apprise import AppriseChannel
from dogwatch.notify.channels.dingtalk import DingtalkChannel
from dogwatch.notify.channels.feishu import FeishuChannel
from dogwatch.notify.channels.ntfy import NtfyChannel
from dogwatch.notify.channels.pagerduty import PagerdutyChannel
from dogwatch.notify.channels.teams import TeamsChannel
from dogwatch.notify.channels.telegram import TelegramChannel
from dogwatch.notify.channels.wecom import WecomChannel
from dogwatch.notify.message import Message, Parcel
from dogwatch.notify.notify import HandyTools

KEY = "s3cr3t-0123456789"
BOT = f"4711:{KEY}"
MAKE: dict[str, Callable[[str], Channel]] = {
    "teams": lambda url: TeamsChannel(webhook=f"{url}/hook/{KEY}"),
    "pagerduty": lambda url: PagerdutyChannel(routing_key=KEY, url=f"{url}/v2/enqueue"),
    "ntfy": lambda url: NtfyChannel(topic="ops-topic", server=url, token=KEY),
    "telegram": lambda url: TelegramChannel(token=BOT, chat="-1001", url=url),
    "wecom": lambda url: WecomChannel(key=KEY, url=f"{url}/cgi-bin/webhook/send", mention=("@all",)),
    "dingtalk": lambda url: DingtalkChannel(token=KEY, secret=f"SEC{KEY}", url=f"{url}/robot/send", mention=("all",)),
    "feishu": lambda url: FeishuChannel(webhook=f"{url}/open-apis/bot/v2/hook/{KEY}", secret=f"sign-{KEY}"),
    "alertmanager": lambda url: AlertmanagerChannel(urls=(url,), token=KEY, labels={"cluster": "x"}),
}
# What each service answers where it took a message.
TAKEN: dict[str, tuple[int, dict[str, str], bytes]] = {
    "teams": (202, {}, b""),
    "pagerduty": (202, {}, b'{"status":"success","message":"Event processed","dedup_key":"x"}'),
    "ntfy": (200, {}, b'{"id":"xyz","time":1,"event":"message","topic":"ops-topic"}'),
    "telegram": (200, {}, b'{"ok":true,"result":{"message_id":1}}'),
    "wecom": (200, {}, b'{"errcode":0,"errmsg":"ok"}'),
    "dingtalk": (200, {}, b'{"errcode":0,"errmsg":"ok"}'),
    "feishu": (200, {}, b'{"code":0,"msg":"success","data":{}}'),
    "alertmanager": (200, {}, b""),
}
# And where it is too much: a status, or a number in the answer.
TOO_MUCH: dict[str, tuple[tuple[int, dict[str, str], bytes], float]] = {
    "teams": ((429, {"Retry-After": "17"}, b""), 17.0),
    "pagerduty": ((429, {"Retry-After": "17"}, b""), 17.0),
    "ntfy": ((429, {"Retry-After": "17"}, b'{"code":42901,"http":429,"error":"limit reached"}'), 17.0),
    "telegram": (
        (429, {}, b'{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":17}}'),
        17.0,
    ),
    "wecom": ((200, {}, b'{"errcode":45009,"errmsg":"api freq out of limit"}'), 60.0),
    "dingtalk": ((200, {}, b'{"errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}'), 60.0),
    "feishu": ((200, {}, b'{"code":11232,"msg":"frequency limited"}'), 60.0),
    "alertmanager": ((429, {"Retry-After": "17"}, b""), 17.0),
}
NEVER: dict[str, tuple[int, dict[str, str], bytes]] = {
    "teams": (400, {}, b"bad card"),
    "pagerduty": (400, {}, f'{{"status":"invalid event","errors":["{KEY} is no key"]}}'.encode()),
    "ntfy": (400, {}, b'{"code":40009,"http":400,"error":"topic name not allowed"}'),
    "telegram": (403, {}, b'{"ok":false,"error_code":403,"description":"Forbidden: bot was blocked by the user"}'),
    "wecom": (200, {}, f'{{"errcode":93000,"errmsg":"invalid webhook url {KEY}"}}'.encode()),
    "dingtalk": (200, {}, b'{"errcode":310000,"errmsg":"sign not match"}'),
    "feishu": (200, {}, b'{"code":19021,"msg":"sign match fail or timestamp is not within one hour"}'),
    "alertmanager": (400, {}, b'"bad labels"'),
}


def parcel(**changes: Any) -> Parcel:
    message = Message(
        to=("ops",), type="incident.opened", title="#7 opened: db <is> down", text="timeout\nsince 08:00 @all",
        severity="critical", data={"number": 7, "root": "db", "rule": "target-down", "opened": "2027-01-15T08:00:00Z"},
        labels={"team": "shop"}, url="https://watch.example/incidents/7",
    )  # fmt: skip
    values = {
        "message_id": "msg_1", "destination": "ops", "message": message, "title": message.title,
        "text": message.text, "created_s": 1_800_000_000.0, "now_s": 1_800_000_007.5, "attempt": 2, "timeout_s": 5.0,
    }  # fmt: skip
    return Parcel(**values | changes)


def ended() -> Parcel:
    message = msgspec.structs.replace(parcel().message, type="incident.resolved", severity="info")
    return parcel(message=message)


@pytest.fixture
async def tools() -> AsyncIterator[HandyTools]:
    made = HandyTools()
    yield made
    await made.close()


async def sent(kind: str, tools: HandyTools, what: Parcel | None = None) -> Received:
    async with receiving(answer=lambda _request: TAKEN[kind]) as receiver:
        await MAKE[kind](receiver.url).send(what or parcel(), tools)
    [request] = receiver.requests
    assert request.headers["content-type"].startswith("application/json")
    return request


@pytest.mark.parametrize("kind", list(MAKE))
@pytest.mark.parametrize("text", ["", "x" * 100_000, "a\x00b\ud800".encode("utf-8", "replace").decode(), "<b>&|\n*_`"])
async def test_odd_texts_are_taken(kind: str, text: str, tools: HandyTools) -> None:
    request = await sent(kind, tools, parcel(title=text[:300], text=text))
    assert msgspec.json.decode(request.body)
    assert len(request.body) < 40_000


@pytest.mark.parametrize("kind", list(MAKE))
async def test_too_much_holds_the_destination(kind: str, tools: HandyTools) -> None:
    answer, wait_s = TOO_MUCH[kind]
    async with receiving(answer=lambda _request: answer) as receiver:
        with pytest.raises(Held) as caught:
            await MAKE[kind](receiver.url).send(parcel(), tools)
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize("kind", list(MAKE))
@pytest.mark.parametrize(
    ("status", "error"), [(500, TransientError), (503, Held), (502, Held), (404, TransientError), (301, PermanentError)]
)
async def test_what_goes_wrong_is_told_apart_and_holds_no_secret(
    kind: str, status: int, error: type[DogwatchError], tools: HandyTools
) -> None:
    # A server that says again what it was sent must not bring a secret into a log.
    async with receiving(answer=lambda request: (status, {}, request.path.encode() + request.body)) as receiver:
        channel = MAKE[kind](receiver.url)
        with pytest.raises(error) as caught:
            await channel.send(parcel(), tools)
    assert type(caught.value) is error
    assert KEY not in str(caught.value)
    assert KEY not in caught.value.hint
    assert KEY not in channel.address()


@pytest.mark.parametrize("kind", list(MAKE))
async def test_what_is_refused_for_good_is_not_tried_again(kind: str, tools: HandyTools) -> None:
    async with receiving(answer=lambda _request: NEVER[kind]) as receiver:
        with pytest.raises(PermanentError) as caught:
            await MAKE[kind](receiver.url).send(parcel(), tools)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("kind", list(MAKE))
async def test_nobody_there_is_held_without_a_secret(kind: str, tools: HandyTools) -> None:
    async with receiving() as receiver:
        url = receiver.url
    with pytest.raises(Held) as caught:
        await MAKE[kind](url).send(parcel(), tools)
    assert KEY not in str(caught.value)


async def test_teams_is_sent_an_adaptive_card(tools: HandyTools) -> None:
    body = msgspec.json.decode((await sent("teams", tools)).body)
    assert body["type"] == "message"
    [attachment] = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    content = attachment["content"]
    assert (content["type"], content["version"]) == ("AdaptiveCard", "1.4")
    assert content["body"][0]["text"] == "#7 opened: db <is> down"
    assert content["actions"][0] == {"type": "Action.OpenUrl", "title": "Open", "url": parcel().message.url}


async def test_teams_says_in_a_sentence_that_it_was_too_much(tools: HandyTools) -> None:
    said = (
        b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId"
    )
    async with receiving(answer=lambda _request: (200, {}, said)) as receiver:
        with pytest.raises(Held):
            await MAKE["teams"](receiver.url).send(parcel(), tools)


async def test_pagerduty_opens_and_closes_one_incident(tools: HandyTools) -> None:
    request = await sent("pagerduty", tools)
    body = msgspec.json.decode(request.body)
    assert request.path == "/v2/enqueue"
    assert (body["routing_key"], body["event_action"], body["dedup_key"]) == (KEY, "trigger", "dogwatch-incident-7")
    assert (body["payload"]["source"], body["payload"]["severity"]) == ("db", "critical")
    assert body["payload"]["timestamp"] == "2027-01-15T08:00:00Z"
    assert body["links"] == [{"href": parcel().message.url, "text": "Open in Dogwatch"}]
    body = msgspec.json.decode((await sent("pagerduty", tools, ended())).body)
    assert body == {"routing_key": KEY, "event_action": "resolve", "dedup_key": "dogwatch-incident-7"}


async def test_ntfy(tools: HandyTools) -> None:
    request = await sent("ntfy", tools)
    body = msgspec.json.decode(request.body)
    assert (request.path, request.headers["authorization"]) == ("/", f"Bearer {KEY}")
    assert (body["topic"], body["priority"], body["click"]) == ("ops-topic", 5, parcel().message.url)


async def test_telegram_obeys_no_markup_of_a_message(tools: HandyTools) -> None:
    request = await sent("telegram", tools)
    body = msgspec.json.decode(request.body)
    assert request.path == f"/bot{BOT}/sendMessage"
    assert body["parse_mode"] == "HTML"
    assert "db &lt;is&gt; down" in body["text"]
    assert '<a href="https://watch.example/incidents/7">' in body["text"]


async def test_wecom(tools: HandyTools) -> None:
    request = await sent("wecom", tools)
    body = msgspec.json.decode(request.body)
    assert request.path == f"/cgi-bin/webhook/send?key={KEY}"
    assert body["msgtype"] == "markdown"
    assert "<@all>" in body["markdown"]["content"]
    request = await sent("wecom", tools, parcel(text="长" * 5000))
    assert len(msgspec.json.decode(request.body)["markdown"]["content"].encode()) <= 4096


async def test_dingtalk_is_signed(tools: HandyTools) -> None:
    request = await sent("dingtalk", tools)
    query = parse_qs(urlsplit(request.path).query)
    secret = f"SEC{KEY}"
    # As its documentation has it: time and secret, signed with the secret.
    wanted = hmac.new(secret.encode(), f"1800000007500\n{secret}".encode(), hashlib.sha256).digest()
    assert query == {
        "access_token": [KEY],
        "timestamp": ["1800000007500"],
        "sign": [base64.b64encode(wanted).decode()],
    }
    body = msgspec.json.decode(request.body)
    assert body["at"] == {"atMobiles": [], "isAtAll": True}


async def test_feishu_is_signed(tools: HandyTools) -> None:
    body = msgspec.json.decode((await sent("feishu", tools)).body)
    wanted = hmac.new(f"1800000007\nsign-{KEY}".encode(), b"", hashlib.sha256).digest()
    assert (body["timestamp"], body["sign"]) == ("1800000007", base64.b64encode(wanted).decode())
    assert body["msg_type"] == "interactive"
    assert body["card"]["header"]["template"] == "carmine"


async def test_an_alert_ends_as_the_one_that_began(tools: HandyTools) -> None:
    request = await sent("alertmanager", tools)
    [alert] = msgspec.json.decode(request.body)
    assert (request.path, request.headers["authorization"]) == ("/api/v2/alerts", f"Bearer {KEY}")
    assert alert["labels"] == {
        "alertname": "target-down", "instance": "db", "incident": "7", "team": "shop", "cluster": "x",
    }  # fmt: skip
    assert (alert["startsAt"], alert["endsAt"]) == ("2027-01-15T08:00:00Z", "2027-01-16T08:00:07Z")
    [end] = msgspec.json.decode((await sent("alertmanager", tools, ended())).body)
    assert end["labels"] == alert["labels"]
    assert end["endsAt"] == "2027-01-15T08:00:00Z"


async def test_one_alertmanager_of_a_cluster_is_enough(tools: HandyTools) -> None:
    async with receiving() as gone:
        pass
    async with receiving(answer=lambda _request: TAKEN["alertmanager"]) as receiver:
        channel = AlertmanagerChannel(urls=(gone.url, receiver.url))
        assert (await channel.send(parcel(), tools)).detail == "taken by 1 of 2"
    with pytest.raises(Held):
        await channel.send(parcel(), tools)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is an extra")
async def test_apprise_sends_where_its_address_says(tools: HandyTools) -> None:
    taken: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if len(taken) == 1 else 500)
            self.end_headers()

        def log_message(self, *_args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        channel = AppriseChannel(urls=(f"json://127.0.0.1:{server.server_port}/in",))
        # Loading it takes seconds on a busy machine.
        await channel.send(parcel(timeout_s=60.0), tools)
        assert "db <is> down" in taken[0].decode()
        with pytest.raises(TransientError):
            await channel.send(parcel(), tools)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(PermanentError, match=r"urls\[0\]"):
        await AppriseChannel(urls=(f"nothing://{KEY}",)).send(parcel(), tools)
