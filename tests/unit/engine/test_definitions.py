"""Definitions with every kind of action survive being written down, without their secrets."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.jobbing import REGISTRY, ShellAction, load_jobs

from dogwatch.engine.action import Action
from dogwatch.engine.book.encode import Decoder, encode
from dogwatch.engine.kinds.approve import ApproveAction
from dogwatch.engine.kinds.exec import ExecAction
from dogwatch.engine.kinds.http import HttpAction
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.map import MapAction
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.spec import Concurrency, JobSpec, Parameter, RateLimit, Retry, StepSpec

TEXT = st.text(max_size=8)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.dictionaries(TEXT, TEXT, max_size=2)
SECONDS = st.floats(0, 1e6)
PLAIN = st.one_of(
    st.builds(ShellAction, run=TEXT, args=st.lists(TEXT, max_size=2), env=NAMES, value=JSON),
    st.builds(ExecAction, run=TEXT, command=st.lists(TEXT, max_size=2).map(tuple), env=NAMES, ok=st.just((0, 3))),
    st.builds(
        HttpAction,
        url=TEXT,
        method=st.sampled_from([None, "GET", "PUT"]),
        headers=NAMES,
        json=JSON,
        form=st.none() | NAMES,
        expect=st.none() | TEXT,
        timeout=SECONDS,
        redirects=st.integers(0, 20),
    ),
    st.builds(WaitAction, for_=st.none() | SECONDS | TEXT, until=st.none() | TEXT),
    st.builds(ApproveAction, by=st.lists(TEXT, max_size=2), expires=st.none() | SECONDS),
    st.builds(JobAction, job=TEXT, parameters=st.dictionaries(TEXT, JSON, max_size=2), wait=st.booleans()),
)
ACTIONS: st.SearchStrategy[Action] = PLAIN | st.builds(MapAction, over=st.lists(JSON, max_size=3) | TEXT, do=PLAIN)
STEPS = st.builds(
    StepSpec,
    name=TEXT,
    action=ACTIONS,
    needs=st.none() | st.lists(TEXT, max_size=2),
    when=st.none() | TEXT,
    always=st.booleans(),
    timeout=st.none() | SECONDS,
    retry=st.builds(Retry, attempts=st.integers(1, 9), on=st.sampled_from(["any", "transient"])),
    outputs=NAMES,
)
JOBS = st.builds(
    JobSpec,
    name=TEXT,
    steps=st.lists(STEPS, max_size=3),
    parameters=st.dictionaries(
        TEXT, st.builds(Parameter, default=JSON, choices=st.lists(JSON, max_size=2)), max_size=2
    ),
    env=NAMES,
    outputs=NAMES,
    concurrency=st.none() | st.builds(Concurrency, key=TEXT),
    rate=st.none() | st.builds(RateLimit, max=st.just(3), per=SECONDS),
    locks=st.lists(TEXT, max_size=2),
    keep=st.none() | SECONDS,
)
DECODER = Decoder(REGISTRY)


def plain(job: JobSpec) -> Any:
    """Return what of a job can be compared: lists and tuples are one."""
    return msgspec.json.decode(msgspec.json.encode([job, [step.action.kind for step in job.steps]]))


@given(JOBS)
@settings(max_examples=150)
def test_a_definition_is_read_as_it_was_written(job: JobSpec) -> None:
    body = encode(job)
    again = DECODER.decode(body)
    assert plain(again) == plain(job)
    assert encode(again) == body


def test_no_secret_is_written() -> None:
    (job,) = load_jobs(
        """
        jobs:
        - name: one
          secrets: {token: hunter2}
          steps:
          - {name: a, http: {url: 'http://x', username: ann, password: hunter2}}
          - {name: b, map: {over: [1], http: {url: 'http://x', password: hunter2}}}
        """
    )
    body = encode(job)
    assert b"hunter2" not in body
    assert list(DECODER.decode(body).secrets) == ["token"]
