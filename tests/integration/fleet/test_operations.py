"""Every operation against its cases: plan, change, plan again, take back, on real files by the real scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.fleet.operating import Box, make_tree, predicted, shown, tree

CASES = Path(__file__).parents[2] / "cases" / "operations"


def cases() -> list[Any]:
    found = []
    for path in sorted(CASES.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text()):
            found.append(pytest.param(case, id=f"{path.stem}: {case['name']}"))
    return found


@pytest.fixture
def box(tmp_path: Path) -> Box:
    for name in ("root", "beside"):
        (tmp_path / name).mkdir()
    return Box(tmp_path / "root", tmp_path / "beside", tmp_path / "state")


@pytest.mark.parametrize("case", cases())
async def test_case(case: dict[str, Any], box: Box) -> None:
    make_tree(box.root, case.get("before", {}))
    make_tree(box.folder, case.get("beside", {}))
    operations = case["operation"] if isinstance(case["operation"], list) else [case["operation"]]
    variables = case.get("vars", {})
    before = tree(box.root)
    plan = await box.plan(operations, variables=variables)
    assert tree(box.root) == before, "a plan changed something"
    if "refused" in case:
        assert case["refused"] in " ".join(plan.problems).replace(str(box.root), "ROOT")
        assert (await box.apply(plan)).state == "failed"
        assert tree(box.root) == before
        return
    assert plan.problems == ()
    titles = [step.title.replace(str(box.root), "ROOT") for item in plan.items for step in item.steps]
    if "titles" in case:
        assert titles == case["titles"]
    if "diff" in case:
        assert case["diff"] == "".join(step.diff.replace(str(box.root), "ROOT") for i in plan.items for step in i.steps)
    done = await box.apply(plan, "a1")
    assert done.message == ""
    assert done.state == ("applied" if plan.items else "unchanged")
    if "after" in case:
        assert shown(box.root) == case["after"]
    for name, mode in case.get("modes", {}).items():
        assert tree(box.root)[name][1] == mode
    now = await box.seals(plan)
    foretold = predicted(plan)
    assert {key: now[key] for key in foretold} == foretold, "the plan did not foretell what came"
    again = await box.plan(operations, variables=variables)
    assert [step.title for item in again.items for step in item.steps] == []
    assert list(box.root.rglob(".dogwatch*")) == []
    assert not (box.state / "open").exists()
    if not case.get("one_way"):
        back = await box.back(plan, "a1")
        assert back.state == ("rolled back" if plan.items else "unchanged"), back.message
        assert tree(box.root) == before
