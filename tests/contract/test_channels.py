"""What every channel promises: a message gets out, and what went wrong is told apart."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult
from tests.receiver import receiving
from tests.smtp import Mailbox, mailbox

from dogwatch.errors import DogwatchError, PermanentError, TransientError
from dogwatch.notify import standard
from dogwatch.notify.channel import Channel, Held
from dogwatch.notify.channels import CHANNELS
from dogwatch.notify.channels.alertmanager import AlertmanagerChannel
from dogwatch.notify.channels.answers import retry_after
from dogwatch.notify.channels.apprise import AppriseChannel
from dogwatch.notify.channels.command import CommandChannel
from dogwatch.notify.channels.dingtalk import DingtalkChannel
from dogwatch.notify.channels.email import EmailChannel
from dogwatch.notify.channels.feishu import FeishuChannel
from dogwatch.notify.channels.ntfy import NtfyChannel
from dogwatch.notify.channels.pagerduty import PagerdutyChannel
from dogwatch.notify.channels.slack import SlackChannel
from dogwatch.notify.channels.teams import TeamsChannel
from dogwatch.notify.channels.telegram import TelegramChannel
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.channels.wecom import WecomChannel
from dogwatch.notify.message import Message, Parcel
from dogwatch.notify.notify import HandyTools

SECRET = standard.new_secret()
# One that is right and one that is wrong for every kind; a new kind has to stand here.
EXAMPLES: dict[str, tuple[Channel, Channel]] = {
    "webhook": (
        WebhookChannel(url="https://example.org/in?key=hidden", secrets=(SECRET,)),
        WebhookChannel(url="example.org", secrets=("whsec_short",), headers={"Webhook-Id": "x"}),
    ),
    "email": (
        EmailChannel(host="mail.example", sender="Dogwatch <watch@example.org>", to=("ops@example.org",)),
        EmailChannel(host=" ", sender="nobody", to=(), tls="none", user="x"),
    ),
    "slack": (SlackChannel(webhook="https://hooks.slack.com/services/hidden"), SlackChannel(webhook="hidden")),
    "command": (CommandChannel(args=("/usr/bin/true",)), CommandChannel(args=())),
    "teams": (TeamsChannel(webhook="https://x.webhook.office.com/hidden"), TeamsChannel(webhook="hidden")),
    "pagerduty": (PagerdutyChannel(routing_key="hidden"), PagerdutyChannel(routing_key=" ", url="events")),
    "ntfy": (NtfyChannel(topic="hidden"), NtfyChannel(topic="a/hidden", token="hidden", user="x")),
    "telegram": (TelegramChannel(token="1:hidden", chat="-100"), TelegramChannel(token="hidden", chat="")),
    "wecom": (WecomChannel(key="hidden"), WecomChannel(key="https://qyapi.example/?key=hidden")),
    "dingtalk": (DingtalkChannel(token="hidden", secret="SEChidden"), DingtalkChannel(token="x", secret="hidden")),
    "feishu": (FeishuChannel(webhook="https://open.feishu.cn/hook/hidden"), FeishuChannel(webhook="hidden")),
    "alertmanager": (AlertmanagerChannel(urls=("http://am:9093",)), AlertmanagerChannel(urls=("am:9093",))),
    "apprise": (AppriseChannel(urls=("ntfy://hidden",)), AppriseChannel(urls=("hidden",))),
}


def parcel(**changes: Any) -> Parcel:
    message = Message(
        to=("ops",), type="run.failed", title="Deploy <failed>", text="line 1\nline 2", severity="error",
        data={"run": "r1"}, url="https://watch.example/runs/r1",
    )  # fmt: skip
    values = {
        "message_id": "msg_1", "destination": "ops", "message": message, "title": message.title,
        "text": message.text, "created_s": 1_800_000_000.0, "now_s": 1_800_000_007.5, "attempt": 2, "timeout_s": 5.0,
    }  # fmt: skip
    return Parcel(**values | changes)


@pytest.fixture
async def tools() -> AsyncIterator[HandyTools]:
    made = HandyTools()
    yield made
    await made.close()


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(CHANNELS.kinds())


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_options_are_checked_and_nothing_secret_is_shown(kind: str) -> None:
    right, wrong = EXAMPLES[kind]
    assert list(right.faults()) == []
    faults = list(wrong.faults())
    assert faults
    assert "whsec_short" not in str(faults)
    assert "hidden" not in right.address()
    assert "hidden" not in str(faults)


# -- webhook ----------------------------------------------------------------------------------------------------------


async def test_a_webhook_is_signed_with_every_secret(tools: HandyTools) -> None:
    other = standard.new_secret()
    async with receiving() as receiver:
        channel = WebhookChannel(url=receiver.url + "/in", secrets=(SECRET, other), headers={"X-Team": "shop"})
        await channel.send(parcel(), tools)
        again = parcel(attempt=3, now_s=1_800_000_100.0)
        await channel.send(again, tools)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "msg_1"
    assert (first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]) == ("1800000007", "1800000100")
    assert first.headers["x-team"] == "shop"
    # The event's time, not the attempt's: the body is the same.
    assert first.body == second.body
    assert msgspec.json.decode(first.body) == {
        "type": "run.failed",
        "timestamp": "2027-01-15T08:00:00Z",
        "data": {
            "run": "r1",
            "title": "Deploy <failed>",
            "text": "line 1\nline 2",
            "severity": "error",
            "url": "https://watch.example/runs/r1",
        },
    }
    wanted = [
        "v1,"
        + base64.b64encode(standard.signature(standard.parse_secret(key), "msg_1", 1800000007, first.body)).decode()
        for key in (SECRET, other)
    ]
    assert first.headers["webhook-signature"].split(" ") == wanted


def test_the_vector_of_standard_webhooks() -> None:
    """Source: the test vector of the specification and of Svix's documentation."""
    key = standard.parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = dict(standard.headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}'))
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert found["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize(
    ("status", "headers", "error", "after_s"),
    [
        (200, {}, None, None),
        (204, {}, None, None),
        (301, {"Location": "http://127.0.0.1:1/"}, PermanentError, None),
        (400, {}, PermanentError, None),
        (410, {}, PermanentError, None),
        (404, {}, TransientError, None),
        (401, {}, TransientError, None),
        (408, {}, TransientError, None),
        (500, {}, TransientError, None),
        (429, {"Retry-After": "17"}, Held, 17.0),
        (503, {"Retry-After": "rubbish"}, Held, None),
        (502, {}, Held, None),
    ],
)
@pytest.mark.parametrize("kind", ["webhook", "slack"])
async def test_what_an_answer_means(
    tools: HandyTools,
    kind: str,
    status: int,
    headers: dict[str, str],
    error: type[DogwatchError] | None,
    after_s: float | None,
) -> None:
    async with receiving(answer=lambda _request: (status, headers)) as receiver:
        channel: Channel = WebhookChannel(url=receiver.url, secrets=(SECRET,))
        if kind == "slack":
            channel = SlackChannel(webhook=receiver.url)
        if error is None:
            assert (await channel.send(parcel(), tools)).detail == f"answered {status}"
            return
        with pytest.raises(error) as caught:
            await channel.send(parcel(), tools)
    assert type(caught.value) is error
    assert getattr(caught.value, "retry_after_s", None) == after_s
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("99999999", 3600.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2021 08:01:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after(text: str, wait_s: float | None) -> None:
    assert retry_after(text, now_s=1_800_000_000.0) == wait_s


@pytest.mark.parametrize("kind", ["webhook", "slack"])
async def test_nobody_there_and_private_addresses(tools: HandyTools, kind: str) -> None:
    async with receiving() as receiver:
        url = receiver.url + "/services/hidden"
    make = lambda **options: (  # noqa: E731
        WebhookChannel(url=url, unsigned=True, **options) if kind == "webhook" else SlackChannel(webhook=url, **options)
    )
    with pytest.raises(Held) as caught:
        await make().send(parcel(), tools)
    assert "hidden" not in str(caught.value)
    with pytest.raises(PermanentError, match="private"):
        await make(private=False).send(parcel(), tools)


# -- slack ------------------------------------------------------------------------------------------------------------


async def test_slack_shows_title_text_and_link_and_obeys_no_markup(tools: HandyTools) -> None:
    async with receiving() as receiver:
        channel = SlackChannel(webhook=receiver.url, channel="#ops", mention="<!here>")
        await channel.send(parcel(text="<!channel> & co"), tools)
    body = msgspec.json.decode(receiver.requests[0].body)
    assert body["text"] == "<!here> *<https://watch.example/runs/r1|Deploy &lt;failed&gt;>*"
    assert body["channel"] == "#ops"
    assert body["attachments"][0]["text"] == "&lt;!channel&gt; &amp; co"


# -- command ----------------------------------------------------------------------------------------------------------


def script(text: str, **options: Any) -> CommandChannel:
    return CommandChannel(args=(sys.executable, "-c", text), **options)


async def test_a_command_is_given_the_message(
    tools: HandyTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("A_SECRET_OF_OURS", "x")
    text = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open(os.environ['OUT'], 'w'))"
    await script(text, env={"OUT": str(out)}).send(parcel(), tools)
    body, environment = msgspec.json.decode(out.read_bytes())
    assert body["data"]["run"] == "r1"
    assert environment["DOGWATCH_TITLE"] == "Deploy <failed>"
    assert environment["DOGWATCH_ID"] == "msg_1"
    assert environment["DOGWATCH_ATTEMPT"] == "2"
    assert "A_SECRET_OF_OURS" not in environment


async def test_exit_status_is_the_answer(tools: HandyTools) -> None:
    await script("pass").send(parcel(), tools)
    for status, error in ((1, TransientError), (75, TransientError), (64, PermanentError), (78, PermanentError)):
        with pytest.raises(error, match="no luck") as caught:
            await script(f"import sys; print('no luck'); sys.exit({status})").send(parcel(), tools)
        assert type(caught.value) is error
    with pytest.raises(PermanentError, match="cannot run"):
        await CommandChannel(args=("/nothing/there",)).send(parcel(), tools)


async def test_a_command_that_says_much_or_reads_nothing_does_no_harm(tools: HandyTools) -> None:
    big = msgspec.structs.replace(parcel().message, data={"x": "y" * 1_000_000})
    await script("print('x' * 5_000_000)").send(parcel(message=big), tools)


async def test_what_a_command_started_is_gone_with_it(tools: HandyTools, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    text = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(note)!r} + '.new', 'w').write(str(child.pid)); os.rename({str(note)!r} + '.new', {str(note)!r})\n"
        "time.sleep(1000)"
    )
    task = asyncio.create_task(script(text).send(parcel(), tools))
    async with asyncio.timeout(60):
        while not note.exists():  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.01)
    child = int(note.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        while _alive(child):  # noqa: ASYNC110 - no child of ours
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# -- email ------------------------------------------------------------------------------------------------------------


def mail(box: Mailbox, **options: Any) -> EmailChannel:
    values = {
        "sender": "Dogwatch <watch@example.org>",
        "to": ("ops@example.org", "Ada <ada@example.org>"),
        "tls": "none",
    }
    return EmailChannel(host="127.0.0.1", port=box.port, **values | options)


async def test_a_letter(tools: HandyTools) -> None:
    async with mailbox() as box:
        receipt = await mail(box).send(parcel(title="Größe\r\nBcc: all@example.org"), tools)
    assert receipt.detail == "taken by 127.0.0.1 for 2"
    assert box.recipients == ["ops@example.org", "ada@example.org"]
    letter = email.message_from_string(box.letters[0], policy=email.policy.default)
    assert letter["Subject"] == "Größe Bcc: all@example.org"
    assert letter["Bcc"] is None
    assert letter["Message-ID"] == "<msg_1@example.org>"
    assert letter["Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert letter.get_content().replace("\r\n", "\n") == "line 1\nline 2\n\nhttps://watch.example/runs/r1\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("implicit", [False, True])
async def test_tls_and_a_password(tools: HandyTools, authority: trustme.CA, tmp_path: Path, implicit: bool) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    tls = "implicit" if implicit else "starttls"
    async with mailbox(implicit=implicit, context=context) as box:
        await mail(box, tls=tls, user="watch", password="secret", ca_file=str(trusted)).send(parcel(), tools)
        assert box.credentials == ["\0watch\0secret"]
        assert implicit or box.seen.index("(tls)") < box.seen.index("AUTH")
        with pytest.raises(Held, match="not trusted"):
            await mail(box, tls=tls).send(parcel(), tools)
        await mail(box, tls=tls, verify=False).send(parcel(), tools)
    assert len(box.letters) == 2


async def test_a_server_without_tls_gets_nothing(tools: HandyTools) -> None:
    async with mailbox() as box:
        with pytest.raises(Held):
            await mail(box, tls="starttls").send(parcel(), tools)
    assert box.letters == []


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ({"CONNECT": "554 go away"}, Held),
        ({"CONNECT": "421 busy"}, Held),
        ({"MAIL": "451 later"}, TransientError),
        ({"MAIL": "550 no"}, PermanentError),
        ({"DATA": "554 spam"}, PermanentError),
        ({"RCPT ops@example.org": "550 who", "RCPT ada@example.org": "550 who"}, PermanentError),
        ({"RCPT ops@example.org": "550 who", "RCPT ada@example.org": "450 later"}, TransientError),
        ({"RCPT ops@example.org": "550 who"}, PermanentError),
    ],
)
async def test_what_a_mail_server_says(tools: HandyTools, replies: dict[str, str], error: type[DogwatchError]) -> None:
    async with mailbox(replies=replies) as box:
        with pytest.raises(error) as caught:
            await mail(box).send(parcel(), tools)
    assert type(caught.value) is error


