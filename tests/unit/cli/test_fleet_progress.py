"""What a terminal shows while a command goes over the fleet: it fits, whatever hosts are called."""

from __future__ import annotations

import pytest
from rich.console import Console

from dogwatch.cli.fleet_progress import _Screen
from dogwatch.fleet.connection import State
from dogwatch.fleet.results import HostResult


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_two_lines_that_fit(width: int) -> None:
    screen = _Screen(Console(width=width), 1000, 0)
    for at in range(60):
        screen.started(f"web-frontend-production-{at:02}.eu-central.example")
    for at, state in enumerate(list(State) * 2):
        screen.ended(HostResult(host=f"web-frontend-production-{at:02}.eu-central.example", state=state))
    lines = str(screen.render()).split("\n")
    assert len(lines) == 2
    assert all(len(line) < max(width, 21) for line in lines)
    assert lines[1].startswith("on web-frontend")


def test_counts_and_those_that_are_waited_for() -> None:
    screen = _Screen(Console(width=80), 4, 1)
    for name in ("a", "b"):
        screen.started(name)
    screen.ended(HostResult(host="a", state=State.REFUSED))
    first, second = str(screen.render()).split("\n")
    assert " 2/4 " in first
    assert "1 refused" in first
    assert second == "on b 0s"
