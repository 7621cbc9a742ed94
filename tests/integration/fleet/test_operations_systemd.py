"""The operation `service` against a real systemd, the first process of a machine inside this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fleet.booted import Booted, booted
from tests.integration.fleet.machine import InsideConnection
from tests.integration.fleet.operating import Box, predicted

UNIT = """[Unit]
Description=an example
[Service]
ExecStart=/bin/sleep 1000
{more}[Install]
WantedBy=multi-user.target
"""
NAMES = ("dw-plain", "dw-broken", "dw-static")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    with booted(tmp_path_factory.mktemp("booted")) as one:
        yield one


@pytest.fixture
def box(tmp_path: Path, inside: Booted) -> Box:
    units = {
        "dw-plain": UNIT.format(more="ExecReload=/bin/sh -c 'echo x >> /run/reloaded'\n"),
        "dw-broken": UNIT.format(more="ExecStartPre=/bin/false\n"),
        "dw-static": UNIT.format(more="").partition("[Install]")[0],
    }
    for name in units:
        inside.run(f"systemctl unmask {name} 2>&1; systemctl stop {name} 2>&1; systemctl disable {name} 2>&1; true")
    for name, text in units.items():
        inside.run(f"cat > /etc/systemd/system/{name}.service <<'EOF'\n{text}EOF")
    inside.run("systemctl daemon-reload; systemctl reset-failed; rm -f /run/reloaded")
    return Box(Path("/root"), tmp_path, Path(f"/var/lib/dw-{tmp_path.name}"), InsideConnection(inside))


def seen(inside: Booted) -> str:
    """Return how units are, and what of them is on disk."""
    names = " ".join(NAMES)
    return inside.run(
        f"systemctl show -p Id -p LoadState -p ActiveState -p UnitFileState -p MainPID -- {names}; "
        "find /etc/systemd/system /run/systemd/system -name 'dw-*' -exec ls -ld {} + | sort"
    )


def service(name: str, **options: Any) -> dict[str, Any]:
    return {"service": {"name": name, **options}}


CASES: list[tuple[str, str, dict[str, Any], list[str], str]] = [
    ("now and later", "", service("dw-plain", running=True, enabled=True), ["enable dw-plain", "start dw-plain"],
     "active enabled"),
    ("as it is", "systemctl enable --now dw-plain", service("dw-plain", running=True, enabled=True), [],
     "active enabled"),
    ("not any more", "systemctl enable --now dw-plain", service("dw-plain", running=False, enabled=False),
     ["disable dw-plain", "stop dw-plain"], "inactive disabled"),
    ("only later", "", service("dw-plain", enabled=True), ["enable dw-plain"], "inactive enabled"),
    ("with its whole name", "", service("dw-plain.service", running=True), ["start dw-plain.service"],
     "active disabled"),
    ("needs no enabling", "", service("dw-static", running=True, enabled=True), ["start dw-static"], "active static"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "first", "wanted", "titles", "after"), CASES, ids=[case[0] for case in CASES])
async def test_units(
    name: str, first: str, wanted: dict[str, Any], titles: list[str], after: str, box: Box, inside: Booted
) -> None:
    if first:
        inside.run(f"{first} 2>&1")
    unit = wanted["service"]["name"]
    before = seen(inside)
    plan = await box.plan([wanted])
    assert seen(inside) == before, "a plan changed something"
    assert [step.title for item in plan.items for step in item.steps] == titles
    done = await box.apply(plan, "a1")
    assert (done.message, done.state) == ("", "applied" if titles else "unchanged")
    told = dict(
        line.split("=", 1) for line in inside.run(f"systemctl show -p ActiveState -p UnitFileState {unit}").splitlines()
    )
    assert f"{told['ActiveState']} {told['UnitFileState']}" == after
    now, foretold = await box.seals(plan), predicted(plan)
    assert {key: now[key] for key in foretold} == foretold, "the plan did not foretell what came"
    assert (await box.plan([wanted])).items == ()
    assert (await box.back(plan, "a1")).state in ("rolled back", "unchanged")
    facts = await box.seals(plan)
    assert facts == {key: plan.facts[key] for key in facts}


async def test_masked_and_back(box: Box, inside: Booted) -> None:
    inside.run(
        "systemctl enable --now dw-static 2>&1; rm /etc/systemd/system/dw-plain.service; systemctl daemon-reload"
    )
    # One whose file is in /etc itself cannot be masked: systemd says so, and so does the apply.
    refused = await box.apply(await box.plan([service("dw-static", masked=True)]), "a1")
    assert (refused.state, "already exists" in refused.message) == ("failed", True), refused.message
    inside.run("mkdir -p /run/systemd/system && mv /etc/systemd/system/dw-static.service /run/systemd/system/; "
               "systemctl daemon-reload")  # fmt: skip
    plan = await box.plan([service("dw-static", masked=True, running=False)])
    assert (await box.apply(plan, "a2")).message == ""
    assert "LoadState=masked" in inside.run("systemctl show -p LoadState dw-static")
    assert (await box.plan([service("dw-static", masked=True, running=False)])).items == ()
    assert (await box.back(plan, "a2")).state == "rolled back"
    assert "ActiveState=active" in inside.run("systemctl show -p ActiveState dw-static")
    inside.run("rm /run/systemd/system/dw-static.service; systemctl daemon-reload")


async def test_one_that_does_not_start_is_told(box: Box) -> None:
    done = await box.apply(await box.plan([service("dw-broken", running=True)]))
    assert done.state == "failed"
    assert "Job for dw-broken.service failed" in done.message
    missing = await box.plan([service("dw-none", running=True)])
    assert ["there is no unit dw-none" in problem for problem in missing.problems] == [True]


async def test_a_new_unit_is_read_and_started_and_read_again_by_its_handler(box: Box, inside: Booted) -> None:
    operations = [
        {"file": {"path": "/etc/systemd/system/dw-new.service", "content": UNIT.format(more="")}, "notify": "read"},
        {"file": {"path": "/etc/dw-plain.conf", "content": "x"}, "notify": ["reload", "restart"]},
    ]
    handlers = [
        {"name": "read", "service": {"name": "dw-new", "daemon_reload": True, "running": True}},
        {"name": "reload", "service": {"name": "dw-plain", "reloaded": True}},
        {"name": "restart", "service": {"name": "dw-static", "restarted": True}},
    ]
    inside.run("systemctl start dw-plain dw-static")
    first = inside.run("systemctl show -p MainPID dw-plain dw-static")
    plan = await box.plan(operations, handlers=handlers)
    assert plan.problems == ()
    done = await box.apply(plan)
    assert (done.state, done.message) == ("applied", "")
    assert "ActiveState=active" in inside.run("systemctl show -p ActiveState dw-new")
    assert inside.run("cat /run/reloaded") == "x\n"
    now = inside.run("systemctl show -p MainPID dw-plain dw-static")
    assert [a == b for a, b in zip(first.split(), now.split(), strict=True)] == [True, False]
    assert (await box.plan(operations, handlers=handlers)).items == ()
    # A unit that runs and whose file is another now is read anew, and only then.
    again = [
        {"file": {"path": "/etc/systemd/system/dw-new.service", "content": UNIT.format(more="Nice=3\n")}},
        {"service": {"name": "dw-new", "running": True, "daemon_reload": True}},
    ]
    changed = await box.plan(again)
    assert [step.title for item in changed.items for step in item.steps][1:] == ["have systemd read its units anew"]
    assert (await box.apply(changed, "a2")).message == ""
    assert "Nice=3" in inside.run("systemctl show -p Nice dw-new")
    assert (await box.plan(again)).items == ()
    inside.run("echo '# x' >> /etc/systemd/system/dw-new.service")
    assert [item.name for item in (await box.plan(again[1:])).items] == ["service dw-new"]
    inside.run("systemctl stop dw-new; rm /etc/systemd/system/dw-new.service; systemctl daemon-reload")
