"""N of M places: who is silent is unknown, not up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.rules.decider import Truth
from dogwatch.rules.quorum.decide import Report, View, judge
from dogwatch.rules.quorum.spec import Center, Locations, Quorum, check

NOW = 1_800_000_000.0
PLACES = ("berlin", "paris", "tokyo")


def report(status: str, age_s: float = 5.0, **fields: Any) -> Report:
    return Report(views={"shop": View(status=status, **fields)}, received_s=NOW - age_s)


def verdict(reports: dict[str, Report], down: int = 2) -> Any:
    return judge(Quorum(target="shop", locations=PLACES, down=down), reports, NOW, silent_s=60.0)


@pytest.mark.parametrize(
    ("reports", "truth"),
    [
        ({"berlin": report("down"), "paris": report("down"), "tokyo": report("up")}, Truth.YES),
        ({"berlin": report("down"), "paris": report("up"), "tokyo": report("degraded")}, Truth.NO),
        # One says down, one is silent: it may be down.
        ({"berlin": report("down"), "paris": report("up")}, Truth.UNKNOWN),
        ({"berlin": report("down"), "paris": report("up"), "tokyo": report("down", age_s=61.0)}, Truth.UNKNOWN),
        ({"berlin": report("down"), "paris": report("up"), "tokyo": report("pending")}, Truth.UNKNOWN),
        ({"berlin": report("up"), "paris": report("up")}, Truth.NO),
        ({}, Truth.UNKNOWN),
        ({"mars": report("down"), "venus": report("down")}, Truth.UNKNOWN),
        ({"berlin": report("down", age_s=-3600.0), "paris": report("down")}, Truth.UNKNOWN),
    ],
)
def test_what_follows(reports: dict[str, Report], truth: Truth) -> None:
    assert verdict(reports).truth is truth


def test_it_says_who_and_since_when() -> None:
    found = verdict(
        {
            "berlin": report("down", reason="timeout", since_s=NOW - 90),
            "paris": report("down", reason="refused", since_s=NOW - 30),
        }
    )
    assert (
        found.reason == "2 of 3 places say that it is down (berlin: timeout; paris: refused); nothing known from tokyo"
    )
    assert found.since_s == NOW - 30


@given(
    st.dictionaries(st.sampled_from(PLACES), st.sampled_from(["up", "down", "paused", "silent"]), max_size=3),
    st.integers(1, 3),
)
def test_nobody_is_counted_twice_and_silence_never_ends_an_outage(said: dict[str, str], down: int) -> None:
    reports = {
        name: report("down" if status == "silent" else status, age_s=100.0 if status == "silent" else 1.0)
        for name, status in said.items()
    }
    found = verdict(reports, down)
    assert sorted((*found.down, *found.up, *found.unknown)) == sorted(PLACES)
    # More silence never turns "perhaps" into "no".
    if found.truth is Truth.NO:
        assert len(found.down) + len(found.unknown) < down


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quorum": (Quorum(target="x", locations=PLACES, down=2),)}, "is empty"),
        ({"name": "a", "quorum": (Quorum(target="x", locations=PLACES, down=4),)}, "more than its 3"),
        ({"name": "a", "quorum": (Quorum(target="x", locations=("a", "a"), down=1),)}, "twice"),
        ({"name": "a", "report_to": (Center(url="central", token="t"),)}, "http"),
        ({"name": "a", "every": 10.0, "silent": 15.0}, "twice every"),
    ],
)
def test_mistakes_are_found(options: Any, says: str) -> None:
    assert says in " ".join(fault.message for fault in check(Locations(**options)))
