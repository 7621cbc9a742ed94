"""A real dockerd for tests: its own network namespace, its own folders, one busybox image, nothing from the network.

The fixture `docker_daemon` (tests/conftest.py) is one for all tests. Mark them `serial`.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

IMAGE = "busybox:test"
START_S = 20.0
_NEEDED = ("dockerd", "docker", "containerd", "busybox", "unshare", "setpriv")
# No bridge and no rules: the daemon must not touch the machine's network.
_FLAGS = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")


class DockerDaemon:
    """A running dockerd. socket: path of its API socket."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.socket = str(folder / "docker.sock")

    def docker(self, *args: str, stdin: bytes | None = None) -> str:
        """Run a docker command against it and return what it printed."""
        done = subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *args], input=stdin, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(args)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode().strip()

    def run(self, name: str, *args: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
        """Start a container without a network and return its id."""
        return self.docker("run", "-d", "--init", "--network=none", "--name", name, *args, IMAGE, *command)

    def wait(self, name: str, template: str, expected: str, *, within_s: float = 20.0) -> None:
        """Wait until `docker inspect` shows the expected text."""
        until_s = time.monotonic() + within_s
        shown = ""
        while time.monotonic() < until_s:
            shown = self.docker("inspect", "--format", template, name)
            if shown == expected:
                return
            time.sleep(0.1)
        raise AssertionError(f"{name}: {template} is {shown!r}, not {expected!r} after {within_s} s")

    def remove_all(self) -> None:
        containers = self.docker("ps", "-aq").split()
        if containers:
            self.docker("rm", "-f", *containers)


def _busybox_tree() -> bytes:
    """Return a tar of a root file system with nothing but busybox, under its usual names."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    content = Path(busybox).read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        info = tarfile.TarInfo("bin/busybox")
        info.size, info.mode = len(content), 0o755
        tar.addfile(info, io.BytesIO(content))
        for applet in ("sh", "sleep", "true", "false", "test", "touch", "rm", "cat", "echo", "ls"):
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    return out.getvalue()


def _start(folder: Path, driver: str) -> DockerDaemon:
    """Start dockerd; raises RuntimeError with the end of its log when it does not come up."""
    (folder / "daemon.json").write_text("{}")  # not the machine's own configuration
    log = (folder / "dockerd.log").open("ab")
    with log:
        process = subprocess.Popen(
            [
                # A daemon that outlives its tests would be the next ones' neighbour.
                *("setpriv", "--pdeathsig", "TERM"),
                *("unshare", "--net", "dockerd", "-H", f"unix://{folder}/docker.sock"),
                *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
                *("--storage-driver", driver, "--config-file", f"{folder}/daemon.json"),
                *_FLAGS,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    daemon = DockerDaemon(folder, process)
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(RuntimeError):
            daemon.docker("version")
            return daemon
        time.sleep(0.1)
    _stop(daemon)
    tail = (folder / "dockerd.log").read_text(errors="replace").splitlines()[-3:]
    raise RuntimeError(" | ".join(tail))


def _stop(daemon: DockerDaemon) -> None:
    if daemon.process.poll() is None:
        daemon.process.terminate()
        try:
            daemon.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.process.pid, signal.SIGKILL)
            daemon.process.wait()


def _unmount(folder: Path) -> None:
    """Take away what a daemon that was killed left mounted, so that its folder can go."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(str(folder))), reverse=True):
        subprocess.run(["umount", "-l", mount], capture_output=True, check=False)


@contextlib.contextmanager
def dockerd() -> Iterator[DockerDaemon]:
    """A real dockerd with the image `busybox:test`; skips with the reason where it cannot start."""
    if os.geteuid() != 0:
        pytest.skip("dockerd needs root")
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    # A short path: unix socket addresses have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="dw-docker-"))
    daemon = None
    try:
        trouble = ""
        for driver in ("overlay2", "vfs"):
            try:
                daemon = _start(folder, driver)
                break
            except RuntimeError as error:
                trouble = str(error)
        if daemon is None:
            pytest.skip(f"dockerd does not start here: {trouble}")
        daemon.docker("import", "-", IMAGE, stdin=_busybox_tree())
        yield daemon
        daemon.remove_all()
    finally:
        if daemon is not None:
            _stop(daemon)
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)
