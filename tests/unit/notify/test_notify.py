"""Destinations in the configuration, templates, the decision after an attempt, and the action `notify`."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.access.actor import Actor
from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SourceFile
from dogwatch.config.load import Loaded, Loader
from dogwatch.engine.action import Outcome
from dogwatch.errors import ConfigError, NotFound, PermanentError, TransientError
from dogwatch.notify.action import NotifyAction
from dogwatch.notify.channel import Held, Receipt
from dogwatch.notify.channels.email import EmailChannel
from dogwatch.notify.channels.slack import SlackChannel
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.message import Enqueued, Message, MessageState, OutboxRow, masked
from dogwatch.notify.section import NOTIFY, Destination, Patience
from dogwatch.notify.sender import PAUSE_CAP_S, Route, ending_of
from dogwatch.notify.templates import MAX_TEXT, TemplateError, compile_template, variables
from dogwatch.notify.view import Outbox

MESSAGE = Message(
    to=("ops",), type="run.failed", title="T", text="X", data={"host": "web-1", "n": 3}, labels={"a": "b"}
)


def load(text: str) -> Loaded:
    loader = Loader([], Catalog([NOTIFY]), environ={})
    return loader.validate(loader.parse_reading(Reading(files=(SourceFile("a.yaml", text.encode()),))))


def faults(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        load(text)
    assert all(problem.line for problem in error.value.problems)
    return {problem.path: problem.message for problem in error.value.problems}


def row(**changes: Any) -> OutboxRow:
    values = {
        "message_id": "msg_1", "destination": "ops", "message": MESSAGE, "state": MessageState.SENDING, "attempts": 1,
        "created_s": 100.0, "since_s": 100.0, "due_s": 100.0,
    }  # fmt: skip
    return OutboxRow(**values | changes)


# -- section ----------------------------------------------------------------------------------------------------------


def test_destinations_as_they_are_written() -> None:
    found = load(
        """
