"""The docker kind against a real dockerd."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.docker_fixture import DockerDaemon
from tests.probing import ask

from dogwatch.probes.kinds.docker import DockerProbe

pytestmark = pytest.mark.serial
HEALTH = (
    "--health-cmd=test ! -e /tmp/bad || { echo it is bad; false; }",
    "--health-interval=200ms",
    "--health-retries=1",
)


@pytest.fixture
def daemon(docker_daemon: DockerDaemon) -> Iterator[DockerDaemon]:
    yield docker_daemon
    docker_daemon.remove_all()


async def test_one_container_from_healthy_to_gone(daemon: DockerDaemon) -> None:
    daemon.run("web", *HEALTH)
    daemon.wait("web", "{{.State.Health.Status}}", "healthy")
    probe = DockerProbe(container="web", socket=daemon.socket, condition="healthy")
    good = await ask(probe)
    assert good.success, good.message
    values = good.values
    assert (values["state"], values["health"], values["image"], values["restarts"]) == (
        "running",
        "healthy",
        "busybox:test",
        0,
    )
    assert 0 <= values["running_for_s"] < 60

    daemon.docker("exec", "web", "touch", "/tmp/bad")
    daemon.wait("web", "{{.State.Health.Status}}", "unhealthy")
    bad = await ask(probe)
    assert (bad.reason, bad.message) == ("unhealthy", "web is unhealthy")
    assert bad.evidence is not None
    assert "it is bad" in bad.evidence().body
    assert (await ask(DockerProbe(container="web", socket=daemon.socket, condition="running"))).success

    daemon.docker("stop", "-t", "0", "web")
    stopped = await ask(DockerProbe(container="web", socket=f"unix://{daemon.socket}"))
    assert stopped.reason == "unhealthy"
    assert "web exited with status" in stopped.message
    daemon.docker("rm", "web")
    gone = await ask(probe)
    assert gone.reason == "missing"
    assert "No such container: web" in gone.message


async def test_conditions(daemon: DockerDaemon) -> None:
    daemon.run("job", command=("true",))
    daemon.run("failed", command=("false",))
    daemon.run("plain")
    daemon.wait("job", "{{.State.Status}}", "exited")
    daemon.wait("failed", "{{.State.Status}}", "exited")
    done = await ask(DockerProbe(container="job", socket=daemon.socket, condition="exited_ok"))
    failed = await ask(DockerProbe(container="failed", socket=daemon.socket, condition="exited_ok"))
    unchecked = await ask(DockerProbe(container="plain", socket=daemon.socket, condition="healthy"))
    young = await ask(DockerProbe(container="plain", socket=daemon.socket, min_running=3600))
    assert done.success, done.message
    assert (failed.reason, failed.message) == ("unhealthy", "failed exited with status 1")
    assert unchecked.message == "plain has no health check"
    assert "plain has been running only" in young.message


async def test_a_container_that_restarts_all_the_time(daemon: DockerDaemon) -> None:
    daemon.run("loop", "--restart=on-failure:3", command=("false",))
    daemon.wait("loop", "{{.RestartCount}}", "3")
    daemon.docker("update", "--restart=no", "loop")
    result = await ask(DockerProbe(container="loop", socket=daemon.socket, max_restarts=1))
    assert result.reason == "unhealthy"
    assert result.values["restarts"] == 3


async def test_all_with_a_label(daemon: DockerDaemon) -> None:
    for number in range(3):
        daemon.run(f"shop-{number}", "--label=team=shop", f"--label=number={number}")
    daemon.run("other", "--label=team=other")
    probe = DockerProbe(labels=("team=shop",), socket=daemon.socket, min_count=3)
    good = await ask(probe)
    assert good.success, good.message
    assert (good.values["count"], good.values["running"], good.values["bad"]) == (3, 3, 0)
    one = await ask(DockerProbe(labels=("team=shop", "number=1"), socket=daemon.socket))
    assert [item["name"] for item in one.values["containers"]] == ["shop-1"]

    daemon.docker("stop", "-t", "0", "shop-1")
    bad = await ask(probe)
    assert (bad.reason, bad.values["bad"], bad.values["running"]) == ("unhealthy", 1, 2)
    assert "shop-1" in bad.message
    assert "shop-0" not in bad.message
    daemon.docker("rm", "shop-1")
    few = await ask(probe)
    assert (few.reason, few.message) == ("missing", "2 containers have the label team=shop, wanted at least 3")


async def test_names_are_escaped(daemon: DockerDaemon) -> None:
    result = await ask(DockerProbe(container="../version", socket=daemon.socket))
    assert result.reason in {"missing", "status"}
    assert not result.values.get("state")


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("podman")
    if program is None:
        pytest.skip("not installed: podman")
    path = tmp_path / "p.sock"
    process = subprocess.Popen(
        [program, "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "system", "service", "-t", "0",
         f"unix://{path}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    try:
        for _ in range(100):
            if path.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        if not path.exists():
            pytest.skip("podman does not start here")
        yield str(path)
    finally:
        process.terminate()
        process.wait(60)


async def test_podman_answers_the_same_questions(podman: str) -> None:
    result = await ask(DockerProbe(container="nobody", socket=podman), 10)
    assert result.reason == "missing", result.message
    none = await ask(DockerProbe(labels=("team=shop",), socket=podman, min_count=0), 10)
    assert none.success, none.message
