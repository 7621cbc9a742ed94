"""What people run, brought down and recovered by a rule: a unit of a real systemd, containers of a real dockerd, nginx,
and a process that a supervisor keeps; each by a daemon of its own, in mode auto.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Daemon, free_port, running, wait_until
from tests.integration.docker_fixture import DockerDaemon
from tests.integration.systemd_fixture import Systemd, systemd

__all__ = ["systemd"]
pytestmark = pytest.mark.serial
NGINX = """
daemon {daemon};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok"; }} }}
}}
"""
BOUNDS = """
    mode: auto
    budget: {max: 4, per: 1h}
    remedy: {cooldown: 0s, backoff: {base: 100ms, cap: 100ms}}
incidents: {settle: 1s}
"""


def up(daemon: Daemon, name: str = "shop") -> None:
    wait_until(lambda: daemon.target(name)["status"] == "up", what="health")


def recovered(daemon: Daemon, number: int = 1) -> dict[str, Any]:
    """Wait until an incident is over, and return why it happened and what was done."""

    def look() -> Any:
        items = daemon.get("/api/v1/incidents")["items"]
        return [one for one in items if one["number"] == number and one["state"] == "resolved"]

    def explained() -> Any:
        return json.loads(daemon.run("explain", str(number), "--evidence", "--json").stdout)

    try:
        wait_until(look, within_s=30, what=f"the end of incident #{number}")
        wait_until(lambda: all(outcomes(explained())), within_s=10, what="the end of its actions")
    except AssertionError as error:
        raise AssertionError(daemon.run("explain", str(number), "--evidence").stdout) from error
    found: dict[str, Any] = explained()
    return found


def outcomes(found: dict[str, Any]) -> list[str]:
    return [action["outcome"] for action in found["actions"]]


def nginx(folder: Path, port: int, *, daemon: str) -> Path:
    if shutil.which("nginx") is None:
        pytest.skip("not installed: nginx")
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, port=port, daemon=daemon))
    return file


def test_a_unit_of_systemd(tmp_path: Path, systemd: Systemd) -> None:
    port = free_port()
    file = nginx(tmp_path, port, daemon="off")
    systemd.unit("shop.service", f"[Service]\nExecStart={shutil.which('nginx')} -c {file}\nKillMode=mixed\n")
    assert systemd.systemctl("start", "shop.service").returncode == 0
    config = f"""
probes:
  - {{name: shop, http: "http://127.0.0.1:{port}/", every: 200ms, timeout: 200ms, failures: 2, successes: 1}}
services:
  - name: shop
    unit: shop.service
    liveness: {{probes: [shop], verify: 20s}}
{BOUNDS}"""
    with running(tmp_path, config, env={"PATH": systemd.path}) as daemon:
        up(daemon)
        before = systemd.main_pid("shop.service")
        os.kill(before, signal.SIGKILL)
        found = recovered(daemon)
        assert outcomes(found) == ["done"]
        assert systemd.systemctl("is-active", "shop.service").stdout.strip() == "active"
        assert systemd.main_pid("shop.service") not in (0, before)
        # What it looked like before is kept: the unit had failed by a signal.
        (evidence,) = found["evidence"]
        assert "ActiveState=failed" in evidence["text"]
        # Stopped by hand, it is brought down and back as well.
        assert systemd.systemctl("stop", "shop.service").returncode == 0
        assert outcomes(recovered(daemon, 2)) == ["done"]


@pytest.fixture
def containers(docker_daemon: DockerDaemon) -> Iterator[DockerDaemon]:
    yield docker_daemon
    docker_daemon.remove_all()


def test_containers_that_die_and_that_are_sick(tmp_path: Path, containers: DockerDaemon) -> None:
    health = ("--health-cmd=test ! -e /tmp/bad", "--health-interval=200ms", "--health-retries=1")
    # What makes it sick is on a file system of its own: a restart cures it.
    containers.run("shop", "--tmpfs=/tmp", *health)
    containers.wait("shop", "{{.State.Health.Status}}", "healthy")
    config = f"""
probes:
  - name: shop
    docker: {{container: shop, socket: {containers.socket}, condition: healthy}}
    every: 500ms
    timeout: 500ms
    failures: 2
    successes: 1
services:
  - name: shop
    container: shop
    socket: {containers.socket}
    liveness: {{probes: [shop], verify: 30s}}
{BOUNDS}"""
    with running(tmp_path, config) as daemon:
        up(daemon)
        containers.docker("kill", "shop")
        found = recovered(daemon)
        assert outcomes(found) == ["done"]
        assert containers.docker("inspect", "--format", "{{.State.Status}}", "shop") == "running"
        (evidence,) = found["evidence"]
        assert "exited" in evidence["text"].lower()
        containers.docker("exec", "shop", "touch", "/tmp/bad")
        assert outcomes(recovered(daemon, 2)) == ["done"]
        containers.wait("shop", "{{.State.Health.Status}}", "healthy")


def test_nginx_whose_worker_hangs(tmp_path: Path) -> None:
    port = free_port()
    file, pid = nginx(tmp_path, port, daemon="on"), tmp_path / "nginx.pid"
    subprocess.run(["nginx", "-c", str(file)], check=True)
    config = f"""
probes:
  - {{name: shop, http: "http://127.0.0.1:{port}/", every: 300ms, timeout: 300ms, failures: 2, successes: 1}}
rules:
  - name: shop-gone
    when: 'probe.status == "down"'
    targets: [shop]
    do:
      - {{name: replace, says: replace the workers of nginx, exec: "pkill -KILL -P $(cat {pid})", verify: 20s}}
{BOUNDS}"""
    try:
        with running(tmp_path, config) as daemon:
            up(daemon)
            (worker,) = children(int(pid.read_text()))
            os.kill(worker, signal.SIGSTOP)
            found = recovered(daemon)
            assert outcomes(found) == ["done"]
            up(daemon)
            assert worker not in children(int(pid.read_text()))
    finally:
        for process in (int(pid.read_text()), *children(int(pid.read_text()))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def children(master: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


KEEPER = """
import os, subprocess, sys, time
pidfile, port, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
child = None
try:
    while os.getppid() == parent:
        if child is None or child.poll() is not None:
            child = subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", port],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            open(pidfile + ".new", "w").write(str(child.pid))
            os.rename(pidfile + ".new", pidfile)
        time.sleep(0.02)
finally:
    if child is not None:
        child.kill(); child.wait()
"""


def test_a_process_that_hangs_and_that_something_else_starts_again(tmp_path: Path) -> None:
    port, pidfile = free_port(), tmp_path / "shop.pid"
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(pidfile), str(port), str(os.getpid())], cwd=tmp_path)
    config = f"""
probes:
  - {{name: shop, http: "http://127.0.0.1:{port}/", every: 300ms, timeout: 300ms, failures: 2, successes: 1}}
services:
  - name: shop
    process: {{pidfile: {pidfile}, grace: 400ms}}
    liveness: {{probes: [shop], verify: 20s}}
{BOUNDS}"""
    try:
        with running(tmp_path, config) as daemon:
            up(daemon)
            before = int(pidfile.read_text())
            # It neither answers nor ends when it is asked to.
            os.kill(before, signal.SIGSTOP)
            found = recovered(daemon)
            assert outcomes(found) == ["done"]
            assert int(pidfile.read_text()) != before
    finally:
        keeper.terminate()
        keeper.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
