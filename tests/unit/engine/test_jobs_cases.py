"""Every file of tests/cases/jobs says what is wrong with it in the `.txt` beside it, line by line, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.jobbing import problems

CASES = sorted((Path(__file__).parents[2] / "cases" / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_mistake_is_told_at_once(case: Path) -> None:
    found = problems(case.read_text())
    assert "\n".join(found) + "\n" == case.with_suffix(".txt").read_text()
    assert not any("hunter2" in line for line in found)


def test_there_are_cases() -> None:
    assert len(CASES) >= 5
