"""Real OpenSSH servers on loopback, each an ordinary process with keys and a configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
USER = getpass.getuser()


def need_sshd() -> str:
    if SSHD is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    return SSHD


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=30)
    return path


class Sshd:
    """One server. `keys` and `known_hosts` are what a client needs."""

    def __init__(self, folder: Path, *, more: str = "", authorized: Path | None = None) -> None:
        self.folder = folder
        self.host_key = make_key(folder / "host_key")
        self.key = authorized or make_key(folder / "user_key")
        self.port = free_port()
        (folder / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.host_key}\nUsePAM no\nStrictModes no\n"
            f"PidFile none\nPermitRootLogin yes\nMaxStartups 1000\nMaxSessions 100\nLogLevel ERROR\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nKbdInteractiveAuthentication no\n{more}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def known_line(self, *names: str) -> str:
        key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        hosts = ",".join(f"[{name}]:{self.port}" for name in names or ("127.0.0.1",))
        return f"{hosts} {' '.join(key)}\n"

    def command(self) -> list[str]:
        return [need_sshd(), "-D", "-e", "-f", str(self.folder / "sshd_config")]

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"sshd did not start: {(self.folder / 'log').read_text()}")

    def kill(self) -> None:
        """End the server and every session of it: its children are in groups of their own."""
        assert self.process is not None
        for child in _below(self.process.pid):
            os.kill(child, signal.SIGKILL) if Path(f"/proc/{child}").exists() else None
        self.process.kill()
        self.process.wait()


def _below(pid: int) -> list[int]:
    found: list[int] = []
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in map(int, children.read_text().split()) if children.exists() else ():
        found += [child, *_below(child)]
    return found


@contextmanager
def sshd(folder: Path, *, more: str = "", authorized: Path | None = None) -> Iterator[Sshd]:
    need_sshd()
    folder.mkdir(parents=True, exist_ok=True)
    server = Sshd(folder, more=more, authorized=authorized)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
