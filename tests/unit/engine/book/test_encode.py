"""Definitions of jobs as they lie on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import pytest
from tests.runs import ACTIONS, Nothing, job

from dogwatch.core.component import Registry
from dogwatch.core.units import Secret
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.engine.book.encode import Decoder, encode, refill
from dogwatch.engine.spec import Concurrency, JobSpec, Parameter, RateLimit, Retry, StepSpec
from dogwatch.errors import PermanentError


class Login(msgspec.Struct, frozen=True, kw_only=True):
    user: str = ""
    password: Secret = ""


class Nested(Action, frozen=True, kw_only=True):
    """Holds other actions, in every way that a field can."""

    kind: ClassVar[str] = "nested"
    do: Action
    maybe: Action | None = None
    several: Sequence[Action] = ()
    steps: Sequence[StepSpec] = ()
    named: Mapping[str, Action] = {}
    login: Login = Login()
    over: list[Any] | str = ""

    def plan(self) -> Change:
        return Change(summary="nest")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        return Outcome()


KINDS: Registry[Action] = Registry("action", Nothing, Nested)


def _whole() -> JobSpec:
    inner = Nested(do=Nothing(text="deep"), maybe=Nothing(), over=[1, {"a": None}])
    nested = Nested(
        do=inner,
        several=[Nothing(text="a"), inner],
        steps=(StepSpec(name="in", action=Nothing(), needs=[], timeout=5.0),),
        named={"x": Nothing(text="n")},
        over="{{ params.hosts }}",
    )
    return job(
        "whole",
        StepSpec(name="a", action=nested, retry=Retry(attempts=3), when="true", outputs={"o": "result.x"}),
        StepSpec(name="b", action=Nothing(text="é {{ x }}"), needs=["a"], always=True, after_crash="fail"),
        doc="text",
        parameters={"p": Parameter(type="integer", default=3, min=1.0, choices=[1, 3])},
        env={"A": "b"},
        timeout=7.5,
        on_error="collect",
        concurrency=Concurrency(key="k", limit=2, policy="replace"),
        locks=["l"],
        rate=RateLimit(max=2, per=3.0),
        priority=-4,
        labels={"x": "y"},
        worker={"gpu": "yes"},
        keep=60.0,
    )


def test_what_was_written_is_read() -> None:
    spec = _whole()
    again = Decoder(KINDS).decode(encode(spec))
    assert msgspec.structs.replace(again, steps=[]) == msgspec.structs.replace(spec, steps=[])
    assert encode(again) == encode(spec)
    assert again.steps[1] == spec.steps[1]
    action = again.steps[0].action
    assert isinstance(action, Nested)
    assert isinstance(action.do, Nested)
    assert action.do.do == Nothing(text="deep")
    assert list(action.steps) == [StepSpec(name="in", action=Nothing(), needs=[], timeout=5.0)]


def test_what_users_write_is_never_an_action() -> None:
    spec = job("j", StepSpec(name="one", action=Nested(do=Nothing(), over=[{"$action": "nothing"}])))
    action = Decoder(KINDS).decode(encode(spec)).steps[0].action
    assert isinstance(action, Nested)
    assert action.over == [{"$action": "nothing"}]


def test_secrets_are_left_out_and_filled_in_again() -> None:
    spec = job(
        "s",
        StepSpec(name="one", action=Nested(do=Nothing(), login=Login(user="u", password="hunter2"))),
        secrets={"key": "s3cret"},
    )
    body = encode(spec)
    assert b"hunter2" not in body
    assert b"s3cret" not in body
    read = Decoder(KINDS).decode(body)
    assert read.secrets == {"key": ""}
    rotated = job("s", StepSpec(name="one", action=Nested(do=Nothing(), login=Login(user="v", password="new"))))
    action = refill(read, rotated).steps[0].action
    assert isinstance(action, Nested)
    assert action.login == Login(user="u", password="new")
    assert refill(read, None) is read
    assert refill(read, job("s", StepSpec(name="one", action=Nothing()))).steps[0].action == read.steps[0].action


def test_the_same_job_is_the_same_text() -> None:
    first, second = job(labels={"a": "1", "b": "2"}), job(labels={"b": "2", "a": "1"})
    assert encode(first) == encode(second)


def test_a_definition_of_another_version_is_read_as_far_as_it_goes() -> None:
    body = json.loads(encode(job()))
    body["later"] = {"x": 1}
    body["steps"][0]["action"]["later"] = True
    assert Decoder(ACTIONS).decode(json.dumps(body).encode()) == job()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body["steps"][0]["action"].update({"$action": "gone"}),
        lambda body: body["steps"][0].pop("name"),
        lambda body: body.update(timeout="soon"),
        lambda body: body.update(steps=[{"name": "x", "action": {}}]),
    ],
)
def test_what_cannot_be_read_says_so(spoil: Any) -> None:
    body = json.loads(encode(job(timeout=5.0)))
    spoil(body)
    with pytest.raises(PermanentError):
        Decoder(ACTIONS).decode(json.dumps(body).encode())
