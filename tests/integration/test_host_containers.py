"""Containers as a real Docker daemon shows them."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.docker_fixture import IMAGE, DockerDaemon

from dogwatch.core.clock import SystemClock
from dogwatch.core.metrics import render
from dogwatch.hosts.collectors.containers import ContainersCollector
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner

pytestmark = pytest.mark.serial


async def sample(runner: Runner, entry: Entry) -> None:
    entry.due_s = float("-inf")
    runner.run_due()
    while entry.task is not None:
        await asyncio.wait([entry.task])


async def test_state_health_restarts_and_use_of_real_containers(docker_daemon: DockerDaemon) -> None:
    docker_daemon.run("busy", command=("sh", "-c", "while true; do true; done"))
    docker_daemon.run(
        "sick",
        "--memory=64m",
        "--health-cmd=false",
        "--health-interval=200ms",
        "--health-retries=1",
        "--health-timeout=2s",
    )
    docker_daemon.run("crasher", "--restart=on-failure:3", command=("sh", "-c", "exit 3"))
    docker_daemon.run("done", command=("true",))
    docker_daemon.wait("sick", "{{.State.Health.Status}}", "unhealthy")
    docker_daemon.wait("crasher", "{{.RestartCount}} {{.State.Status}}", "3 exited")
    docker_daemon.wait("done", "{{.State.Status}}", "exited")

    collector = ContainersCollector(socket=docker_daemon.socket)
    entry = Entry(collector, collector.open(Machine()), every_s=1.0)
    runner = Runner(SystemClock(), lambda _at, _entries: None)
    runner.replace({entry.name: entry})
    try:
        await sample(runner, entry)
        assert entry.view().ok, entry.view().message
        await asyncio.sleep(0.5)  # a rate of the real daemon's counters needs real time
        await sample(runner, entry)
        by_name = {view.name: view for view in runner.glance().containers}
        assert by_name.keys() == {"busy", "sick", "crasher", "done"}
        busy = by_name["busy"]
        assert busy.state == "running"
        assert busy.health == ""
        assert busy.image == IMAGE
        assert busy.cpu_ratio is not None
        assert 0.01 < busy.cpu_ratio <= 1
        assert busy.memory_bytes
        assert by_name["sick"].health == "unhealthy"
        assert by_name["sick"].memory_limit_bytes == 64 << 20
        assert by_name["crasher"].restarts == 3
        assert by_name["crasher"].cpu_ratio is None
        assert by_name["done"].state == "exited"
        text = render(runner.families())
        labels = f'id="{busy.container_id}",image="{IMAGE}",name="busy"'
        assert f'dogwatch_container_state{{{labels},state="running"}} 1.0' in text
        assert f'dogwatch_container_state{{{labels},state="exited"}} 0.0' in text
        assert f"container_cpu_usage_seconds_total{{{labels}}}" in text
        assert 'name="sick",health="unhealthy"} 1.0' in text

        docker_daemon.docker("rename", "sick", "ill")
        await sample(runner, entry)
        text = render(runner.families())
        assert 'name="ill",health="unhealthy"} 1.0' in text
        assert 'name="sick"' not in text

        docker_daemon.docker("rm", "-f", "busy")
        await sample(runner, entry)
        assert "busy" not in {view.name for view in runner.glance().containers}
        assert 'name="busy"' not in render(runner.families())
    finally:
        await entry.close()
        docker_daemon.remove_all()
