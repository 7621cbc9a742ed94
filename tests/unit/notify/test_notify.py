"""Destinations in the configuration, templates, the decision after an attempt, and the action `notify`."""

from __future__ import annotations

import asyncio
import copy
import random
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hooking import Fixed

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SourceFile
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.section import Section
from dogwatch.core.clock import ManualClock
from dogwatch.engine.action import Outcome
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.errors import ConfigError, NotFound, PermanentError, TransientError
from dogwatch.notify import outbox
from dogwatch.notify.action import NotifyAction
from dogwatch.notify.channel import Channel, Held, Receipt, Tools
from dogwatch.notify.channels.email import EmailChannel
from dogwatch.notify.channels.slack import SlackChannel
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Enqueued, Message, MessageState, OutboxRow, Parcel, masked
from dogwatch.notify.notify import Notify
from dogwatch.notify.section import NOTIFY, Destination, Patience, SendRate
from dogwatch.notify.sender import PAUSE_CAP_S, Route, Sender, ending_of
from dogwatch.notify.tables import notify_tables
from dogwatch.notify.templates import MAX_TEXT, TemplateError, compile_template, variables
from dogwatch.notify.view import Outbox
from dogwatch.notify.window import Window
from dogwatch.store.state_sqlite import open_sqlite

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


def test_steps_that_tell_nobody_are_configuration_errors() -> None:
    inner = MapAction(over=[1], do=NotifyAction(to=("opps",)))
    job = JobSpec(
        name="deploy",
        steps=[
            StepSpec(name="tell", action=NotifyAction(to=("ops", "{{ params.who }}"))),
            StepSpec(name="each", action=inner),
        ],
    )
    jobs: Section[list[JobSpec]] = Section(key="jobs", type=list[JobSpec], doc="", default=list)
    notify = Notify(None, clock=ManualClock(), spawn=lambda *_: None, jobs=jobs)  # type: ignore[arg-type, return-value]
    ops = {"ops": Destination(channel=SlackChannel(webhook="https://x.example"))}
    with pytest.raises(ConfigError) as error:
        notify.prepare(Fixed(jobs=[job], notify=ops))
    (problem,) = error.value.problems
    assert (problem.path, problem.hint) == ("jobs[0].steps[1].map.notify.to[0]", "did you mean 'ops'?")
    notify.prepare(Fixed(jobs=[job], notify={**ops, "opps": ops["ops"]}))


class Known(Channel, frozen=True, kw_only=True):
    """Is down for an hour, and keeps what it was sent."""

    kind: ClassVar[str] = "known"
    clock: ManualClock
    until_s: float
    seen: list[tuple[float, int]]

    def address(self) -> str:
        return "here"

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        number = parcel.message.data["n"]
        self.seen.append((self.clock.now_s(), number))
        if self.clock.now_s() < self.until_s:
            raise Held("connection refused")
        return Receipt()


async def test_an_endpoint_that_is_down_for_an_hour(tmp_path: Path) -> None:
    """Nothing is lost, the order is kept, it is not hammered meanwhile, and no storm comes after. By the clock of the
    database, which is moved by hand.
    """
    clock = ManualClock()
    began_s = clock.now_s()
    database = await open_sqlite(tmp_path / "state.db", (access_tables(), notify_tables()), clock)
    channel = Known(clock=clock, until_s=began_s + 3600.0, seen=[])
    spec = Destination(channel=channel, rate=SendRate(max=30, per=60.0))
    sender = Sender(database, None, owner="me", clock=clock, random=random.Random(3).random)  # type: ignore[arg-type]
    sender.use({"ops": Route("ops", spec)})
    ids, sent = Ids("msg"), 0
    try:
        while clock.now_s() < began_s + 5400.0:
            if sent < 200 and clock.now_s() - began_s >= sent * 18.0:
                message = Message(to=("ops",), type="t", data={"n": sent})
                await database.write(lambda tx, m=message: outbox.enqueue(tx, ids, m))
                sent += 1
            wait_s = await sender._round()
            while sender.running:
                await asyncio.gather(*sender._tasks)
            clock.advance(min(max(wait_s, 0.05), 1.0))
        states = await database.read(outbox.counts)
    finally:
        await database.close()
    assert states == {("ops", "delivered"): 200}
    knocks = [number for time_s, number in channel.seen if time_s < channel.until_s]
    delivered = [number for time_s, number in channel.seen if time_s >= channel.until_s]
    assert len(knocks) < 250
    # Whichever message it was that knocked when the destination came back went first; all the others in their order.
    first, *others = delivered
    assert sorted([first, *others]) == list(range(200))
    assert others == sorted(others)
    # At most the rate, from the moment it is back.
    times = [time_s for time_s, _ in channel.seen if time_s >= channel.until_s]
    assert all(later - earlier >= 60.0 for earlier, later in zip(times, times[30:], strict=False))


@given(st.lists(st.floats(0, 3), min_size=1, max_size=80), st.integers(1, 7), st.floats(0.5, 5))
def test_a_window_holds_in_every_period(steps: list[float], most: int, per_s: float) -> None:
    window, now_s, taken = Window(most, per_s), 0.0, []
    for step in steps:
        now_s += step
        wait_s = window.take(now_s)
        if wait_s == 0.0:
            taken.append(now_s)
        else:
            assert len(taken) >= most
            # Asked of a copy: a window forgets what is over at the time that it is asked about.
            assert copy.deepcopy(window).wait_s(now_s + wait_s + 1e-6) == 0.0
    assert all(later - earlier >= per_s for earlier, later in zip(taken, taken[most:], strict=False))
