"""The operation `package` with a real dnf and rpm, on a repository of two versions, in a machine inside this one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fleet.machine import InsideConnection, Machine, machine
from tests.integration.fleet.operating import Box

PROGRAMS = ("dnf", "rpm", "rpmbuild", "createrepo_c")
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in PROGRAMS), reason="needs dnf, rpm and createrepo-c of Debian"
)
SPEC = """Name: dw-example
Version: {version}
Release: 1
Summary: an example
License: none
BuildArch: noarch
%description
An example.
%install
mkdir -p %{{buildroot}}/opt/dw
echo version {version} > %{{buildroot}}/opt/dw/conf
%files
/opt/dw/conf
"""


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "machine") as one:
        hidden = one.folder / "empty"
        hidden.write_text("")
        # What is known of packages, and what dnf remembers, is of this machine alone; apt would be found first.
        # Debian's rpm keeps what it knows in root's home, which is this machine's own.
        (one.folder / "etc" / "rpm").mkdir(exist_ok=True)
        (one.folder / "etc" / "rpm" / "macros.dw").write_text("%_dbpath /var/lib/rpm\n")
        one.run(
            "for d in /var/lib/rpm /var/lib/dnf /var/cache/dnf; do mkdir -p $d && mount -t tmpfs tmpfs $d; done; "
            f"mount --bind {hidden} $(command -v apt-get); mkdir -p /etc/yum.repos.d; "
            "rm -f /etc/yum.repos.d/*; rpm --initdb"
        )
        assert one.run("rpm --eval %_dbpath; rpm -qa") == "/var/lib/rpm\n"
        repository = one.folder / "etc" / "yum.repos.d" / "dw.repo"
        repository.write_text("[dw]\nname=dw\nbaseurl=file:///mnt/repo\ngpgcheck=0\nmetadata_expire=never\n")
        (one.folder / "mnt" / "repo").mkdir()
        yield one


@pytest.fixture
def box(tmp_path: Path, inside: Machine) -> Box:
    (tmp_path / "beside").mkdir()
    return Box(tmp_path, tmp_path / "beside", tmp_path / "state", InsideConnection(inside))


def publish(tmp_path: Path, inside: Machine, version: str) -> None:
    """Build a package, and put it into the repository."""
    spec = tmp_path / "dw.spec"
    spec.write_text(SPEC.format(version=version))
    words = ["rpmbuild", "-bb", "--nodeps"]
    for name, value in (("topdir", "build"), ("rpmdir", "machine/mnt/repo"), ("dbpath", "db")):
        words += ["--define", f"_{name} {tmp_path}/{value}"]
    subprocess.run([*words, spec], check=True, timeout=60, capture_output=True)
    subprocess.run(["createrepo_c", "-q", inside.folder / "mnt" / "repo"], check=True, timeout=60, capture_output=True)


def known(inside: Machine) -> str:
    return inside.run("rpm -qa; ls -R /opt")


def package(**options: Any) -> list[dict[str, Any]]:
    return [{"package": options}]


async def test_packages_come_are_renewed_and_go(box: Box, inside: Machine, tmp_path: Path) -> None:
    publish(tmp_path, inside, "1.0")
    wanted = [*package(name="dw-example", refresh=True), {"line": {"path": "/opt/dw/conf", "line": "mine"}}]
    before = known(inside)
    plan = await box.plan(wanted)
    assert known(inside) == before, "a plan changed something"
    assert [(item.later, [step.title for step in item.steps]) for item in plan.items] == [
        ("", ["install dw-example"]),
        ("package dw-example", []),
    ]
    done = await box.apply(plan, "a1")
    assert (done.state, done.message) == ("applied", "")
    assert inside.run("rpm -q dw-example; cat /opt/dw/conf") == "dw-example-1.0-1.noarch\nversion 1.0\nmine\n"
    assert (await box.plan(wanted)).items == ()
    publish(tmp_path, inside, "1.1")
    inside.run("dnf -q makecache --refresh")
    newest = await box.plan(package(name="dw-example", state="latest"))
    assert [step.diff for item in newest.items for step in item.steps] == ["dw-example 1.0-1 → 1.1-1\n"]
    assert (await box.apply(newest, "a2")).message == ""
    assert inside.run("rpm -q dw-example") == "dw-example-1.1-1.noarch\n"
    assert (await box.plan(package(name="dw-example", state="latest"))).items == ()
    gone = package(name=["dw-example"], state="absent")
    assert (await box.apply(await box.plan(gone), "a3")).message == ""
    assert known(inside).startswith("/opt:")
    assert (await box.plan(gone)).items == ()


async def test_the_way_back_and_what_is_not_there(box: Box, inside: Machine, tmp_path: Path) -> None:
    publish(tmp_path, inside, "1.0")
    before = known(inside)
    plan = await box.plan(package(name="dw-example", refresh=True))
    assert (await box.apply(plan, "a1")).message == ""
    back = await box.back(plan, "a1")
    assert (back.state, back.message) == ("rolled back", "")
    assert [line for line in known(inside).splitlines() if "dw-example" in line] == []
    assert before.startswith("/opt:")
    missing = await box.apply(await box.plan(package(name="dw-no-such")), "a2")
    assert missing.state == "failed"
    assert "dw-no-such" in missing.message
