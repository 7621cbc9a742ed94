"""Every operation has cases, every option a word on it, and the guide names them all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from dogwatch.config.schema import field_docs
from dogwatch.fleet.operations import OPERATIONS
from dogwatch.fleet.operations.operation import Operation

ROOT = Path(__file__).parents[3]
CASES = ROOT / "tests" / "cases"
# Their cases need a program of their own beside them.
ELSEWHERE = {"archive", "git", "package"}


@pytest.mark.parametrize("operation", list(OPERATIONS), ids=lambda one: one.kind)
def test_every_option_is_described(operation: type[Operation]) -> None:
    docs = field_docs(operation)
    assert [field.name for field in msgspec.structs.fields(operation) if not docs.get(field.name)] == []


def test_every_operation_has_cases() -> None:
    used: set[str] = set(ELSEWHERE)
    for path in [*CASES.glob("operations/*.yaml"), *CASES.glob("operations_machine/*.yaml")]:
        for case in yaml.safe_load(path.read_text()):
            given = case["operation"] if isinstance(case["operation"], list) else [case["operation"]]
            used.update(key for one in given for key in one)
    assert set(OPERATIONS.kinds()) - used == set()


def test_the_guide_names_every_operation() -> None:
    guide = (ROOT / "docs" / "guide" / "playbooks.md").read_text()
    assert [kind for kind in OPERATIONS.kinds() if f"`{kind}`" not in guide] == []