notify:
  ops: {slack: "https://hooks.slack.com/services/x"}
  audit:
    webhook: {url: https://example.org/in, secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]}
    concurrency: 4
    retry: {attempts: 3, max_age: 2h}
    rate: {max: 10, per: 1m}
  night:
    email: {host: mail.example, from: watch@example.org, to: [ada@example.org]}
    title: "[{{ severity }}] {{ title }}"
"""
    ).get(NOTIFY)
    assert found["ops"].channel == SlackChannel(webhook="https://hooks.slack.com/services/x")
    assert isinstance(found["audit"].channel, WebhookChannel)
    assert found["audit"].retry == Patience(attempts=3, max_age=7200.0)
    night = found["night"].channel
    assert isinstance(night, EmailChannel)
    assert night.sender == "watch@example.org"
    assert Route("night", found["night"]).parcel(row(), 0.0).title == "[info] T"


def test_every_mistake_is_told_with_its_place() -> None:
    found = faults(
        """
notify:
  "a b": {slack: "nowhere"}
  hook:
    webhook: {url: "ftp://x", secrets: [whsec_!!]}
    text: x
    timeout: 0s
    rate: {max: 1, per: 0s}
    retry: {base: 10s, cap: 1s}
  mail: {email: {host: mail, from: me, to: [you]}, title: "{{ title"}
  none: {concurrency: 3}
"""
    )
    assert found["notify.none"].startswith("no kind of channel")
    found = faults(
        """
notify:
  "a b": {slack: "nowhere"}
  hook:
    webhook: {url: "ftp://x", secrets: [whsec_!!]}
    text: x
    timeout: 0s
    rate: {max: 1, per: 0s}
    retry: {base: 10s, cap: 1s}
  mail: {email: {host: mail, from: me, to: [you]}, title: "{{ title"}
"""
    )
    paths = {path.removeprefix("notify.") for path in found}
    assert paths >= {
        "hook.webhook.url",
        "hook.webhook.secrets[0]",
        "hook.text",
        "hook.timeout",
        "hook.rate.per",
        "hook.retry.cap",
        "mail.email.from",
        "mail.email.to[0]",
        "mail.title",
    }
    assert "whsec_!!" not in str(found)


# -- templates --------------------------------------------------------------------------------------------------------


def fill(text: str) -> str:
    return compile_template(text)(variables("msg_1", MESSAGE, 1_800_000_000.0))


def test_templates_read_the_message() -> None:
    text = "{{ type }} {{ title }} {{ data.host }} {{ labels.a }} {{ time }} {% for k in data %}{{ k }},{% endfor %}"
    assert fill(text) == "run.failed T web-1 b 2027-01-15T08:00:00Z host,n,"


@pytest.mark.parametrize(
    "text",
    [
        "{{ absent }}",
        "{{ data.absent.more }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ data.update({'a': 1}) }}",
        "{{ 1 / 0 }}",
        "{{ range(10**9) }}",
        "{% include 'x' %}",
    ],
)
def test_templates_that_fail_say_so(text: str) -> None:
    with pytest.raises(TemplateError):
        fill(text)


def test_templates_are_bounded() -> None:
    text = fill("{% for n in range(99999) %}{{ text * 100 }}{% endfor %}")
    assert len(text) <= MAX_TEXT
    with pytest.raises(TemplateError, match="longer"):
        compile_template("x" * 10_000)


def test_a_template_that_fails_never_loses_the_message() -> None:
    route = Route("ops", Destination(channel=SlackChannel(webhook="https://x.example"), text="{{ absent }}"))
    assert route.parcel(row(), 0.0).text == "X"


# -- the decision after an attempt ------------------------------------------------------------------------------------

PATIENCE = Patience(attempts=3, max_age=1000.0, base=2.0, cap=600.0)


def test_endings() -> None:
    done = ending_of(Receipt(detail="answered 200"), row(), PATIENCE, 5.0, 0.5)
    assert (done.state, done.reason, done.failed) == (MessageState.DELIVERED, "answered 200", False)
    wrong = ending_of(PermanentError("no"), row(), PATIENCE, 5.0, 0.5)
    assert (wrong.state, wrong.pause) == (MessageState.DEAD, None)
    again = ending_of(TransientError("later", retry_after_s=9.0), row(failures=1), PATIENCE, 5.0, 0.5)
    # The second failure: half of 2 s doubled once, after what was asked for.
    assert (again.state, again.wait_s, again.failed) == (MessageState.QUEUED, 9.0 + 2.0, True)
    last = ending_of(TransientError("later"), row(failures=2), PATIENCE, 5.0, 0.5)
    assert (last.state, last.reason) == (MessageState.DEAD, "given up after 3 attempts: later")
    old = ending_of(TransientError("later"), row(), PATIENCE, 1000.0, 0.5)
    assert (old.state, old.reason) == (MessageState.DEAD, "given up after 16m40s: later")


def test_a_destination_that_is_down_costs_no_attempt() -> None:
    held = ending_of(Held("gone", retry_after_s=7.0), row(failures=2), PATIENCE, 5.0, 0.25)
    assert (held.state, held.failed, held.wait_s) == (MessageState.QUEUED, False, 0.0)
    assert held.pause is not None
    assert (held.pause.least_s, held.pause.share, held.pause.cap_s) == (7.0, 0.25, PAUSE_CAP_S)
    old = ending_of(Held("gone"), row(), PATIENCE, 1000.0, 0.25)
    assert old.state is MessageState.DEAD
    assert old.pause is not None


@given(
    failures=st.integers(0, 50),
    age_s=st.floats(0, 5000),
    share=st.floats(0, 1, exclude_max=True),
    error=st.sampled_from([TransientError("x"), Held("x"), PermanentError("x"), Receipt()]),
)
def test_no_message_is_tried_for_ever(failures: int, age_s: float, share: float, error: Any) -> None:
    ending = ending_of(error, row(failures=failures), PATIENCE, age_s, share)
    if ending.state is MessageState.QUEUED:
        assert age_s < PATIENCE.max_age
        assert 0 <= ending.wait_s <= PATIENCE.cap
        assert ending.pause is not None or failures + 1 < PATIENCE.attempts
    assert (ending.pause is not None) == isinstance(error, Held)


# -- the action -------------------------------------------------------------------------------------------------------


class FakeOutbox:
    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def send(self, message: Message) -> list[Enqueued]:
        if "nobody" in message.to:
            raise NotFound("no destination is called 'nobody'", hint="did you mean 'ops'?")
        self.sent.append(message)
        return [Enqueued(message_id=f"msg_{name}", destination=name, created=True) for name in message.to]


class FakeScene:
    """What an action is given: secret texts are `hush`."""

    run_id, step, attempt, idempotency_key, job = "r1", "tell", 2, "r1/tell", "deploy"
    actor = Actor(kind="user", name="ada")
    labels = {"team": "shop"}  # noqa: RUF012

    def __init__(self) -> None:
        self.outbox = FakeOutbox()

    def mask(self, text: str) -> str:
        return text.replace("hush", "***")

    def get(self, service: Any) -> Any:
        assert service is Outbox
        return self.outbox


async def test_the_action_puts_a_masked_message_in_the_outbox() -> None:
    scene = FakeScene()
    action = NotifyAction(
        to=("ops", "dev"), title="say hush", text="hush", data={"a": ["hush", {"hush": 1}], "n": 2}, severity="error"
    )
    outcome = await action.apply(scene)  # type: ignore[arg-type]
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"messages": ["msg_ops", "msg_dev"]}
    (message,) = scene.outbox.sent
    assert "hush" not in msgspec.json.encode(message).decode()
    assert message.data == {"job": "deploy", "run_id": "r1", "step": "tell", "a": ["***", {"***": 1}], "n": 2}
    # Every attempt of the step has the same key: the message is not sent twice.
    assert message.dedupe == "r1/tell"
    assert message.labels == {"team": "shop"}


async def test_the_action_names_a_destination_that_is_not_there() -> None:
    with pytest.raises(PermanentError) as error:
        await NotifyAction(to=("nobody",)).apply(FakeScene())  # type: ignore[arg-type]
    assert error.value.hint == "did you mean 'ops'?"


def test_the_action_says_what_it_would_do() -> None:
    change = NotifyAction(to=("ops", "dev"), title="T", text="a\nb").plan()
    assert (change.summary, change.details) == ("tell ops, dev", ("T", "a", "b"))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_masking_keeps_the_shape(value: Any) -> None:
    assert masked(value, lambda text: text) == value


def test_jitter_is_full() -> None:
    chance = random.Random(1)
    waits = [ending_of(TransientError("x"), row(failures=1), PATIENCE, 1.0, chance.random()).wait_s for _ in range(500)]
    assert min(waits) < 0.1
    assert max(waits) > 3.9
