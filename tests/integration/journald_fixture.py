"""A real systemd-journald for tests: with a /run of its own, its journal in the test's folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = "/usr/lib/systemd/systemd-journald"
START_S = 30.0
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/log/journal /run/systemd/journal /run/systemd/journald.conf.d
mount --bind {folder}/journal /run/log/journal
echo 0123456789abcdef0123456789abcdef > /run/machine-id
mount --bind /run/machine-id /etc/machine-id
printf '[Journal]\\nStorage=volatile\\nRateLimitIntervalSec=0\\nRuntimeMaxUse=500M\\nReadKMsg=no\\nAudit=no\\n' \
  > /run/systemd/journald.conf.d/test.conf
exec {program}
"""


class Journald:
    """A running one. journal: where its files are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder, folder / "journal"
        self.journal.mkdir()
        (folder / "boot").write_text(_BOOT.format(folder=folder, program=PROGRAM))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = ["unshare", "-m", "sh", str(self.folder / "boot")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until_s = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until_s:
                pytest.skip(f"journald does not start here: {(self.folder / 'log').read_text(errors='replace')[-300:]}")
            time.sleep(0.05)

    def _socket(self) -> str:
        assert self._process is not None
        root = Path("/proc", str(self._process.pid), "root")
        return str(root / "run/systemd/journal/socket")

    def _listens(self) -> bool:
        try:
            self.write("begun", TEST="begin")
        except OSError:
            return False
        return True

    def write(self, *messages: str, **fields: str) -> None:
        """Send entries by its own protocol; it says when it has not the room for more."""
        more = "".join(f"{name}={value}\n" for name, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(self._socket())
            for one in messages:
                sender.send(f"MESSAGE={one}\nSYSLOG_IDENTIFIER=shop\nPRIORITY=6\n{more}".encode())

    def _control(self, *words: str) -> None:
        assert self._process is not None
        command = ["nsenter", "-t", str(self._process.pid), "-m", "journalctl", *words]
        subprocess.run(command, capture_output=True, timeout=60, check=True)

    def sync(self) -> None:
        """Wait until all that was sent is in the journal."""
        self._control("--sync")

    def rotate(self) -> None:
        self._control("--rotate")

    def vacuum(self) -> None:
        """Delete every file that is not written any more."""
        self._control("--vacuum-time=1us")

    def files(self) -> list[Path]:
        return sorted(self.journal.rglob("*.journal"))

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


@pytest.fixture
def journald() -> Iterator[Journald]:
    """A real journald; skips with the reason where it cannot start."""
    if os.geteuid() != 0:
        pytest.skip("journald needs root")
    missing = [name for name in ("unshare", "nsenter", "journalctl") if shutil.which(name) is None]
    if missing or not Path(PROGRAM).exists():
        pytest.skip(f"not installed: {', '.join(missing) or 'systemd-journald'}")
    folder = Path(tempfile.mkdtemp(prefix="dw-journald-"))
    one = Journald(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)
