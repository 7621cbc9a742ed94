"""Secrets leave a plan and come back to the letter, whatever they look like; what names hosts and steps stays."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.errors import Conflict
from dogwatch.fleet.operations.steps import Run, Write
from dogwatch.fleet.plans.plan import HostPlan, Item
from dogwatch.fleet.plans.saving import prune
from dogwatch.fleet.plans.secrets import opened, sealed

TEXT = st.text(alphabet=st.sampled_from([*"ab$`'\"\\ \n;", "é"]), min_size=4, max_size=12)


def plan_with(value: str, host: str = "web1") -> HostPlan:
    once = f"printf %s {shlex.quote(value)}"
    steps = (
        Write(title=f"write {value}", path="/f", content=f"a {value} b".encode(), mode=0o600, owner="o", group="g"),
        Run(title="run", script=f"su x -c {shlex.quote(f'sh -c {shlex.quote(once)}')}", stdin=value.encode()),
    )
    return HostPlan(host=host, items=(Item(at=0, name=f"use {value}", kind="file", steps=steps),))


@given(value=TEXT)
def test_a_secret_leaves_and_comes_back(value: str) -> None:
    plan = plan_with(value)
    kept = sealed(plan, {"s": value}, "salt")
    for step, before in zip(kept.items[0].steps, plan.items[0].steps, strict=True):
        for name in ("content", "stdin"):
            data = getattr(step, name, None)
            if data is not None:
                assert value.encode() not in data
        if isinstance(step, Run) and isinstance(before, Run):
            assert value not in step.script
            assert shlex.quote(value)[1:-1] not in step.script or "'" not in value
    saved = msgspec.json.decode(msgspec.json.encode(kept), type=HostPlan)
    again = opened(saved, {"s": value}, "salt")
    assert [msgspec.structs.replace(step, title="", diff="") for step in again.items[0].steps] == [
        msgspec.structs.replace(step, title="", diff="") for step in plan.items[0].steps
    ]
    with pytest.raises(Conflict):
        opened(saved, {"s": value + "x"}, "salt")
    with pytest.raises(Conflict):
        opened(saved, {}, "salt")


@pytest.mark.parametrize("value", ["web1", "write", "file", "root"])
def test_a_secret_that_is_a_word_of_plans(value: str) -> None:
    kept = sealed(plan_with(value), {"s": value}, "salt")
    assert kept.host == "web1"
    assert opened(kept, {"s": value}, "salt").items[0].steps[0] == msgspec.structs.replace(
        plan_with(value).items[0].steps[0], title=kept.items[0].steps[0].title
    )


def test_what_cannot_be_asked_for_again_stays_in_what_is_done_and_is_not_shown() -> None:
    kept = sealed(plan_with("hunter22"), {"s": "another secret"}, "salt", ["hunter22"])
    write = kept.items[0].steps[0]
    assert isinstance(write, Write)
    assert (write.title, write.content, kept.items[0].name) == ("write ***", b"a hunter22 b", "use ***")
    assert kept.secrets == {}


def test_old_plans_go(tmp_path: Path) -> None:
    import os

    for at in range(5):
        path = tmp_path / f"{at}.plan"
        path.write_text("")
        path.with_name(f"{at}.plan.journal").write_text("")
        os.utime(path, (at, at))
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.plan", "3.plan.journal", "4.plan", "4.plan.journal"]
