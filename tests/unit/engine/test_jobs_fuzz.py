"""The check of jobs tells, whatever is written; it never breaks, and what passes it can be planned."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.jobbing import load_jobs, problems
from tests.unit.engine.test_definitions import JOBS as ANY_JOBS

from dogwatch.engine.graph_check import levels_of
from dogwatch.engine.jobs import check_jobs
from dogwatch.engine.plan import plan
from dogwatch.engine.read_check import Place, reading_faults
from dogwatch.engine.spec import JobSpec
from dogwatch.errors import DogwatchError
from dogwatch.expressions.formula import readings

WORDS = st.sampled_from(
    [
        "a", "b", "c-d", "params", "params.x", "params.y", "steps.a.outputs.stdout", "steps.b.state", "secrets.t",
        "item", "index", "result", "result.exit", "env.E", "run.id", "run", "steps", 'steps["c-d"].outputs',
        "trigger.data.z",
        "{{ params.x }}", "{{ steps.a.outputs.stdout }}", "{{ item }}", "{{", "}}", "{{ params.x", "\\{{", "'", '"',
        "$(", ")", "== 1", "&&", "true", "[1, 2]", "map(i, i)", ".x", "[0]", "3", "10m", "", " ", "é",
    ]
)  # fmt: skip
TEXT = st.lists(WORDS, max_size=4).map(" ".join)
NAME = st.sampled_from(["a", "b", "c-d", "e f", ""])
STEP = st.fixed_dictionaries(
    {"name": NAME},
    optional={
        "needs": st.lists(NAME, max_size=3),
        "when": TEXT,
        "outputs": st.dictionaries(NAME, TEXT, max_size=2),
        "always": st.booleans(),
        "timeout": st.sampled_from(["0s", "1s", "2h"]),
    },
)
ACTION: Any = st.one_of(
    st.builds(lambda text: {"shell": text}, TEXT),
    st.builds(lambda text, value: {"shell": {"run": text, "args": [value], "value": {"k": value}}}, TEXT, TEXT),
    st.builds(lambda job, text: {"job": {"job": job, "parameters": {"x": text}}}, NAME, TEXT),
    st.builds(lambda over, text: {"map": {"over": over, "shell": text}}, TEXT, TEXT),
    st.builds(lambda text: {"wait": {"for": text}}, TEXT),
    st.builds(lambda text: {"http": {"url": f"http://x/{text}", "json": text, "expect": text}}, TEXT),
    st.builds(lambda text: {"approve": {"message": text, "by": [text]}}, TEXT),
)
JOB = st.fixed_dictionaries(
    {
        "name": NAME,
        "steps": st.lists(st.builds(lambda step, action: {**step, **action}, STEP, ACTION), max_size=4),
    },
    optional={
        "parameters": st.dictionaries(
            st.sampled_from(["x", "y"]),
            st.fixed_dictionaries({}, optional={"type": st.sampled_from(["string", "list"]), "secret": st.booleans()}),
        ),
        "secrets": st.just({"t": "hunter2"}),
        "env": st.dictionaries(st.just("E"), TEXT),
        "outputs": st.dictionaries(NAME, TEXT, max_size=2),
        "locks": st.lists(TEXT, max_size=2),
        "concurrency": st.builds(lambda text: {"key": text}, TEXT),
    },
)


@given(st.lists(JOB, max_size=3))
@settings(max_examples=200)
def test_whatever_is_written_is_told_or_can_be_planned(jobs: list[dict[str, Any]]) -> None:
    text = json.dumps({"jobs": jobs})
    found = problems(text)
    assert not any("hunter2" in line for line in found)
    if found:
        return
    loaded = {job.name: job for job in load_jobs(text)}
    for job in loaded.values():
        assert sorted(name for level in levels_of(job) for name in level) == sorted(step.name for step in job.steps)
        given_values = {name: [] if one.type == "list" else "v" for name, one in job.parameters.items()}
        assert plan(job, given_values, jobs=loaded).job == job.name


@given(st.lists(ANY_JOBS, max_size=3))
@settings(max_examples=100)
def test_no_definition_breaks_the_check(jobs: list[JobSpec]) -> None:
    for fault in check_jobs(jobs):
        assert fault.message


@given(st.text(max_size=40))
def test_no_expression_breaks_the_reading(text: str) -> None:
    job = JobSpec(name="x", steps=[])
    place = Place(job=job, steps={}, roots=frozenset({"params"}))
    assert len(list(reading_faults(readings(text), place, ()))) <= len(text)


def test_a_job_that_passes_is_found_by_the_fuzz() -> None:
    """The fuzz above would be worth nothing if it met only mistakes."""
    text = '{"jobs": [{"name": "a", "steps": [{"name": "a", "shell": "3"}, {"name": "b", "shell": "{{ run.id }}"}]}]}'
    assert problems(text) == []
    try:
        assert plan(load_jobs(text)[0], {}).steps
    except DogwatchError as error:
        raise AssertionError(str(error)) from error
