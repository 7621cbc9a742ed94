"""A machine with systemd as its first process: PID, mount, network and control group namespaces of its own over an
overlay of this machine's files. Nothing that it writes reaches this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.fleet.machine import Machine

SYSTEMD = Path("/lib/systemd/systemd")
_CGROUPS = Path("/sys/fs/cgroup")
# What would look at devices, the clock or logs of the machine that runs the tests.
_MASKED = [
    "systemd-udevd",
    "systemd-udev-trigger",
    "systemd-modules-load",
    "systemd-sysctl",
    "systemd-tmpfiles-setup",
    "systemd-logind",
    "systemd-tmpfiles-setup-dev",
    "systemd-remount-fs",
    "systemd-journald",
    "systemd-journal-flush",
    "systemd-sysusers",
]
_BOOT = r"""
set -e
echo $$ > {group}/cgroup.procs
exec unshare --cgroup /bin/sh -ec '
mount --make-rprivate /
R={root}
mount -t proc proc $R/proc
mount --rbind /sys $R/sys
mount -t tmpfs tmpfs $R/run
mount -t tmpfs tmpfs $R/tmp
mount -t tmpfs -o mode=755 tmpfs $R/dev
mkdir $R/dev/pts $R/dev/shm
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
umount -l $R/sys/fs/cgroup
mount -t tmpfs tmpfs $R/sys/fs/cgroup
if [ -d /sys/fs/cgroup/systemd ]; then
    mkdir $R/sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd
else
    umount $R/sys/fs/cgroup && mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
fi
ln -sf /lib/systemd/system/sysinit.target $R/etc/systemd/system/default.target
for u in {masked}; do ln -sf /dev/null $R/etc/systemd/system/$u.service; done
: > $R/etc/fstab
rm -f $R/etc/machine-id
echo 0123456789abcdef0123456789abcdef > $R/etc/machine-id
mkdir -p $R/mnt/.old
cd $R
pivot_root . mnt/.old
umount -l /mnt/.old
container=dogwatch exec /lib/systemd/systemd --system --log-target=console --show-status=no
'
"""


class Booted(Machine):
    """folder: its files that are not this machine's, as the overlay has them."""

    def words(self, script: str) -> list[str]:
        inside = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-C"]
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        # The state that operations keep is asked for by its whole path: inside there is no folder of a test.
        return [*inside, "env", "-i", f"PATH={path}", "HOME=/root", "/bin/sh", "-c", script]


def _first_process(below: int) -> int:
    """Return the process id, out here, of the systemd that was started below a process; 0 where there is none yet."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
                program = (entry / "exe").readlink().name
            except OSError:
                continue
            if f"\nPPid:\t{below}\n" in status and program == "systemd":
                return int(entry.name)
    return 0


@contextmanager
def booted(folder: Path) -> Iterator[Booted]:
    """Boot one; skip where this machine does not let it be done."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or not SYSTEMD.exists():
        pytest.skip("needs root, unshare (Debian: util-linux) and systemd")
    # What boots raises them, and of these the kernel has one for all namespaces.
    limits = {path: path.read_text() for path in (Path("/proc/sys/fs/file-max"), Path("/proc/sys/fs/nr_open"))}
    layer, root = folder / "layer", folder / "root"
    for path in (layer, root):
        path.mkdir(parents=True)
    hierarchy = _CGROUPS / "systemd" if (_CGROUPS / "systemd").is_dir() else _CGROUPS
    group = hierarchy / f"dogwatch-test-{os.getpid()}"
    process: subprocess.Popen[bytes] | None = None
    try:
        # An upper layer on an overlay would not do: the tests' folder may be on one.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", layer], check=True, timeout=10, stderr=subprocess.PIPE)
        for name in ("upper", "work"):
            (layer / name).mkdir()
        options = f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True, timeout=10)
        group.mkdir()
    except (OSError, subprocess.CalledProcessError) as error:
        _clean(folder, group)
        pytest.skip(f"no machine can be booted here: {error}")
    script = _BOOT.replace("{group}", shlex.quote(str(group))).replace("{masked}", " ".join(_MASKED))
    script = script.replace("{root}", str(root))
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "unshare",
                    "--pid",
                    "--fork",
                    "--mount",
                    "--net",
                    "--uts",
                    "--ipc",
                    "--kill-child",
                    "/bin/sh",
                    "-c",
                    script,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        yield Booted(layer / "upper", _booted_pid(process, folder))
    finally:
        if process is not None:
            process.kill()
            process.wait()
        for path, before in limits.items():
            path.write_text(before)
        _clean(folder, group)


def _booted_pid(process: subprocess.Popen[bytes], folder: Path) -> int:
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s and process.poll() is None:
        first = _first_process(process.pid)
        if first:
            asked = ["nsenter", "-t", str(first), "-m", "-p", "systemctl", "is-system-running"]
            done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
            if done.stdout.strip() in ("running", "degraded"):
                return first
        time.sleep(0.1)
    pytest.skip(f"systemd does not come up here: {(folder / 'log').read_text(errors='replace')[-300:]}")


def _clean(folder: Path, group: Path) -> None:
    for name in ("root", "layer"):
        subprocess.run(["umount", "-l", folder / name], check=False, timeout=10, stderr=subprocess.DEVNULL)
    # What has ended is taken out of its group a moment later.
    for _ in range(50):
        for below in sorted(group.rglob("*"), reverse=True) if group.exists() else ():
            if below.is_dir():
                with_suppress(below)
        with_suppress(group)
        if not group.exists():
            return
        time.sleep(0.1)


def with_suppress(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return
