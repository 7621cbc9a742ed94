"""A real systemd for tests: first in process, mount and cgroup namespaces of its own, with the units of the test.

Ports and files are those of the machine; it knows none of the machine's units, and ends with the test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = "/usr/lib/systemd/systemd"
START_S = 20.0
_EMPTY = "[Unit]\nDefaultDependencies=no\n"
# A cgroup of its own below the machine's; systemd rules that alone. {folder}: of the test.
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mount -t cgroup2 none {folder}/cgroup
mkdir {folder}/cgroup/{name}
echo $$ > {folder}/cgroup/{name}/cgroup.procs
umount {folder}/cgroup
umount -R -l /sys/fs/cgroup
exec unshare -C sh -c '
  mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
  export container=other SYSTEMD_UNIT_PATH={folder}/units
  exec {program} --system --unit=test.target --log-target=console --show-status=0'
"""


class Systemd:
    """A running one. folder: of its units, and of `bin` with a `systemctl` that asks it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process = folder, process

    @property
    def first(self) -> int:
        """Its process id, as the machine sees it; 0 before it is there."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = children.read_text().split() if children.exists() else []
        return int(found[0]) if found else 0

    @property
    def path(self) -> str:
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def systemctl(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", "-t", str(self.first), "-a", "systemctl", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def unit(self, name: str, text: str) -> None:
        (self.folder / "units" / name).write_text(text)
        assert self.systemctl("daemon-reload").returncode == 0

    def main_pid(self, name: str) -> int:
        """Return the main process of a unit as the machine sees it; 0 where there is none."""
        shown = self.systemctl("show", "--property", "MainPID", "--value", name).stdout.strip()
        return self._outer(int(shown)) if shown not in ("", "0") else 0

    def _outer(self, inner: int) -> int:
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()
                here = Path(f"/proc/{status.parent.name}/ns/pid").readlink()
                if numbers[-1] == str(inner) and here == Path(f"/proc/{self.first}/ns/pid").readlink():
                    return int(status.parent.name)
        return 0


def _stop(systemd: Systemd) -> None:
    first = systemd.first
    if first:
        # All of its namespace goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    systemd.process.kill()
    systemd.process.wait()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    """A real systemd; skips with the reason where it cannot start."""
    if os.geteuid() != 0:
        pytest.skip("systemd needs root")
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if missing or not Path(PROGRAM).exists():
        pytest.skip(f"not installed: {', '.join(missing) or 'systemd'}")
    folder = Path(tempfile.mkdtemp(prefix="dw-systemd-"))
    for name in ("units", "bin", "cgroup"):
        (folder / name).mkdir()
    for name in ("test", "basic", "sysinit", "shutdown"):
        (folder / "units" / f"{name}.target").write_text(_EMPTY)
    (folder / "boot").write_text(_BOOT.format(folder=folder, name=folder.name, program=PROGRAM))
    command = ["unshare", "-f", "-p", "-m", "-u", "-i", "--mount-proc", "--kill-child", "sh", str(folder / "boot")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    one = Systemd(folder, process)
    try:
        until_s = time.monotonic() + START_S
        while not (one.first and one.systemctl("is-active", "test.target").stdout.strip() == "active"):
            if process.poll() is not None or time.monotonic() > until_s:
                pytest.skip(f"systemd does not start here: {(folder / 'log').read_text(errors='replace')[-300:]}")
            time.sleep(0.1)
        program = shutil.which("systemctl")
        wrapper = folder / "bin" / "systemctl"
        wrapper.write_text(f'#!/bin/sh\nexec nsenter -t {one.first} -a {program} "$@"\n')
        wrapper.chmod(0o755)
        yield one
    finally:
        _stop(one)
        shutil.rmtree(folder, ignore_errors=True)
