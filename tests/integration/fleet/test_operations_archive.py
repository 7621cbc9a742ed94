"""The operations `archive` and `git`: whole trees of files, and what must not come out of an archive."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.integration.fleet.operating import Box, predicted, tree


@pytest.fixture
def box(tmp_path: Path) -> Box:
    for name in ("root", "beside"):
        (tmp_path / name).mkdir()
    return Box(tmp_path / "root", tmp_path / "beside", tmp_path / "state")


def tar_of(path: Path, members: dict[str, bytes | str], *, top: str = "app-1.0/") -> None:
    """Write an archive; text leads where a link of that name does."""
    with tarfile.open(path, "w:gz") as tar:
        folder = tarfile.TarInfo(top.rstrip("/"))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for name, content in members.items():
            info = tarfile.TarInfo(top + name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o755 if name.startswith("bin") else 0o640
                tar.addfile(info, io.BytesIO(content))


MEMBERS: dict[str, bytes | str] = {
    "bin/run": b"#!/bin/sh\necho run\n",
    "share/a b'c": b"\0\xff\n",
    "etc/deep/er/conf": b"x = 1\n",
    "current": "share",
}


async def test_an_archive(box: Box) -> None:
    tar_of(box.folder / "app.tgz", MEMBERS)
    (box.root / "app" / "bin").mkdir(parents=True)
    (box.root / "app" / "bin" / "run").write_text("old")
    (box.root / "app" / "mine").write_text("stays")
    before = tree(box.root)
    operations = [{"archive": {"src": "app.tgz", "path": "{{ root }}/app", "strip": 1}}]
    plan = await box.plan(operations)
    assert tree(box.root) == before
    assert [step.diff for item in plan.items for step in item.steps] == [
        "~bin/run\n+share/a b'c\n+etc/deep/er/conf\n+current\n"
    ]
    assert (await box.apply(plan, "a1")).state == "applied"
    after = tree(box.root)
    assert after["app/bin/run"][1] == "755"
    assert after["app/bin/run"][-1] == b"#!/bin/sh\necho run\n"
    assert after["app/share/a b'c"][-1] == b"\0\xff\n"
    assert after["app/current"] == ("link", "share")
    assert after["app/mine"][-1] == b"stays"
    assert [name for name in after if ".dogwatch" in name] == []
    now = await box.seals(plan)
    foretold = {key: seal for key, seal in predicted(plan).items() if key.startswith("files")}
    assert {key: now[key] for key in foretold} == foretold
    assert (await box.plan(operations)).items == ()
    (box.root / "app" / "etc/deep/er/conf").write_text("by hand")
    assert [step.diff for item in (await box.plan(operations)).items for step in item.steps] == ["~etc/deep/er/conf\n"]
    (box.root / "app" / "etc/deep/er/conf").write_text("x = 1\n")
    assert (await box.back(plan, "a1")).state == "rolled back"
    left = tree(box.root)
    assert {name: about for name, about in left.items() if about[0] != "folder"} == {
        name: about for name, about in before.items() if about[0] != "folder"
    }


async def test_a_zip(box: Box) -> None:
    with zipfile.ZipFile(box.folder / "a.zip", "w") as archive:
        archive.writestr("d/f", "content")
    plan = await box.plan([{"archive": {"src": "a.zip", "path": "{{ root }}"}}])
    assert (await box.apply(plan)).state == "applied"
    assert (box.root / "d" / "f").read_text() == "content"


@pytest.mark.parametrize(
    ("name", "target"), [("../../out", None), ("/etc/passwd", None), ("l", "/etc"), ("l", "../../x"), ("a\nb", None)]
)
async def test_what_leads_out_of_the_folder_is_refused(box: Box, name: str, target: str | None) -> None:
    tar_of(box.folder / "evil.tar", {name: b"x" if target is None else target}, top="" if name[0] in "/." else "t/")
    plan = await box.plan([{"archive": {"src": "evil.tar", "path": "{{ root }}"}}])
    assert plan.items == ()
    assert "leads out of the folder" in plan.problems[0] or "is not unpacked" in plan.problems[0]


async def test_no_archive(box: Box) -> None:
    (box.folder / "a.tar").write_bytes(b"no archive")
    plan = await box.plan([{"archive": {"src": "a.tar", "path": "{{ root }}"}}])
    assert "cannot be read as an archive" in plan.problems[0]


def git(folder: Path, *words: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    repo = tmp_path / "it's a repo".replace(" ", "_")
    repo.mkdir()
    git(repo, "init", "-q")
    for at in (1, 2):
        (repo / "f").write_text(f"{at}\n")
        git(repo, "add", "f")
        git(repo, "commit", "-qm", str(at))
        git(repo, "tag", "-a", f"v{at}", "-m", "x")
    return repo


async def test_a_checkout(box: Box, repository: Path) -> None:
    def wanted(version: str) -> list[dict[str, dict[str, str]]]:
        return [{"git": {"repo": str(repository), "path": "{{ root }}/co", "version": version}}]

    plan = await box.plan(wanted("v1"))
    assert tree(box.root) == {}
    assert (await box.apply(plan, "a1")).message == ""
    assert (box.root / "co" / "f").read_text() == "1\n"
    assert (await box.plan(wanted("v1"))).items == ()
    assert (await box.plan(wanted(git(repository, "rev-parse", "v1^{commit}")))).items == ()
    forward = await box.plan(wanted("main"))
    assert (await box.apply(forward, "a2")).message == ""
    assert (box.root / "co" / "f").read_text() == "2\n"
    assert (await box.plan(wanted("main"))).items == ()
    now = await box.seals(forward)
    assert {key: now[key] for key in predicted(forward) if key.startswith("git")} == {
        key: seal for key, seal in predicted(forward).items() if key.startswith("git")
    }
    (repository / "f").write_text("3\n")
    git(repository, "commit", "-qam", "3")
    assert len((await box.plan(wanted("main"))).items) == 1
    assert (await box.back(forward, "a2")).state == "rolled back"
    assert (box.root / "co" / "f").read_text() == "1\n"
    (box.root / "co" / "f").write_text("by hand")
    assert "has changes of its own" in (await box.plan(wanted("main"))).problems[0]
    assert "has no version nope" in (await box.plan(wanted("nope"))).problems[0]
    git(box.root / "co", "checkout", "-q", "f")
    assert (await box.back(plan, "a1")).state == "rolled back"
    assert tree(box.root) == {}


async def test_a_depth(box: Box, repository: Path) -> None:
    operations = [{"git": {"repo": f"file://{repository}", "path": "{{ root }}/co", "version": "main", "depth": 1}}]
    assert (await box.apply(await box.plan(operations))).message == ""
    assert git(box.root / "co", "rev-list", "--count", "HEAD") == "1"
    assert (await box.plan(operations)).items == ()
