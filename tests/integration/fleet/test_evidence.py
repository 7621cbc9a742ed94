"""What a machine looks like before something is done to it: this one, and one over SSH, with real programs."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.acting import FakeScene
from tests.integration.fleet.servers import USER, Sshd

from dogwatch.config.load import Loader
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.fleet.part import FleetPart
from dogwatch.fleet.section import FLEET
from dogwatch.fleet.shell import FleetShell
from dogwatch.rules.remedy.evidence import EvidenceAction, Found, Keeper, Shell
from dogwatch.rules.remedy.masking import masked

pytestmark = pytest.mark.allow_leak("thread:*asyncio*", reason="the loop's own threads read the sources")


class Kept:
    """Implements evidence.Keeper."""

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}

    async def keep(self, found: Found, key: str) -> None:
        self.found[key] = found

    @property
    def text(self) -> str:
        (found,) = self.found.values()
        return found.text


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    one = Launcher()
    await one.open()
    yield one
    await one.close()


def fleet(tmp_path: Path, text: str = "") -> FleetPart:
    (tmp_path / "dogwatch.yaml").write_text(f"fleet: {{{text}}}\n")
    part = FleetPart()
    part.prepare(Loader([tmp_path / "dogwatch.yaml"], [FLEET], environ={}).load()).swap()
    return part


def scene(kept: Kept, launcher: Launcher | None, part: FleetPart) -> FakeScene:
    services: dict[type, object] = {Keeper: kept, Shell: FleetShell(part)}
    if launcher is not None:
        services[Launcher] = launcher
    return FakeScene(services=services, step="evidence", secrets=("s3cret-of-the-run",))


async def test_this_machine_is_looked_at(tmp_path: Path, launcher: Launcher) -> None:
    log = tmp_path / "shop 'n' co.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "TOKEN=abc s3cret-of-the-run\n")
    kept = Kept()
    action = EvidenceAction(incident="7", target="shop", logs=(str(log),), lines=3, process="sh", limit=20.0)
    outcome = await action.apply(scene(kept, launcher, fleet(tmp_path)))
    assert kept.found["r1.evidence"].number == 7
    for text in ("== top processes by CPU", "== descriptors", "== load and memory", "== disks", "line 99"):
        assert text in kept.text, kept.text
    assert "line 97" not in kept.text
    assert "abc" not in kept.text.partition("== load")[0]
    assert "s3cret-of-the-run" not in kept.text
    assert outcome.outputs["bytes"] == len(kept.text)
    assert not outcome.changed


async def test_its_size_and_its_time_are_bounded(tmp_path: Path, launcher: Launcher) -> None:
    log = tmp_path / "big.log"
    log.write_text("x" * 900 + "\n" + "y\n" * 5000)
    kept = Kept()
    action = EvidenceAction(incident="1", logs=(str(log),), lines=1000, size=2048, limit=20.0)
    await action.apply(scene(kept, launcher, fleet(tmp_path)))
    (found,) = kept.found.values()
    assert len(found.text) == 2048
    assert "the first 2 KiB are kept" in found.note
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    begun_s = time.monotonic()
    kept = Kept()
    slow = EvidenceAction(incident="1", logs=(str(pipe), str(pipe)), limit=1.0)
    await slow.apply(scene(kept, launcher, fleet(tmp_path)))
    assert time.monotonic() - begun_s < 20.0
    assert kept.found


async def test_containers_and_units_are_asked_of_what_is_there(tmp_path: Path, launcher: Launcher) -> None:
    """With the programs' own names, by stand-ins that write down how they were called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("docker", "systemctl", "journalctl"):
        path = tools / name
        path.write_text(f'#!/bin/sh\necho "{name} $*"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    kept = Kept()
    action = EvidenceAction(incident="1", unit="shop.service", container="shop-1", limit=20.0)
    before = os.environ["PATH"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tools}:{before}")
        own = Launcher()
        await own.open()
        try:
            await action.apply(scene(kept, own, fleet(tmp_path)))
        finally:
            await own.close()
    for text in (
        "systemctl status --no-pager --full --lines 0 -- shop.service",
        "journalctl --no-pager --quiet -n 50 -u shop.service",
        "docker logs --tail 50 shop-1",
        "docker inspect --format state={{.State.Status}}",
        "docker top shop-1",
    ):
        assert text in kept.text, kept.text[:3000]


async def test_a_host_is_looked_at_by_ssh(tmp_path: Path, server: Sshd, known_hosts: Path) -> None:
    log = tmp_path / "over-there.log"
    log.write_text("panic: over there\nPGPASSWORD=geheim\n")
    reach = f"address: 127.0.0.1, port: {server.port}, user: {USER}, key: '{server.key}'"
    variables = f"vars: {{ansible_ssh_common_args: '-o UserKnownHostsFile={known_hosts} -F /dev/null'}}"
    part = fleet(tmp_path, f"hosts: {{web1: {{{reach}, {variables}}}}}")
    kept = Kept()
    action = EvidenceAction(incident="3", target="shop", host="web1", logs=(str(log),), limit=20.0)
    try:
        await action.apply(scene(kept, None, part))
    finally:
        await part.stop()
    (found,) = kept.found.values()
    assert (found.source, found.note) == ("web1", "")
    assert "panic: over there" in found.text
    assert "== top processes by CPU" in found.text
    assert "geheim" not in found.text


async def test_a_host_that_the_fleet_has_not_is_said_so(tmp_path: Path, launcher: Launcher) -> None:
    kept = Kept()
    await EvidenceAction(incident="1", host="nobody", limit=20.0).apply(scene(kept, launcher, fleet(tmp_path)))
    (found,) = kept.found.values()
    assert found.source == "this machine"
    assert "the fleet has no host 'nobody'" in found.note
    kept = Kept()
    alone = FakeScene(services={Keeper: kept, Launcher: launcher}, step="evidence")
    await EvidenceAction(incident="1", host="nobody", limit=20.0).apply(alone)
    (found,) = kept.found.values()
    assert "this worker has no fleet" in found.note


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("DB_PASSWORD=hunter2", "hunter2"),
        ("mysql --password=hunter2 -u root", "hunter2"),
        ("mysql --password hunter2 -u root", "hunter2"),
        ('{"api_key": "hunter2", "b": 1}', "hunter2"),
        ("Authorization: Bearer hunter2hunter2", "hunter2hunter2"),
        ("postgres://app:hunter2@db/shop", "hunter2"),
        ("Cookie: session=hunter2; a=b", "hunter2"),
        ("token: 'hunter2 and more'", "hunter2"),
        ("key ghp_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----", "hunter2"),
        ("secret-access-key=hunter2", "hunter2"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize(
    "text", ["author: me", "it works: 12 of 13", "GET /path?page=2", "passed: 12", "nginx -g daemon off"]
)
def test_what_is_none_is_left(text: str) -> None:
    assert masked(text) == text
