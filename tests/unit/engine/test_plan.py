"""Plans: everything that is known is filled in, nothing secret is shown, nothing is done."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.jobbing import load_jobs

from dogwatch.access.actor import Actor
from dogwatch.engine.plan import MOST_DEPTH, MOST_ITEMS, JobPlan, StepPlan, plan
from dogwatch.errors import UsageError

TEXT = """
jobs:
- name: deploy
  parameters:
    version: {pattern: 'v[0-9]+'}
    hosts: {type: list, default: [a, b]}
    live: {type: boolean, default: false}
    password: {secret: true, required: false}
    note: {required: false}
  secrets: {token: hunter2-token}
  env: {TARGET: 'to {{ params.version }}', ID: 'run {{ run.id }}'}
  concurrency: {key: '{{ params.version }}'}
  locks: ['db-{{ params.version }}']
  steps:
  - {name: build, shell: 'make {{ params.version }} {{ secrets.token }} {{ params.password }} hunter2-token'}
  - {name: lint, needs: [], shell: 'lint {{ env.TARGET }} as {{ run.actor }}'}
  - {name: ask, needs: [build, lint], when: params.live, approve: {message: 'go?', expires: 10m}}
  - {name: ship, shell: 'ship {{ steps.build.outputs.stdout }} {{ params.version }} {{ env.ID }}'}
  - {name: later, when: steps.build.outputs.exit == 0, shell: x}
  - {name: hidden, when: params.password == "x", shell: x}
  - {name: each, map: {over: '{{ params.hosts }}', shell: 'ssh {{ item }} {{ index }} {{ steps.ship.state }}'}}
  - {name: bad, shell: 'echo {{ params.note }}'}
  - {name: call, job: {job: child, parameters: {who: '{{ params.version }}', pin: '{{ params.password }}'}}}
- name: child
  parameters: {who: {}, pin: {secret: true, pattern: '[0-9]+'}}
  steps: [{name: hello, shell: 'hello {{ params.who }} {{ params.pin }}'}]
- name: loop1
  steps: [{name: a, shell: x}]
"""
JOBS = {job.name: job for job in load_jobs(TEXT)}


def planned(**parameters: Any) -> JobPlan:
    values = {"version": "v7", "password": "4711-secret", **parameters}
    return plan(JOBS["deploy"], values, jobs=JOBS, actor=Actor(kind="user", name="ann"))


def step(found: JobPlan, name: str) -> StepPlan:
    return next(one for one in found.steps if one.name == name)


def summary(found: JobPlan, name: str) -> str:
    change = step(found, name).change
    assert change is not None
    return change.summary


def test_what_is_known_is_filled_in() -> None:
    found = planned()
    assert summary(found, "lint") == "run lint 'to v7' as 'ann'"
    assert summary(found, "ship") == "run ship {{ steps.build.outputs.stdout }} 'v7' {{ env.ID }}"
    assert (step(found, "ship").unknown, step(found, "lint").unknown) == (True, False)
    assert found.locks == ["db-v7"]
    assert found.concurrency == "v7"


def test_steps_are_in_the_order_they_can_begin() -> None:
    found = planned()
    assert [(one.name, one.level) for one in found.steps[:4]] == [("build", 0), ("lint", 0), ("ask", 1), ("ship", 2)]
    assert step(found, "ask").needs == ["build", "lint"]


def test_conditions_are_decided_where_they_can_be() -> None:
    found = planned()
    assert step(found, "ask").runs is False
    assert "params.live is false" in step(found, "ask").why
    assert step(planned(live=True), "ask").runs is True
    assert step(found, "later").runs is None
    assert step(found, "hidden").runs is None
    assert step(found, "build").runs is True


def test_secrets_are_not_shown() -> None:
    found = planned()
    assert summary(found, "build") == "run make 'v7' '***' '***' ***"
    shown = msgspec.json.encode(found).decode()
    assert "hunter2" not in shown
    assert "4711" not in shown


def test_items_of_a_map_are_planned() -> None:
    items = step(planned(), "each").items
    assert [change.summary for change in items] == [
        "run ssh 'a' '0' {{ steps.ship.state }}",
        "run ssh 'b' '1' {{ steps.ship.state }}",
    ]
    many = step(planned(hosts=list(range(MOST_ITEMS + 5))), "each")
    assert (len(many.items), many.more) == (MOST_ITEMS, 5)


def test_jobs_that_are_called_are_planned() -> None:
    calls = step(planned(), "call").calls
    assert calls is not None
    assert [change.summary for one in calls.steps if (change := one.change)] == ["run hello 'v7' '***'"]
    alone = plan(JOBS["deploy"], {"version": "v7"})
    assert step(alone, "call").calls is None
    assert MOST_DEPTH > 1


def test_what_would_fail_is_told() -> None:
    assert planned().problems == ["bad: run: {{ params.note }} is null"]
    assert planned(note="x").problems == []
    with pytest.raises(UsageError, match="version is missing"):
        plan(JOBS["deploy"], {})
