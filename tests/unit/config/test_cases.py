"""Every file of tests/cases/config says what is wrong with it in the `.txt` beside it, line by line, exactly."""

from pathlib import Path

import pytest
from tests.unit.config.watchlike import problems

CASES = sorted((Path(__file__).parents[2] / "cases" / "config").glob("*.yaml"))
ENVIRON = {"WORDS": "many words"}
SECRETS = {"/secrets/short": b"hunter2\n"}


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_mistake_is_told_at_once(case: Path) -> None:
    found = problems(case.read_bytes(), environ=ENVIRON, secrets=SECRETS)
    assert "\n".join(found) + "\n" == case.with_suffix(".txt").read_text()
    assert not any("hunter2" in line for line in found)


def test_there_are_cases() -> None:
    assert len(CASES) > 20
