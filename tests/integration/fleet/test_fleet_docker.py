"""Containers of a real Docker as hosts: commands, files, inspection, and a container that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.docker_fixture import DockerDaemon

pytestmark = pytest.mark.serial


def test_containers_are_hosts_like_others(docker_daemon: DockerDaemon, tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("box1\nbox2\ngone\n[all:vars]\nansible_connection=docker\n")
    (tmp_path / "file").write_text("content")

    def told(*words: str) -> tuple[int, dict[str, dict[str, object]]]:
        command = [sys.executable, "-m", "dogwatch", "fleet", *words, "-i", "hosts.ini", "-t", "all", "--json"]
        env = {**os.environ, "DOCKER_HOST": f"unix://{docker_daemon.socket}"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert done.stdout, done.stderr
        return done.returncode, {one["host"]: one for one in json.loads(done.stdout)["hosts"]}

    for name in ("box1", "box2"):
        docker_daemon.run(name)
    try:
        code, hosts = told("run", 'hostname; echo "it\'s $HOME"; exit 4')
        assert code == 1
        assert [hosts[name]["state"] for name in ("box1", "box2", "gone")] == ["non_zero", "non_zero", "unreachable"]
        assert str(hosts["box1"]["stdout"]).splitlines()[1].startswith("it's /")
        code, _ = told("copy", "file", "/tmp/it's here")
        assert code == 3
        assert docker_daemon.docker("exec", "box2", "cat", "/tmp/it's here") == "content"
        code, seen = told("inspect", "--check-only", "disk", "--check-only", "memory")
        assert (code, seen["box1"]["reading"]["complete"]) == (3, True)  # type: ignore[index]
    finally:
        docker_daemon.remove_all()
