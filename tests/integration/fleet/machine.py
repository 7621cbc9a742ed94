"""A machine inside this one: mount and network namespaces of its own, so that accounts, crontabs, packages and the
kernel's parameters can be changed for real without touching the machine that runs the tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from dogwatch.fleet.connection import Ended, Output, RemoteCommand
from dogwatch.fleet.connections.local import LocalConnection

# What programs write to, below the machine's own folder: copies, or empty.
_COPIED = ("/etc",)
_PACKAGES = ("/var/lib/dpkg",)
_EMPTY = ("/home", "/opt", "/var/spool", "/var/log", "/var/cache", "/var/lib/apt", "/var/mail", "/mnt")


class Machine:
    """folder: holds what lies at `etc`, `home` and so on inside. bin: programs there come first."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self.bin = folder / "bin"

    def words(self, script: str) -> list[str]:
        path = f"{self.bin}:{os.environ['PATH']}:/usr/sbin:/sbin"
        inside = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", f"--net=/proc/{self.pid}/ns/net"]
        return [*inside, "env", f"PATH={path}", "/bin/sh", "-c", script]

    def run(self, script: str) -> str:
        done = subprocess.run(self.words(script), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def program(self, name: str, text: str) -> None:
        """Put a program in front of that of the machine."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)


class InsideConnection(LocalConnection):
    """Runs commands inside."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        script = f"exec {shlex.join(self._machine.words(command.script))}"
        return await super().run(msgspec.structs.replace(command, script=script), output)


@contextmanager
def machine(folder: Path, *, packages: bool = False) -> Iterator[Machine]:
    """Make one, with packages where they are asked for; skip where this machine does not let it be made."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("needs root, unshare and nsenter (Debian: util-linux)")
    copied = (*_COPIED, *_PACKAGES) if packages else _COPIED
    for path in (*copied, *_EMPTY, "/bin"):
        (folder / path[1:]).mkdir(parents=True)
    for path in copied:
        subprocess.run(["cp", "-a", f"{path}/.", folder / path[1:]], check=True, timeout=60)
    binds = " && ".join(
        f"mkdir -p {path} && mount --bind {shlex.quote(str(folder / path[1:]))} {path}" for path in (*copied, *_EMPTY)
    )
    script = (
        f"{binds} && ip link set lo up && mkdir -p /var/spool/cron/crontabs /var/cache/apt/archives/partial "
        "/var/lib/apt/lists/partial && chmod 1730 /var/spool/cron/crontabs && echo ready && exec sleep 600"
    )
    process = subprocess.Popen(
        ["unshare", "--mount", "--net", "--propagation", "private", "/bin/sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip(f"namespaces cannot be made here: {process.stderr.read()[:200]}")
        yield Machine(folder, process.pid)
    finally:
        process.kill()
        process.communicate()
