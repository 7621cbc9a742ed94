"""What is refused before a run is written, and which gates it gets."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runs import ALICE, Nothing, Plain, check, job, render, step

from dogwatch.engine.book.intents import gates_of, intent_of, kept
from dogwatch.engine.spec import Concurrency, JobSpec, Parameter, RateLimit, StepSpec
from dogwatch.engine.values import StartRun, StepState
from dogwatch.errors import Conflict, UsageError


def _intent(spec: JobSpec, *, sealer: Plain | None = None, **options: Any) -> Any:
    return intent_of(spec, StartRun(job=spec.name, actor=ALICE, **options), check, render, sealer)


@pytest.mark.parametrize(
    "options",
    [
        {"key": "k" * 1001},
        {"priority": 10**12},
        {"due_s": float("nan")},
        {"due_s": float("inf")},
        {"due_s": -1.0},
        {"parameters": {"bad": 1}},
    ],
)
def test_what_no_database_holds_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        _intent(job(), **options)


def test_secret_parameters_need_a_key_and_are_masked() -> None:
    spec = job(parameters={"p": Parameter(secret=True), "q": Parameter(secret=True)})
    with pytest.raises(UsageError, match="secret parameters"):
        _intent(spec, parameters={"p": "x"})
    intent = _intent(spec, parameters={"p": "hunter2"}, sealer=Plain())
    assert intent.parameters == {"p": "***", "q": None}
    assert intent.sealed == b'{"p":"hunter2"}'[::-1]
    # Where none was given, none is needed.
    assert _intent(spec).sealed is None


def test_gates_are_named_after_what_they_guard() -> None:
    spec = job(
        concurrency=Concurrency(key="{{ params.env }}", limit=3),
        locks=["db-{{ params.env }}", "db-a"],
        rate=RateLimit(max=5, per=60.0),
    )
    gates = gates_of(spec, {"params": {"env": "a"}}, render)
    assert [(gate.name, gate.capacity, gate.window_s) for gate in gates] == [
        ("job:build/a", 3, None),
        ("lock:db-a", 1, None),
        ("rate:build", 5, 60.0),
    ]
    assert [gate.sign for gate in gates] == ["its turn in build/a", "lock db-a", "the rate limit of build"]


def test_long_names_that_are_cut_stay_two() -> None:
    first, second = (
        gates_of(job(locks=["{{ params.x }}"]), {"params": {"x": "n" * 600 + end}}, render)[0].name for end in "ab"
    )
    assert first != second
    assert len(first) < 520


def test_what_a_rerun_keeps() -> None:
    spec = job("j", *(StepSpec(name=name, action=Nothing(), always=name == "tidy") for name in ("a", "b", "tidy")))
    done = StepState.SUCCEEDED
    steps = [step("a", done), step("b", StepState.FAILED), step("b[0]", done, of="b"), step("tidy", done)]
    assert [row.name for row in kept(spec, steps, "r")] == ["a", "b[0]"]
    with pytest.raises(Conflict):
        kept(spec, [step("a", done), step("b", StepState.SKIPPED), step("tidy", done)], "r")
    # Cancelled before its end: the rest has never been done.
    assert [row.name for row in kept(spec, [step("a", done)], "r")] == ["a"]
