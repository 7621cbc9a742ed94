"""What the `jobs` section takes, and what the guide shows of it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from tests.jobbing import JOBS, load_jobs, new_run, new_scope, problems, seen

from dogwatch.engine.graph_check import before_each, levels_of, needs_of
from dogwatch.engine.jobs import job_warnings
from dogwatch.engine.scope import job_outputs, start_text
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.engine.values import StepRun, StepState
from dogwatch.errors import UsageError

ROOT = Path(__file__).parents[3]


def blocks() -> list[str]:
    text = (ROOT / "docs" / "guide" / "jobs.md").read_text()
    return re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks())
def test_the_guide_passes_its_own_check(text: str) -> None:
    found = re.sub(r"\$\{file:[^}]+\}", "a secret", text)
    assert load_jobs(found)


def test_the_example_of_init_passes_whole() -> None:
    assert [job.name for job in load_jobs("jobs:\n" + JOBS.example)] == ["hello"]
    whole = "jobs:\n" + re.sub(r"(?m)^# ", "", JOBS.example)
    whole = whole.replace("${file:/run/secrets/deploy}", "a secret")
    assert [job.name for job in load_jobs(whole)] == ["hello", "deploy"]


def graph(**needs: list[str] | None) -> JobSpec:
    action = load_jobs("jobs: [{name: x, steps: [{name: a, wait: 1s}]}]")[0].steps[0].action
    return JobSpec(name="g", steps=[StepSpec(name=name, action=action, needs=wants) for name, wants in needs.items()])


def test_steps_need_the_one_before_them_by_default() -> None:
    job = graph(a=None, b=None, c=[], d=["a", "c", "a"])
    assert needs_of(job) == {"a": (), "b": ("a",), "c": (), "d": ("a", "c")}
    assert levels_of(job) == [["a", "c"], ["b", "d"]]
    assert before_each(needs_of(graph(a=None, b=None, c=None)))["c"] == {"a", "b"}


def test_circles_are_left_out_of_levels() -> None:
    assert levels_of(graph(a=["c"], b=["a"], c=["b"], d=[])) == [["d"]]


def test_long_chains_are_fine() -> None:
    names = [f"s{number}" for number in range(900)]
    job = graph(**dict.fromkeys(names))
    assert len(levels_of(job)) == 900
    text = "jobs:\n- name: long\n  steps:\n" + "".join(f"  - {{name: {name}, wait: 1s}}\n" for name in names)
    assert problems(text) == []


def test_what_steps_read_is_checked_through_the_graph() -> None:
    text = textwrap.dedent("""
        jobs:
        - name: one
          steps:
          - {name: a, shell: x}
          - {name: b, shell: y}
          - {name: c, needs: [b], shell: '{{ steps.a.outputs.stdout }}'}
          - {name: d, needs: [], shell: '{{ steps.a.outputs.stdout }}'}
    """)
    (found,) = problems(text)
    assert "steps[3].shell.run: reads the step 'a', which need not have run by then" in found


def test_short_secrets_are_warned_of() -> None:
    (job,) = load_jobs("jobs: [{name: x, secrets: {pin: '123', token: long enough}, steps: [{name: a, wait: 1s}]}]")
    assert list(job_warnings([job])) == ["job x: the secret 'pin' is shorter than 4 characters and not masked"]


def test_the_environment_of_a_job_is_filled_in() -> None:
    job = JobSpec(name="deploy", steps=[], env={"A": "{{ params.x }} {{ run.id }}", "B": "b"})
    values = new_scope(job, parameters={"x": 1}).values()
    assert values["env"] == {"A": "1 r1", "B": "b"}


def test_what_is_seen_of_a_step() -> None:
    values = new_scope(steps={"a": seen({"x": 1})}, item=("i", 3), step="b", attempt=2).values()
    assert values["steps"]["a"] == {"state": "succeeded", "outputs": {"x": 1}, "reason": "", "attempt": 1}
    assert (values["item"], values["index"], values["run"]["attempt"], values["run"]["step"]) == ("i", 3, 2, "b")


def test_outputs_of_a_job() -> None:
    outputs = {"size": "steps.a.outputs.size * 2", "gone": "steps.a.outputs.nothing", "who": "run.actor"}
    job = JobSpec(name="deploy", steps=[], outputs=outputs)
    steps = [StepRun(run_id="r1", name="a", kind="x", state=StepState.SUCCEEDED, outputs={"size": 2})]
    assert job_outputs(job, new_run(), steps) == {"size": 4, "who": "ann"}


def test_keys_and_locks_are_filled_in_when_a_run_is_started() -> None:
    values = {"params": {"x": "db-1", "none": ""}, "trigger": {"kind": "manual"}}
    assert start_text("lock {{ params.x }}", values) == "lock db-1"
    assert start_text("", values) == ""
    for text in ("{{ params.none }}", "{{ params.nothing }}"):
        with pytest.raises(UsageError):
            start_text(text, values)
