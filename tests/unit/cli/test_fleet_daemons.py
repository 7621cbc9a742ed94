"""Which daemon the commands of the fleet ask: what flags say wins over what the environment says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from dogwatch.cli.contexts import Context, Contexts
from dogwatch.cli.fleet import fleet
from dogwatch.cli.fleet_plans import apply_
from dogwatch.cli.fleet_probes import gate_of
from dogwatch.errors import Unreachable, UsageError
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.plans.plan import Plan, PlayPlan

# Nobody listens on these.
PROD, OTHER = "http://127.0.0.1:1", "http://127.0.0.1:2"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "contexts.json"
    file.write_bytes(msgspec.json.encode(Contexts(contexts={"prod": Context(server=PROD)})))
    return {"DOGWATCH_CONTEXTS": str(file), "DOGWATCH_SERVER": OTHER, "DOGWATCH_SOCKET": str(tmp_path / "none")}


def test_a_context_by_flag_wins_over_the_environments_server(environment: dict[str, str]) -> None:
    failed = CliRunner().invoke(fleet, ["plans", "--context", "prod"], env=environment).exception
    assert isinstance(failed, Unreachable)
    assert PROD in str(failed)


def test_a_server_and_a_context_are_not_both_meant(environment: dict[str, str]) -> None:
    for command in (["list"], ["runs"], ["run", "uptime", "-t", "all"]):
        flags = ["--server", OTHER, "--context", "prod"]
        failed = CliRunner().invoke(fleet, [*command[:1], *flags, *command[1:]], env=environment).exception
        assert isinstance(failed, UsageError), command
        assert "both given" in str(failed)


def test_the_probes_are_those_of_the_context(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    play = PlayPlan(name="shop", targets="all", hosts=(), probes=("shop-*",))
    plan = Plan(plan_id="1", made_at_s=0.0, made_by="me", playbook="site", folder="", salt="", plays=(play,))
    with (
        apply_.make_context("apply", ["site.plan", "--context", "prod"]),
        pytest.raises(Unreachable, match=PROD),
    ):
        gate_of(plan, Inventory({}, {}, {}, {}, ({}, {})), None, "prod")


def test_drift_takes_no_filters(environment: dict[str, str]) -> None:
    failed = CliRunner().invoke(fleet, ["plans", "--drift", "--playbook", "shop"], env=environment).exception
    assert isinstance(failed, UsageError)
    assert "--drift takes no filters" in str(failed)
