"""Messages in the language of who gets them: what Dogwatch says, and nothing of what others wrote."""

from __future__ import annotations

import pytest

from dogwatch.notify.channels.ntfy import NtfyChannel
from dogwatch.notify.message import Message, MessageState, OutboxRow
from dogwatch.notify.section import Destination
from dogwatch.notify.sender import Route
from dogwatch.words import LANGUAGES, Language

TITLE = "#42 opened: db-1 is down: timeout; explains 3 more"


def parcel_of(message: Message, language: Language, **fields: str) -> tuple[str, str]:
    channel = NtfyChannel(topic="ops")
    spec = Destination(channel=channel, language=language, **fields)  # type: ignore[arg-type]
    row = OutboxRow(
        message_id="msg_1",
        destination="ops",
        message=message,
        state=MessageState.SENDING,
        created_s=0.0,
        since_s=0.0,
        due_s=0.0,
    )
    parcel = Route("ops", spec).parcel(row, 1.0)
    assert parcel.language == (message.language or language)
    return parcel.title, parcel.text


def test_an_incident_is_told_in_the_destinations_language() -> None:
    text = f"{TITLE}\ntimeout\nsince 2026-01-05T03:10:00Z"
    message = Message(to=("ops",), type="incident.opened", title=TITLE, text=text)
    assert parcel_of(message, "en") == (message.title, message.text)
    title, text = parcel_of(message, "zh")
    assert title == "#42 已打开：db-1 故障：超时；另外解释了 3 个"
    assert text.split("\n") == [title, "超时", "自 2026-01-05T03:10:00Z 起"]


def test_several_notices_in_one_are_counted() -> None:
    text = "#1 opened: a is down\n#2 resolved: b is down\nand 7 more"
    message = Message(to=("ops",), type="incident.many", title="9 notices: 8 opened, 1 resolved", text=text)
    title, text = parcel_of(message, "zh")
    assert title == "9 条通知：已打开 8，已解决 1"
    assert text == "#1 已打开：a 故障\n#2 已解决：b 故障\n以及另外 7 个"


def test_templates_get_it_in_that_language() -> None:
    message = Message(to=("ops",), type="notify.test", title="Test from Dogwatch", text="x")
    assert parcel_of(message, "zh", title="[{{ severity }}] {{ title }}")[0] == "[info] 来自 Dogwatch 的测试"


@pytest.mark.parametrize("kind", ["job.message", "run.failed"])
def test_what_jobs_and_people_wrote_stays(kind: str) -> None:
    message = Message(to=("ops",), type=kind, title="timeout", text="since yesterday")
    assert parcel_of(message, "zh") == ("timeout", "since yesterday")


def test_what_is_in_a_language_already_is_not_said_twice() -> None:
    message = Message(to=("ops",), type="incident.opened", title="timeout", text="timeout", language="en")
    assert parcel_of(message, "zh") == ("timeout", "timeout")


def test_every_language_can_be_configured() -> None:
    assert set(Language.__args__) == set(LANGUAGES)  # type: ignore[attr-defined]
