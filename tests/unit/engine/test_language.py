"""What a step of a claimed run reads, and how it is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from tests.jobbing import ShellAction, new_run

from dogwatch.engine.kinds.http import HttpAction
from dogwatch.engine.language import CelLanguage
from dogwatch.engine.ledger import Claimed, Order, StepRow
from dogwatch.engine.spec import JobSpec, Parameter
from dogwatch.engine.templates import TemplateError
from dogwatch.engine.values import StepState
from dogwatch.errors import DogwatchError, PermanentError

LANGUAGE = CelLanguage()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    claimed: Claimed
    rows: Mapping[str, StepRow]
    row: StepRow
    result: Mapping[str, Any] | None = None


def standing(row: StepRow | None = None, result: Mapping[str, Any] | None = None, **job: Any) -> Standing:
    parameters = {"x": Parameter(), "pin": Parameter(type="map", secret=True)}
    definition = JobSpec(name="deploy", steps=[], parameters=parameters, secrets={"token": ""}, **job)
    run = new_run(parameters={"x": "two words", "pin": {"a": "4711-pin"}})
    build = StepRow(name="build", kind="shell", state=StepState.SUCCEEDED, attempt=2, outputs={"id": 7})
    item = StepRow(name="each[0]", kind="shell", of="each", index=0, item="a", outputs={"id": 8})
    row = row or StepRow(name="next", kind="shell", attempt=1)
    claimed = Claimed(
        run=run, fence=1, definition=definition, steps=(), order=Order(), secrets={"token": "hunter2-token"}
    )
    return Standing(claimed=claimed, rows={one.name: one for one in (build, item, row)}, row=row, result=result)


def test_an_action_is_filled_in_for_its_step() -> None:
    action = ShellAction(run="echo {{ params.x }} {{ secrets.token }} {{ steps.build.outputs.id }} {{ run.step }}")
    assert LANGUAGE.fill(action, standing()).run == "echo 'two words' 'hunter2-token' '7' 'next'"  # type: ignore[attr-defined]


def test_an_action_without_templates_costs_nothing() -> None:
    action = HttpAction(url="http://x")
    assert LANGUAGE.fill(action, standing()) is action


def test_the_environment_of_the_job_is_below_the_action_s_own() -> None:
    view = standing(env={"A": "{{ params.x }}", "B": "job"})
    assert LANGUAGE.fill(ShellAction(run="x", env={"B": "own"}), view).env == {"A": "two words", "B": "own"}  # type: ignore[attr-defined]


def test_an_item_of_a_map_sees_itself_and_no_other_items() -> None:
    row = StepRow(name="each[3]", kind="shell", of="each", index=3, item={"host": "b"})
    action = ShellAction(args=["{{ item.host }}", "{{ index }}"])
    assert list(LANGUAGE.fill(action, standing(row)).args) == ["b", "3"]  # type: ignore[attr-defined]
    with pytest.raises(TemplateError):
        LANGUAGE.fill(ShellAction(run='{{ steps["each[0]"].outputs.id }}'), standing(row))
    with pytest.raises(TemplateError):
        LANGUAGE.fill(action, standing())


def test_conditions_and_values() -> None:
    view = standing(result={"size": 3, "tags": ["a"]})
    assert LANGUAGE.holds("steps.build.outputs.id == 7 && steps.build.attempt == 2", view)
    assert not LANGUAGE.holds('steps.build.state == "failed"', view)
    assert LANGUAGE.value("result.size * 2", view) == 6
    assert LANGUAGE.value("result.tags", view) == ["a"]
    assert LANGUAGE.value('timestamp("2026-01-01T00:00:00Z")', view) == "2026-01-01T00:00:00Z"
    assert LANGUAGE.value('{"a": result.size}', view) == {"a": 3}


@pytest.mark.parametrize("text", ["result.nothing", "nobody", "1 +", "params.x.y"])
def test_what_cannot_be_decided_is_an_error(text: str) -> None:
    with pytest.raises(PermanentError):
        LANGUAGE.value(text, standing(result={}))
    with pytest.raises(DogwatchError):
        LANGUAGE.holds(f"{text} == 1", standing(result={}))


def test_every_secret_of_the_run_is_masked() -> None:
    masks = LANGUAGE.masks(standing().claimed)
    assert masks.mask("hunter2-token 4711-pin two words") == "*** *** two words"
