"""Operations on the system itself, in a machine inside this one: accounts, crontabs, mounts, services, packages."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.fleet.machine import InsideConnection, Machine, machine
from tests.integration.fleet.operating import Box, predicted, tree

CASES = Path(__file__).parents[2] / "cases" / "operations_machine"

# systemd is not the first process here: the unit's states are kept in files.
SYSTEMCTL = r"""#!/bin/sh
verb=$1; shift; while [ $# -gt 1 ]; do shift; done; u=$1; f=/opt/units/$u
[ "$verb" = show ] || echo "$verb $u" >> /opt/systemctl.log
read -r load active file < "$f" 2>/dev/null || { load=not-found; active=inactive; file=; }
case $verb in
  show) printf 'LoadState=%s\nActiveState=%s\nUnitFileState=%s\n' "$load" "$active" "$file"; exit;;
  start|restart|reload-or-restart) active=active;;
  stop) active=inactive;;
  enable) file=enabled;;
  disable) file=disabled;;
  mask) load=masked; file=masked;;
  unmask) load=loaded; file=static;;
esac
[ -e "$f" ] || { echo "Unit $u not found." >&2; exit 5; }
echo "$load $active $file" > "$f"
"""


def cases() -> list[Any]:
    found = []
    for path in sorted(CASES.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text()):
            found.append(pytest.param(case, id=f"{path.stem}: {case['name']}"))
    return found


@pytest.fixture
def inside(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine(tmp_path / "machine", packages="repository" in request.fixturenames) as one:
        yield one


@pytest.fixture
def box(tmp_path: Path, inside: Machine) -> Box:
    for name in ("root", "beside"):
        (tmp_path / name).mkdir()
    return Box(tmp_path / "root", tmp_path / "beside", tmp_path / "state", InsideConnection(inside))


def whole(inside: Machine) -> dict[str, Any]:
    """Return everything that the machine has of its own, byte for byte; not what programs note when they only look."""
    return {
        name: about
        for name, about in tree(inside.folder).items()
        if not name.startswith(("var/cache/apt", "var/log", "bin/"))
    }


@pytest.mark.parametrize("case", cases())
async def test_case(case: dict[str, Any], box: Box, inside: Machine) -> None:
    if "needs" in case and shutil.which(case["needs"]) is None:
        pytest.skip(f"{case['needs']} is not installed")
    if "systemctl" in case:
        inside.program("systemctl", SYSTEMCTL)
        (inside.folder / "opt" / "units").mkdir()
        for unit, about in case["systemctl"].items():
            (inside.folder / "opt" / "units" / unit).write_text(about + "\n")
    if "first" in case:
        inside.run(case["first"])
    operations = case["operation"] if isinstance(case["operation"], list) else [case["operation"]]
    before = whole(inside)
    plan = await box.plan(operations, handlers=case.get("handlers"))
    assert whole(inside) == before, "a plan changed something"
    if "refused" in case:
        assert case["refused"] in " ".join(plan.problems)
        return
    assert plan.problems == ()
    if "titles" in case:
        assert [step.title for item in plan.items for step in item.steps] == case["titles"]
    if "diff" in case:
        assert "".join(step.diff for item in plan.items for step in item.steps) == case["diff"]
    done = await box.apply(plan, "a1")
    assert (done.message, done.state) == ("", "applied" if plan.items else "unchanged")
    for script, said in case.get("asks", ()):
        assert inside.run(script) == said
    now, foretold = await box.seals(plan), predicted(plan)
    assert {key: now[key] for key in foretold} == foretold, "the plan did not foretell what came"
    again = await box.plan(operations, handlers=case.get("handlers"))
    assert [step.title for item in again.items for step in item.steps] == []
    if not case.get("one_way"):
        back = await box.back(plan, "a1")
        assert back.state in ("rolled back", "unchanged"), back.message
        if not back.message:
            facts = {key: seal for key, seal in (await box.seals(plan)).items() if not key.startswith("user ")}
            assert facts == {key: plan.facts[key] for key in facts}


@pytest.fixture
def repository(tmp_path: Path, inside: Machine) -> Path:
    """A repository of apt with two versions of one small package; nothing of it runs or is started."""
    if shutil.which("dpkg-deb") is None or shutil.which("apt-get") is None:
        pytest.skip("needs dpkg and apt")
    folder = inside.folder / "mnt" / "repo"
    folder.mkdir()
    for version in ("1.0", "1.1"):
        root = tmp_path / f"deb{version}"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "opt" / "dw").mkdir(parents=True)
        (root / "opt" / "dw" / "conf").write_text(f"version {version}\n")
        (root / "DEBIAN" / "control").write_text(
            f"Package: dw-example\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.org>\n"
            "Description: an example\n"
        )
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", root, folder], check=True, timeout=30, stdout=subprocess.DEVNULL
        )
    index(folder, "1.0")
    sources = inside.folder / "etc" / "apt"
    for path in sources.glob("sources.list*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (sources / "sources.list").write_text("deb [trusted=yes] file:///mnt/repo ./\n")
    return folder


def index(folder: Path, *versions: str) -> None:
    text = ""
    for version in versions:
        deb = folder / f"dw-example_{version}_all.deb"
        control = subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True, timeout=60).stdout
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        text += f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n\n"
    (folder / "Packages").write_text(text)


async def test_packages_of_apt(box: Box, inside: Machine, repository: Path) -> None:
    wanted = [
        {"package": {"name": "dw-example", "refresh": True}},
        {"line": {"path": "/opt/dw/conf", "line": "mine"}},
    ]
    before = whole(inside)
    plan = await box.plan(wanted)
    assert whole(inside) == before
    assert [(item.later, [step.title for step in item.steps]) for item in plan.items] == [
        ("", ["install dw-example"]),
        ("package dw-example", []),
    ]
    done = await box.apply(plan, "a1")
    assert (done.state, done.message) == ("applied", "")
    assert inside.run("cat /opt/dw/conf") == "version 1.0\nmine\n"
    assert (await box.plan(wanted)).items == ()
    index(repository, "1.0", "1.1")
    inside.run("apt-get -q update")
    newest = await box.plan([{"package": {"name": "dw-example", "state": "latest"}}])
    assert [step.diff for item in newest.items for step in item.steps] == ["dw-example 1.0 → 1.1\n"]
    assert (await box.apply(newest)).message == ""
    assert inside.run("dpkg-query -W -f '${Version}' dw-example") == "1.1"
    pinned = await box.plan([{"package": {"name": "dw-example=1.1"}}])
    assert pinned.items == ()
    gone = [{"package": {"name": ["dw-example"], "state": "absent", "purge": True}}]
    assert (await box.apply(await box.plan(gone), "a2")).message == ""
    assert (await box.plan(gone)).items == ()
    missing = await box.apply(await box.plan([{"package": {"name": "dw-no-such"}}]))
    assert missing.state == "failed"
    assert "Unable to locate package dw-no-such" in missing.message


RPM = r"""#!/bin/sh
while [ "$1" != -- ] && [ $# -gt 0 ]; do
  case $1 in -q|--qf|'%{NAME} %{VERSION}-%{RELEASE}\n') shift;; *) break;; esac
