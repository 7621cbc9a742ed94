"""The step kind `ssh`, on this machine through the same runner as remote hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.acting import FakeScene
from tests.integration.fleet.servers import free_port

from dogwatch.config.load import Loader
from dogwatch.errors import PermanentError, TransientError
from dogwatch.fleet.action import SshAction
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.section import FLEET


@pytest.fixture
def part(tmp_path: Path) -> FleetPart:
    (tmp_path / "dogwatch.yaml").write_text(
        "fleet:\n  sources: [{ansible: hosts.ini}]\n  hosts:\n    box[1-3]: {connection: local}\n"
    )
    (tmp_path / "hosts.ini").write_text(f"dead[1:2] ansible_host=127.0.0.1 ansible_port={free_port()}\n")
    part = FleetPart()
    part.prepare(Loader([tmp_path / "dogwatch.yaml"], [FLEET], environ={}).load()).swap()
    return part


def scene(part: FleetPart) -> FakeScene:
    return FakeScene(services={FleetPart: part})


@pytest.mark.allow_leak("thread:*asyncio*", reason="the loop's own threads read the sources")
async def test_a_step_runs_on_hosts_and_gives_their_output(part: FleetPart) -> None:
    outcome = await SshAction(run="echo $A; exit 0", targets="box*,!box2", env={"A": "it's"}).apply(scene(part))
    assert outcome.outputs["succeeded"] == ["box1", "box3"]
    assert outcome.outputs["hosts"]["box1"] == {"state": "succeeded", "exit_code": 0, "stdout": "it's\n"}


async def test_failures_beyond_the_budget_fail_the_step(part: FleetPart) -> None:
    with pytest.raises(PermanentError) as caught:
        await SshAction(run="exit 3", targets="box[1-3]").apply(scene(part))
    assert "exit code 3" in str(caught.value)
    allowed = await SshAction(run="true", targets="all", max_fail="2").apply(scene(part))
    assert allowed.outputs["failed"] == ["dead1", "dead2"]


async def test_a_step_that_ran_nowhere_may_be_tried_again(part: FleetPart) -> None:
    with pytest.raises(TransientError) as caught:
        await SshAction(run="true", targets="dead*").apply(scene(part))
    assert "dead[1-2]: refused" in str(caught.value)


async def test_a_target_that_is_not_there_is_permanent(part: FleetPart) -> None:
    with pytest.raises(PermanentError):
        await SshAction(run="true", targets="nobody").apply(scene(part))


def test_mistakes_are_found_before_anything_runs() -> None:
    action = SshAction(run=" ", targets="all", batch="50%,10%", max_fail="x")
    assert [path for path, _, _ in action.faults()] == [("run",), ("batch",), ("max_fail",)]
    assert list(SshAction(run="true", targets="all", max_fail="{{ params.n }}").faults()) == []
