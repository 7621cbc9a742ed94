"""Kinds of actions one by one: HTTP, waiting, approval, child jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.acting import START_S, FakeRuns, FakeScene
from tests.action_kinds import CHILD, SECRET, _answer, asking, http, started
from tests.probing import Trust, peer, silent_tcp

from dogwatch.engine.action import Outcome, Wait
from dogwatch.engine.kinds.approve import ApproveAction, asked_of
from dogwatch.engine.kinds.http import LONGEST_RETRY_AFTER_S, HttpAction, retry_after_s
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.values import RunState
from dogwatch.errors import DogwatchError, PermanentError, TransientError


async def sent(path: str = "/", **options: Any) -> dict[str, Any]:
    async with http(path, **options) as one:
        outcome = await one.action.apply(one.scene)
        assert isinstance(outcome, Outcome)
        return dict(outcome.outputs)


async def test_http_sends_what_it_is_told() -> None:
    found = await sent("/a?b=1", query={"c": "d e", "f": "&"}, headers={"X-One": "1"}, form={"x": "a&b"})
    head = found["json"]["head"]
    assert head.startswith("POST /a?b=1&c=d+e&f=%26 HTTP/1.1")
    assert "X-One: 1" in head
    assert "Idempotency-Key: r1.one" in head
    assert "Content-Type: application/x-www-form-urlencoded" in head
    assert found["json"]["body"] == "x=a%26b"
    found = await sent("/", json={"a": [1]}, headers={"Idempotency-Key": "mine", "content-type": "text/x"})
    assert found["json"]["body"] == '{"a":[1]}'
    assert "Idempotency-Key: mine" in found["json"]["head"]
    assert "content-type: text/x" in found["json"]["head"]
    assert "application/json" not in found["json"]["head"]
    found = await sent("/", username="ann", password="pw")
    assert "Authorization: Basic YW5uOnB3" in found["json"]["head"]
    assert "Idempotency-Key" not in found["json"]["head"]
    assert found["json"]["head"].startswith("GET")


async def test_http_outputs_are_bounded() -> None:
    found = await sent("/big", body_limit=1000)
    assert len(found["body"]) == 1000
    assert found["truncated"] is True
    assert found["json"] is None


async def test_http_follows_redirects_as_told() -> None:
    assert (await sent("/move"))["url"].endswith("/there")
    with pytest.raises(PermanentError, match="status 302"):
        await sent("/move", redirects=0)
    assert (await sent("/move", redirects=0, expect="status == 302"))["status"] == 302


@pytest.mark.parametrize(
    ("path", "error", "wait_s"),
    [
        ("/500", TransientError, None),
        ("/503/retry", TransientError, 7.0),
        ("/429/retry", TransientError, 7.0),
        ("/408", TransientError, None),
        ("/404", PermanentError, None),
        ("/400/retry", PermanentError, None),
    ],
)
async def test_http_says_what_is_worth_another_try(path: str, error: type[DogwatchError], wait_s: float | None) -> None:
    with pytest.raises(error) as caught:
        await sent(path)
    assert getattr(caught.value, "retry_after_s", None) == wait_s
    assert f"status {path[1:4]}" in str(caught.value)


async def test_http_expectations_are_explained() -> None:
    found = await sent("/201", expect='status == 201 && json.head.startsWith("GET") && headers["content-type"] != ""')
    assert found["status"] == 201
    with pytest.raises(PermanentError, match=r"status 200, and json\.body == .done. was false: json\.body is"):
        await sent("/", expect='json.body == "done"')
    with pytest.raises(PermanentError, match="no such key"):
        await sent("/", expect="json.nothing == 1")


async def test_http_trusts_only_whom_it_is_told_to(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    async with peer(_answer, trust.server()) as port, asking() as scene:
        url = f"https://127.0.0.1:{port}/"
        with pytest.raises(PermanentError, match="certificate"):
            await HttpAction(url=url).apply(scene)
        for options in ({"ca_file": trust.ca_file}, {"verify": False}):
            outcome = await HttpAction(url=url, **options).apply(scene)  # type: ignore[arg-type]
            assert isinstance(outcome, Outcome)


async def test_http_keeps_to_its_time_and_the_attempts() -> None:
    with silent_tcp() as port:
        for timeout, left in ((0.1, 30.0), (30.0, 0.1)):
            async with asking(left_s=left) as scene:
                started = time.monotonic()
                with pytest.raises(TransientError):
                    await HttpAction(url=f"http://127.0.0.1:{port}/", timeout=timeout).apply(scene)
                assert time.monotonic() - started < 20


async def test_http_errors_do_not_show_what_may_be_secret() -> None:
    async with http(f"/404?token={SECRET}") as one:
        with pytest.raises(PermanentError) as caught:
            await one.action.apply(one.scene)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2020 08:00:00 GMT", 0.0),
        ("999999999", LONGEST_RETRY_AFTER_S),
        ("Fri, 15 Jan 9999 08:00:00 GMT", LONGEST_RETRY_AFTER_S),
    ],
)
def test_retry_after(value: str, want: float | None) -> None:
    assert retry_after_s(value, START_S) == want


async def test_a_wait_keeps_its_time_over_a_restart() -> None:
    action, scene = WaitAction(for_="10m"), FakeScene()
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    assert wait.until_s == START_S + 600
    scene.now_s += 400
    again = await action.apply(scene.wake(wait.memory))
    assert isinstance(again, Wait)
    assert again.until_s == START_S + 600
    scene.now_s += 200
    assert isinstance(await action.apply(scene), Outcome)


@pytest.mark.parametrize(
    ("until", "want"),
    [("2027-01-15T09:00:00+01:00", START_S), ("2027-01-15T08:00:05Z", START_S + 5), (f"{START_S + 9}", START_S + 9)],
)
async def test_a_wait_until_a_time(until: str, want: float) -> None:
    result = await WaitAction(until=until).apply(FakeScene(now_s=START_S - 1))
    assert isinstance(result, Wait)
    assert result.until_s == want


async def test_a_wait_is_bounded() -> None:
    with pytest.raises(PermanentError, match="longer than 366d"):
        await WaitAction(until="2099-01-01T00:00:00Z").apply(FakeScene())


async def test_approval_says_whom_it_asks() -> None:
    wait = await ApproveAction(by=["group:ops", "ann"], message="ship?", expires=60).apply(FakeScene())
    assert isinstance(wait, Wait)
    assert wait.note == "approval by group:ops, ann"
    assert wait.memory == {"approve": {"by": ["group:ops", "ann"], "expires_s": START_S + 60, "message": "ship?"}}
    asked = asked_of(msgspec.json.decode(msgspec.json.encode(wait.memory)))
    assert asked is not None
    assert asked.by == ["group:ops", "ann"]
    assert asked_of({"run_id": "x"}) is None
    assert asked_of({"approve": 3}) is None


async def test_an_answer_is_an_output_and_a_rejection_an_error() -> None:
    scene = FakeScene().wake({"approve": {"by": []}}, {"approve": True, "by": "user:ann", "comment": "fine"})
    outcome = await ApproveAction().apply(scene)
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"approved": True, "approved_by": "user:ann", "comment": "fine", "expired": False}
    scene.signal = {"approve": False, "by": "user:bob", "comment": "not today"}
    with pytest.raises(PermanentError, match="rejected by user:bob: not today"):
        await ApproveAction().apply(scene)


@pytest.mark.parametrize("then", ["fail", "approve", "skip"])
async def test_an_answer_that_never_comes(then: Any) -> None:
    action, scene = ApproveAction(expires=60, on_expiry=then), FakeScene()
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    scene.now_s += 60
    scene.wake(wait.memory)
    if then == "fail":
        with pytest.raises(PermanentError, match="nobody answered within 1m"):
            await action.apply(scene)
        return
    outcome = await action.apply(scene)
    assert isinstance(outcome, Outcome)
    assert (outcome.outputs["approved"], outcome.outputs["expired"]) == (then == "approve", True)


async def test_a_job_is_started_once_as_a_child() -> None:
    runs = FakeRuns(CHILD)
    _, _, wait = await started(runs)
    (request,) = runs.started
    assert (request.job, dict(request.parameters), request.parent) == ("child", {"a": 1}, ("r1", "one"))
    assert (str(request.actor), request.key, request.trigger.kind) == ("run:r1", "r1/one/1", "run")
    assert wait.memory == {"run_id": "c1"}
    # Cut off by a crash after it was started: the next attempt finds it.
    _, _, again = await started(runs, attempt=2)
    assert again.memory == {"run_id": "c1"}
    assert len(runs.started) == 1


async def test_a_job_that_failed_is_started_anew_by_the_next_attempt() -> None:
    runs = FakeRuns(CHILD)
    await started(runs)
    for other in ("two", "three", "four"):
        await started(runs, step=other)
    runs.end("c1", RunState.FAILED)
    _, _, wait = await started(runs, attempt=2)
    assert wait.memory == {"run_id": "c5"}
    assert runs.started[-1].key == "r1/one/2"


async def test_a_signal_brings_the_outputs_of_the_child() -> None:
    runs = FakeRuns(CHILD)
    action, scene, wait = await started(runs)
    signal = {"run_id": "c1", "state": "succeeded", "reason": "", "outputs": {"size": 3}}
    outcome = await action.apply(scene.wake(wait.memory, signal))
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"size": 3, "run_id": "c1"}
    # The signal of another run is none.
    assert isinstance(await action.apply(scene.wake(wait.memory, {**signal, "run_id": "c9"})), Wait)


async def test_a_lost_signal_is_made_good_by_looking() -> None:
    runs = FakeRuns(CHILD)
    action, scene, wait = await started(runs)
    runs.end("c1", RunState.SUCCEEDED, outputs={"size": 4})
    outcome = await action.apply(scene.wake(wait.memory))
    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"size": 4, "run_id": "c1"}


@pytest.mark.parametrize(("state", "word"), [(RunState.FAILED, "failed"), (RunState.CANCELLED, "was cancelled")])
async def test_a_child_that_fails_fails_the_step(state: RunState, word: str) -> None:
    runs = FakeRuns(CHILD)
    action, scene, wait = await started(runs)
    runs.end("c1", state, "disk full")
    with pytest.raises(PermanentError, match=f"run c1 of child {word}: disk full"):
        await action.apply(scene.wake(wait.memory))