done
for x in "$@"; do
  if [ -e "/opt/db/$x" ]; then echo "$x $(cat "/opt/db/$x")"; else echo "package $x is not installed"; fi
done
"""
DNF = r"""#!/bin/sh
while [ $# -gt 0 ]; do case $1 in -*) shift;; *) break;; esac; done
verb=$1; shift; [ "$1" != -- ] || shift
case $verb in
  install) for x in "$@"; do echo 1.0-1 > "/opt/db/$x"; done;;
  remove) for x in "$@"; do rm "/opt/db/$x"; done;;
esac
"""
APK = r"""#!/bin/sh
verb=$1; shift
while :; do case $1 in -q|-e|-v|-u|--) shift;; *) break;; esac; done
case $verb in
  info) [ -e "/opt/db/$1" ] && echo "$1-$(cat "/opt/db/$1")";;
  add) for x in "$@"; do echo 1.0-r0 > "/opt/db/${x%%=*}"; done;;
  del) for x in "$@"; do rm "/opt/db/$x"; done;;
esac
"""


@pytest.mark.parametrize("manager", ["dnf", "apk"])
async def test_packages_of_others(box: Box, inside: Machine, manager: str) -> None:
    """Stand-ins that keep packages in files: what is said to dnf, rpm and apk, and what is read from them."""
    (inside.folder / "opt" / "db").mkdir()
    for name, text in (("rpm", RPM), ("dnf", DNF)) if manager == "dnf" else (("apk", APK),):
        inside.program(name, text)
    hidden = inside.folder / "empty"
    hidden.write_text("")
    for other in {"apt-get", "dnf"} - {manager}:
        # A file that cannot be run.
        inside.run(f"! command -v {other} || mount --bind {hidden} $(command -v {other})")
    wanted = [{"package": {"name": ["one", "two-x"]}}]
    plan = await box.plan(wanted)
    assert plan.problems == ()
    assert (await box.apply(plan, "a1")).message == ""
    assert sorted(path.name for path in (inside.folder / "opt" / "db").iterdir()) == ["one", "two-x"]
    assert (await box.plan(wanted)).items == ()
    assert (await box.back(plan, "a1")).state == "rolled back"
    assert list((inside.folder / "opt" / "db").iterdir()) == []


async def test_a_full_disk(box: Box, inside: Machine) -> None:
    """A file that does not fit is not half there, and what was there stays; the rest is done when there is room."""
    inside.run("mkdir /opt/small && mount -t tmpfs -o size=256k tmpfs /opt/small && echo old > /opt/small/f")
    (box.folder / "big").write_bytes(b"x" * 1_000_000)
    plan = await box.plan(
        [{"file": {"path": "/opt/small/a", "content": "a"}}, {"file": {"path": "/opt/small/f", "src": "big"}}]
    )
    done = await box.apply(plan, "a1")
    assert done.state == "failed"
    assert "No space left on device" in done.message
    assert inside.run("ls -A /opt/small; cat /opt/small/f") == "a\nf\nold\n"
    inside.run("mount -o remount,size=8m /opt/small")
    assert (await box.apply(plan, "a1", resume=True)).state == "applied"
    assert inside.run("wc -c < /opt/small/f") == "1000000\n"


async def test_no_room_for_what_is_kept(box: Box, inside: Machine) -> None:
    """Where the changes themselves do not arrive whole, nothing is begun."""
    inside.run("mkdir /opt/small && mount -t tmpfs -o size=64k tmpfs /opt/small")
    box.state = Path("/opt/small/state")
    (box.folder / "big").write_bytes(b"x" * 1_000_000)
    plan = await box.plan([{"file": {"path": "/opt/f", "content": "a"}}, {"file": {"path": "/opt/g", "src": "big"}}])
    done = await box.apply(plan)
    assert done.state == "failed"
    assert "did not arrive whole" in done.message
    assert inside.run("ls /opt; find /opt/small -type f") == "small\n"


async def test_a_busybox_host(box: Box, inside: Machine) -> None:
    """The scripts need no more than busybox has."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    applets = inside.run("busybox --list").split()
    for name in applets:
        if name not in ("busybox", "nsenter", "env", "unshare"):
            (inside.bin / name).symlink_to(shutil.which("busybox") or "")
    (box.root / "a").write_text("old\n")
    (box.root / "d").mkdir()
    (box.root / "k").symlink_to("d")
    operations = [
        {"file": {"path": "{{ root }}/a", "content": "new\n", "mode": "600"}},
        {"directory": {"path": "{{ root }}/d", "mode": "700"}},
        {"line": {"path": "{{ root }}/d/f", "line": "x", "create": True}},
        {"link": {"path": "{{ root }}/k", "target": "a"}},
        {"command": {"run": "echo x > {{ root }}/m", "creates": "{{ root }}/m"}},
    ]
    before = tree(box.root)
    plan = await box.plan(operations)
    assert plan.problems == ()
    done = await box.apply(plan, "a1")
    assert (done.state, done.message) == ("applied", "")
    assert (box.root / "d" / "f").read_text() == "x\n"
    assert (await box.plan(operations)).items == ()
    assert (await box.back(plan, "a1")).state == "rolled back"
    (box.root / "m").unlink()
    assert tree(box.root) == before