async def test_a_mail_server_that_hangs_is_left(tools: HandyTools) -> None:
    async with mailbox(replies={"MAIL": "hang"}) as box:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await mail(box).send(parcel(timeout_s=30.0), tools)
        with pytest.raises(Held):
            await mail(box).send(parcel(timeout_s=0.2), tools)
    with pytest.raises(Held, match="no answer"):
        await mail(box).send(parcel(), tools)


async def test_a_real_mail_server_with_tls_and_a_password(
    tools: HandyTools, authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    taken: list[Any] = []

    class Handler:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
            taken.append(envelope)
            return "250 OK"

    def allowed(_server: Any, _session: Any, _envelope: Any, _how: str, given: Any) -> Any:
        right = (given.login, given.password) == (b"watch", b"secret")
        return AuthResult(success=right, handled=False)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Handler(), tls_context=context, auth_required=True, authenticator=allowed, loop=loop),
        "127.0.0.1",
        0,
    )
    try:
        channel = EmailChannel(
            host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls="starttls", user="watch",
            password="secret", ca_file=str(trusted), sender="watch@example.org", to=("ops@example.org",),
        )  # fmt: skip
        await channel.send(parcel(), tools)
        [envelope] = taken
        assert envelope.rcpt_tos == ["ops@example.org"]
        assert email.message_from_bytes(envelope.content)["Message-ID"] == "<msg_1@example.org>"
        with pytest.raises(DogwatchError) as caught:
            await msgspec.structs.replace(channel, password="wrong").send(parcel(), tools)
        assert "wrong" not in str(caught.value)
    finally:
        server.close()
        await server.wait_closed()
