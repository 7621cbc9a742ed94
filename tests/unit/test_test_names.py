"""Test modules are imported by their names alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path


def test_no_two_modules_have_one_name() -> None:
    found = Counter(path.name for path in Path(__file__).parents[1].rglob("*.py") if path.name.startswith("test_"))
    assert [name for name, count in found.items() if count > 1] == []
