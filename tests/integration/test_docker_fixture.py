"""The dockerd that other tests stand on runs containers with health checks."""

from __future__ import annotations

import pytest
from tests.integration.docker_fixture import DockerDaemon

pytestmark = pytest.mark.serial


def test_a_container_becomes_unhealthy(docker_daemon: DockerDaemon) -> None:
    health = ("--health-cmd=test ! -e /tmp/bad", "--health-interval=200ms", "--health-retries=1")
    docker_daemon.run("fixture", *health)
    try:
        docker_daemon.wait("fixture", "{{.State.Health.Status}}", "healthy")
        docker_daemon.docker("exec", "fixture", "touch", "/tmp/bad")
        docker_daemon.wait("fixture", "{{.State.Health.Status}}", "unhealthy")
    finally:
        docker_daemon.remove_all()
