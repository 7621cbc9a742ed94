"""Every operation against its cases: plan, change, plan again, take back, on real files by the real scripts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


# What a shell, sed, printf or a terminal could take for more than itself; and what looks like an option.
HOSTILE = st.text(
    alphabet=st.sampled_from([*"ab $`'\"\\;&|<>(){}[]*?!#~%=-+:@,^\t\r", "é", "日", "\u202e", "\x1b"]),
    min_size=1,
    max_size=12,
).filter(lambda text: text not in (".", ".."))
_QUIET = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@_QUIET
@given(names=st.lists(HOSTILE, min_size=1, max_size=4, unique=True), content=HOSTILE, line=HOSTILE, target=HOSTILE)
async def test_hostile_names_and_values(names: list[str], content: str, line: str, target: str, box: Box) -> None:
    """Whatever a name or value holds, it is written to the letter, and nothing else is done."""
    make_empty(box.root)
    line = line.replace("\r", "")
    operations: list[Any] = []
    for name in names:
        folder = f"{box.root}/{name}"
        operations += [
            {"directory": {"path": folder}},
            {"file": {"path": f"{folder}/{name}", "content": content}},
            {"line": {"path": f"{folder}/l", "line": f"x{line}", "create": True}},
            {"link": {"path": f"{folder}/k {name}", "target": target}},
            {
                "command": {
                    "run": 'printf %s "$V" > "$P"',
                    "env": {"V": content, "P": f"{folder}/c"},
                    "creates": f"{folder}/c",
                }
            },
        ]
    literal = literally(operations)
    plan = await box.plan(literal)
    assert plan.problems == ()
    done = await box.apply(plan, "h1")
    assert done.message == ""
    wanted: dict[str, Any] = {}
    for name in names:
        wanted |= {
            name: None,
            f"{name}/{name}": content,
            f"{name}/l": f"x{line}\n",
            f"{name}/k {name}": {"link": target},
            f"{name}/c": content,
        }
    assert shown(box.root) == wanted
    assert (await box.plan(literal)).items == ()


def literally(value: Any) -> Any:
    """Return a value in which Jinja finds nothing to fill in."""
    if isinstance(value, str):
        return "{{ " + repr_of(value) + " }}" if "{" in value else value
    if isinstance(value, dict):
        return {key: literally(below) for key, below in value.items()}
    return [literally(below) for below in value] if isinstance(value, list) else value


def repr_of(text: str) -> str:
    """Return text as a literal of Jinja that holds no brace."""
    return "'" + "".join(f"\\u{ord(char):04x}" for char in text) + "'"


def make_empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


async def test_long_files_are_known_by_their_digest(box: Box) -> None:
    (box.folder / "long").write_bytes(b"line\n" * 400_000)
    copy = [{"file": {"path": "{{ root }}/long", "src": "long"}}]
    assert (await box.apply(await box.plan(copy))).message == ""
    again = await box.plan(copy)
    assert again.items == ()
    assert sum(len(seal) for seal in again.facts.values()) < 1000
    (box.root / "long").write_bytes(b"other\n" * 400_000)
    changed = await box.plan(copy)
    assert [step.diff for item in changed.items for step in item.steps] == [
        "the old content is too long to be shown; new: 1.91 MiB\n"
    ]
    assert (await box.apply(changed, "a1")).message == ""
    assert (await box.back(changed, "a1")).state == "rolled back"
    assert (box.root / "long").read_bytes() == b"other\n" * 400_000
    line = await box.plan([{"line": {"path": "{{ root }}/long", "line": "x"}}])
    assert "is longer than 1 MiB: it is not edited" in line.problems[0]
