"""The step kinds `playbook` and `fleet-drift`, on this machine through the same plans as remote hosts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.acting import FakeScene

from dogwatch.config.load import Loader
from dogwatch.engine.action import Outcome, Wait
from dogwatch.errors import PermanentError
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.planned import DriftAction, PlaybookAction
from dogwatch.fleet.section import FLEET
from dogwatch.fleet.sight import Looked, Sight

pytestmark = pytest.mark.allow_leak("thread:*asyncio*", reason="the loop's own threads read the sources")


@pytest.fixture
def part(tmp_path: Path) -> FleetPart:
    (tmp_path / "dogwatch.yaml").write_text(
        f"fleet:\n  groups: {{all: {{vars: {{root: {tmp_path}}}}}}}\n  hosts:\n"
        + "".join(
            f"    box{at}: {{connection: local, vars: {{dogwatch_state: {tmp_path}/state{at}}}}}\n" for at in (1, 2)
        )
    )
    (tmp_path / "site.yaml").write_text(
        "hosts: all\noperations:\n  - file: {path: '{{ root }}/{{ host }}', content: '{{ word }}'}\n"
    )
    part = FleetPart(plans=tmp_path / "plans")
    part.prepare(Loader([tmp_path / "dogwatch.yaml"], [FLEET], environ={}).load()).swap()
    return part


async def test_a_playbook_as_a_step(part: FleetPart, tmp_path: Path) -> None:
    action = PlaybookAction(file=str(tmp_path / "site.yaml"), vars={"word": "x"})
    scene = FakeScene(services={FleetPart: part})
    outcome = await action.apply(scene)
    assert isinstance(outcome, Outcome)
    assert (outcome.outputs["applied"], outcome.changed) == (["box1", "box2"], True)
    assert (tmp_path / "box1").read_text() == "x"
    assert any("create " in text for _, text in scene.written)
    # The same attempt again, as after a crash at its very end: what is done stays done.
    (tmp_path / "box1").unlink()
    again = await action.apply(FakeScene(services={FleetPart: part}, run_id="r2"))
    assert isinstance(again, Outcome)
    assert (again.outputs["applied"], again.outputs["unchanged"]) == (["box1"], ["box2"])


async def test_a_step_waits_for_approval_of_exactly_its_plan(part: FleetPart, tmp_path: Path) -> None:
    action = PlaybookAction(file=str(tmp_path / "site.yaml"), vars={"word": "x"}, approval=True, by=("role:ops",))
    scene = FakeScene(services={FleetPart: part})
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    assert wait.memory["approve"]["by"] == ["role:ops"]  # type: ignore[index,call-overload]
    assert not (tmp_path / "box1").exists()
    rejected = FakeScene(services={FleetPart: part}).wake(wait.memory, {"approve": False, "by": "user:ann"})
    with pytest.raises(PermanentError, match="the plan was rejected by user:ann"):
        await action.apply(rejected)
    # Between the plan and the yes the playbook has changed: what was agreed to is done, nothing else.
    (tmp_path / "site.yaml").write_text("hosts: all\noperations:\n  - file: {path: /nowhere/x, content: y}\n")
    agreed = FakeScene(services={FleetPart: part}).wake(wait.memory, {"approve": True, "by": "user:ann"})
    assert isinstance(await action.apply(agreed), Outcome)
    assert (tmp_path / "box2").read_text() == "x"


async def test_hosts_that_moved_fail_the_step(part: FleetPart, tmp_path: Path) -> None:
    action = PlaybookAction(file=str(tmp_path / "site.yaml"), vars={"word": "x"}, approval=True, max_fail="1")
    wait = await action.apply(FakeScene(services={FleetPart: part}))
    assert isinstance(wait, Wait)
    (tmp_path / "box1").write_text("by hand")
    agreed = FakeScene(services={FleetPart: part}).wake(wait.memory, {"approve": True})
    with pytest.raises(PermanentError, match="1 of 2 hosts failed: box1"):
        await action.apply(agreed)
    assert (tmp_path / "box1").read_text() == "by hand"
    assert (tmp_path / "box2").read_text() == "x"


async def test_drift_as_a_step(part: FleetPart, tmp_path: Path) -> None:
    action = DriftAction(file=str(tmp_path / "site.yaml"), vars={"word": "x"})
    (tmp_path / "box1").write_text("x")
    with pytest.raises(PermanentError, match="1 of 2 hosts have wandered: box2"):
        await action.apply(FakeScene(services={FleetPart: part}))
    some = DriftAction(file=str(tmp_path / "site.yaml"), vars={"word": "x"}, max_drift="50%")
    outcome = await some.apply(FakeScene(services={FleetPart: part}))
    assert outcome.outputs["wandered"] == ["box2"]
    assert not (tmp_path / "box2").exists()


async def test_mistakes_of_a_playbook_fail_the_step(part: FleetPart, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("hosts: all\noperations:\n  - fil: {}\n")
    with pytest.raises(PermanentError, match="unknown operation 'fil'"):
        await PlaybookAction(file=str(tmp_path / "site.yaml")).apply(FakeScene(services={FleetPart: part}))
    assert [path for path, _, _ in PlaybookAction(file=" ", batch="x").faults()] == [("file",), ("batch",)]


async def test_probes_of_this_program_judge_a_batch(part: FleetPart, tmp_path: Path) -> None:
    text = (tmp_path / "site.yaml").read_text()
    (tmp_path / "site.yaml").write_text(f"batches: [1]\nprobes: {{match: 'on={{{{ host }}}}', settle: 10ms}}\n{text}")
    action = PlaybookAction(file=str(tmp_path / "site.yaml"), vars={"word": "x"})
    with pytest.raises(PermanentError, match="this program has no Sight"):
        await action.apply(FakeScene(services={FleetPart: part}))
    down = Looked(name="shop", status="down", labels={"on": "box1"}, last_time_s=2e9)
    scene = FakeScene(services={FleetPart: part, Sight: Sight(lambda: [down])})
    with pytest.raises(PermanentError, match="1 of 2 hosts failed: box2"):
        await action.apply(scene)
    assert (tmp_path / "box1").exists()
    assert not (tmp_path / "box2").exists()
    later = FakeScene(services={FleetPart: part, Sight: Sight(lambda: [msgspec.structs.replace(down, status="up")])})
    assert isinstance(await action.apply(later), Outcome)
    assert (tmp_path / "box2").exists()
