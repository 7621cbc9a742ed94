"""The operation `package` with a real apk, where this machine has one, on a repository of two versions.

No package of Debian has it: elsewhere `test_operations_machine.py` has a stand-in that says what apk says.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from tests.integration.fleet.machine import InsideConnection, Machine, machine
from tests.integration.fleet.operating import Box

APK = shutil.which("apk")
pytestmark = pytest.mark.skipif(APK is None, reason="apk is not here (Alpine's; no package of Debian has it)")


def packed(files: dict[str, str], *, ended: bool) -> bytes:
    """Return a gzipped tar; ended: with the blocks of zeros that only the last part of a package has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            for above in reversed(PurePosixPath(name).parents[:-1]):
                folder = tarfile.TarInfo(str(above))
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
            about = tarfile.TarInfo(name)
            about.size = len(text.encode())
            if ended:
                about.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(text.encode()).hexdigest()}
            archive.addfile(about, io.BytesIO(text.encode()))
        end = archive.offset
    return gzip.compress(out.getvalue() if ended else out.getvalue()[:end], mtime=0)


def index(inside: Machine, *versions: str) -> None:
    """Make a repository of these versions of dw-example."""
    folder = inside.folder / "mnt" / "noarch"
    folder.mkdir(exist_ok=True)
    for version in versions:
        data = packed({"opt/dw/conf": f"version {version}\n"}, ended=True)
        about = (
            f"pkgname = dw-example\npkgver = {version}\npkgdesc = an example\nurl = none\nsize = 20\narch = noarch\n"
            f"license = none\ndatahash = {hashlib.sha256(data).hexdigest()}\n"
        )
        (folder / f"dw-example-{version}.apk").write_bytes(packed({".PKGINFO": about}, ended=False) + data)
    names = shlex.join(f"/mnt/noarch/{path.name}" for path in sorted(folder.glob("*.apk")))
    # Where the packages of any machine lie, and where those of this kind are looked for.
    arch = inside.run("apk --print-arch").strip()
    inside.run(f"apk index -q -o /mnt/noarch/APKINDEX.tar.gz {names}; ln -sfn noarch /mnt/{arch}; apk update -q")


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "machine") as one:
        hidden = one.folder / "empty"
        hidden.write_text("")
        for other in ("apt-get", "dnf"):
            one.run(f"! command -v {other} || mount --bind {hidden} $(command -v {other})")
        # It has a root of its own, and nothing of it is signed.
        one.program("apk", f'#!/bin/sh\nexec {APK} --allow-untrusted --no-network --root /opt/alpine "$@"\n')
        (one.folder / "opt" / "alpine").mkdir()
        one.run("apk add -q --initdb && mkdir -p /opt/alpine/etc/apk && echo /mnt > /opt/alpine/etc/apk/repositories")
        yield one


@pytest.fixture
def box(tmp_path: Path, inside: Machine) -> Box:
    (tmp_path / "beside").mkdir()
    return Box(tmp_path, tmp_path / "beside", tmp_path / "state", InsideConnection(inside))


async def test_packages_come_are_renewed_and_go(box: Box, inside: Machine) -> None:
    index(inside, "1.0-r0")
    conf = inside.folder / "opt" / "alpine" / "opt" / "dw" / "conf"
    wanted = [{"package": {"name": "dw-example"}}]
    plan = await box.plan(wanted)
    assert [step.title for item in plan.items for step in item.steps] == ["install dw-example"]
    assert not conf.exists()
    assert (await box.apply(plan, "a1")).message == ""
    assert conf.read_text() == "version 1.0-r0\n"
    assert (await box.plan(wanted)).items == ()
    index(inside, "1.0-r0", "1.1-r0")
    assert (await box.plan(wanted)).items == ()
    newest = await box.plan([{"package": {"name": "dw-example", "state": "latest"}}])
    assert [step.diff for item in newest.items for step in item.steps] == ["dw-example 1.0-r0 → 1.1-r0\n"]
    assert (await box.apply(newest, "a2")).message == ""
    assert conf.read_text() == "version 1.1-r0\n"
    assert (await box.plan([{"package": {"name": "dw-example", "state": "latest"}}])).items == ()
    assert (await box.plan([{"package": {"name": "dw-example=1.1"}}])).items == ()
    gone = [{"package": {"name": "dw-example", "state": "absent"}}]
    going = await box.plan(gone)
    assert (await box.apply(going, "a3")).message == ""
    assert not conf.exists()
    assert (await box.plan(gone)).items == ()
    assert (await box.back(going, "a3")).state == "rolled back"
    assert conf.read_text() == "version 1.1-r0\n"


async def test_what_is_not_there(box: Box, inside: Machine) -> None:
    index(inside, "1.0-r0")
    missing = await box.apply(await box.plan([{"package": {"name": "dw-no-such"}}]))
    assert missing.state == "failed"
    assert "dw-no-such" in missing.message
