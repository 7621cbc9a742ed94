"""Parameters that a run is started with: every mistake at once, text read by type, secrets never shown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.engine.parameters import (
    MAX_BYTES,
    check_parameters,
    hidden_values,
    is_required,
    read_text,
    shown_parameters,
)
from dogwatch.engine.spec import JobSpec, Parameter
from dogwatch.errors import UsageError


def job(**parameters: Parameter) -> JobSpec:
    return JobSpec(name="deploy", steps=[], parameters=parameters)


SPEC = job(
    name=Parameter(doc="who it is for"),
    env=Parameter(choices=["staging", "live"], default="staging"),
    count=Parameter(type="integer", default=1, min=1, max=10),
    ratio=Parameter(type="number", required=False),
    fast=Parameter(type="boolean", default=False),
    hosts=Parameter(type="list", default=[]),
    extra=Parameter(type="map", required=False),
    version=Parameter(pattern="v[0-9]+", required=False),
    token=Parameter(secret=True, required=False),
)


def test_defaults_fill_in_what_is_not_given() -> None:
    assert check_parameters(SPEC, {"name": "x", "count": 3, "ratio": 2}) == {
        "name": "x",
        "env": "staging",
        "count": 3,
        "ratio": 2,
        "fast": False,
        "hosts": [],
        "extra": None,
        "version": None,
        "token": None,
    }


def test_every_mistake_is_told_at_once() -> None:
    given_values = {
        "evn": "live",
        "env": "liev",
        "count": 11,
        "ratio": "half",
        "fast": 1,
        "hosts": {"a": 1},
        "version": "v1x",
        "token": 5,
    }
    with pytest.raises(UsageError) as caught:
        check_parameters(SPEC, given_values)
    assert str(caught.value).splitlines() == [
        "job deploy has no parameter 'evn'",
        "name is missing: text, who it is for",
        'env: "liev" is none of the choices',
        "count: 11 is more than 10",
        'ratio: expected a number, found "half"',
        "fast: expected true or false, found 1",
        'hosts: expected a list, found {"a": 1}',
        'version: "v1x" does not match v[0-9]+',
        "token: expected text, found something else",
    ]
    assert caught.value.hint == "did you mean 'env'?"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "3", "3"),
        ("string", " [1] ", " [1] "),
        ("integer", " 3 ", 3),
        ("integer", "+7", 7),
        ("number", "0.25", 0.25),
        ("number", "4", 4),
        ("number", "1e3", 1000.0),
        ("boolean", "true", True),
        ("boolean", "No", False),
        ("list", '["a", {"b": 1}]', ["a", {"b": 1}]),
        ("list", "a, b", ["a", "b"]),
        ("list", "", []),
        ("map", '{"a": [1]}', {"a": [1]}),
    ],
)
def test_text_is_read_by_type(kind: str, text: str, value: Any) -> None:
    found = read_text(kind, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "3.5"),
        ("integer", "1_000"),
        ("integer", "٣"),
        ("integer", "9" * 400),
        ("number", "nan"),
        ("number", "1_0.0"),
        ("boolean", "maybe"),
        ("map", "{a: 1}"),
        ("list", "[1"),
        ("list", "[" * 5000),
        ("map", "\ud800"),
    ],
)
def test_text_that_cannot_be_read_stays_text_and_is_refused(kind: Any, text: str) -> None:
    assert read_text(kind, text) == text
    with pytest.raises(UsageError, match=r"^x: expected (a|true)"):
        check_parameters(job(x=Parameter(type=kind)), {"x": read_text(kind, text)})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", "a\0b", "contains the character NUL"),
        ("name", "\ud800", "is not proper Unicode text"),
        ("hosts", ["ok", ["\0"]], "contains the character NUL"),
        ("ratio", math.inf, "is not a finite number"),
        ("hosts", [2**70], "is beyond 64 bits"),
        ("extra", {"a": object()}, "cannot hold object"),
        ("extra", {1: 2}, "has a name that is no text"),
        ("count", True, "expected a whole number, found true"),
        ("ratio", False, "expected a number, found false"),
    ],
)
def test_values_that_could_not_be_used_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: {message}"):
        check_parameters(SPEC, {"name": "x", name: value})


def test_values_are_bounded() -> None:
    with pytest.raises(UsageError, match=r"the parameters have \d+ bytes; at most"):
        check_parameters(SPEC, {"name": "x" * MAX_BYTES})
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(UsageError, match="nested deeper than 32 levels"):
        check_parameters(SPEC, {"name": "x", "hosts": deep})


def test_values_of_secrets_are_shown_nowhere() -> None:
    spec = job(pin=Parameter(secret=True, pattern="[0-9]+"), one=Parameter(secret=True, choices=["aaaa", "bbbb"]))
    with pytest.raises(UsageError) as caught:
        check_parameters(spec, {"pin": "hunter2", "one": "hunter2"})
    assert "hunter2" not in str(caught.value) + caught.value.hint
    with pytest.raises(UsageError) as caught:
        check_parameters(job(pin=Parameter(type="map", secret=True)), {"pin": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_secret_values_are_found_and_masked() -> None:
    spec = job(login=Parameter(type="map", secret=True), name=Parameter(), gone=Parameter(secret=True, required=False))
    values = {"login": {"user": "ann", "pins": [4711, True, None]}, "name": "x", "gone": None}
    assert list(hidden_values(spec, values)) == ["ann", "4711"]
    assert shown_parameters(spec, values) == {"login": "***", "name": "x", "gone": None}


def test_what_is_required() -> None:
    assert is_required(Parameter())
    assert is_required(Parameter(required=True))
    assert not is_required(Parameter(default="x"))
    assert not is_required(Parameter(required=False))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*SPEC.parameters, "other"]), JSON))
def test_any_values_are_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        found = check_parameters(SPEC, values)
    except UsageError:
        return
    assert list(found) == list(SPEC.parameters)
    # What was taken is taken again: a rerun starts with it.
    assert check_parameters(SPEC, found) == found
