"""Space and file nodes of mounted filesystems. One that hangs is reported and hurts no other."""

from __future__ import annotations

import asyncio
import os
import re
import select
from collections.abc import Coroutine, Iterator
from typing import ClassVar

import msgspec

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.calls import Refused
from dogwatch.hosts.collector import Collector, Metric, Moment, Sampler, Table
from dogwatch.hosts.history import MAX_MOUNTS
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import FilesystemView, Glance

_LABELS = ("device", "fstype", "mountpoint")
_SIZES = tuple(
    Metric(f"node_filesystem_{name}", "gauge", text, _LABELS)
    for name, text in (
        ("avail_bytes", "Filesystem space available to non-root users in bytes."),
        ("files", "Filesystem total file nodes."),
        ("files_free", "Filesystem total free file nodes."),
        ("free_bytes", "Filesystem free space in bytes."),
        ("readonly", "Filesystem read-only status."),
        ("size_bytes", "Filesystem size in bytes."),
    )
)
_ERROR = Metric(
    "node_filesystem_device_error",
    "gauge",
    "Whether an error occurred while getting statistics for the given device.",
    _LABELS,
)
# statvfs of these is answered from memory. All others may wait for a server or a program that is dead.
_LOCAL = frozenset(
    [
        "bcachefs",
        "btrfs",
        "cramfs",
        "devtmpfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hfsplus",
        "iso9660",
        "jffs2",
        "jfs",
        "minix",
        "nilfs2",
        "ntfs3",
        "overlay",
        "ramfs",
        "reiserfs",
        "romfs",
        "squashfs",
        "tmpfs",
        "ubifs",
        "udf",
        "vfat",
        "xfs",
        "zfs",
    ]
)


class FilesystemCollector(Collector, frozen=True, kw_only=True):
    """Space and file nodes of every mounted filesystem.

    A filesystem that may hang (NFS, FUSE, …) is asked in a thread of its own, and not again until it has answered;
    after `timeout` it is reported with node_filesystem_device_error 1. exclude_types, exclude_mounts: regular
    expressions of what is left out.
    """

    kind: ClassVar[str] = "filesystem"
    metrics: ClassVar[tuple[Metric, ...]] = (*_SIZES, _ERROR)
    patterns: ClassVar[tuple[str, ...]] = ("exclude_types", "exclude_mounts")
    exclude_types: str = (
        r"^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs"
        r"|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$"
    )
    exclude_mounts: str = r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"

    def open(self, machine: Machine) -> Sampler:
        return FilesystemSampler(machine, self)


class Mount(msgspec.Struct, frozen=True):
    """One mounted filesystem. may_hang: it, or one that the path to it leads through, is not local."""

    device: str
    fstype: str
    mountpoint: str
    readonly: bool
    may_hang: bool


class FilesystemSampler(Sampler):
    def __init__(self, machine: Machine, options: FilesystemCollector) -> None:
        self._machine = machine
        self._timeout_s = options.timeout
        self._types = re.compile(options.exclude_types) if options.exclude_types else None
        self._points = re.compile(options.exclude_mounts) if options.exclude_mounts else None
        # As node_exporter: the first process's mounts, not those of a namespace that our service was put into.
        own = machine.path("proc/self/mounts")
        self._file = machine.proc("1/mounts", complete_below=0)
        self._fallback = type(self._file)(own, complete_below=0)
        self._poll: select.poll | None = None
        self._mounts: tuple[Mount, ...] = ()
        self._labels: dict[Mount, dict[str, str]] = {}
        self._history: dict[Mount, tuple[str, str, str]] = {}
        self._stats: dict[Mount, os.statvfs_result] = {}
        self._errors: dict[Mount, str] = {}
        self._hung_since: dict[Mount, float] = {}
        self._sizes: Table[Mount] = Table(_SIZES)
        self._error: Table[Mount] = Table((_ERROR,))

    def sample(self, at: Moment, /) -> Coroutine[object, object, None] | None:
        if self._mounts_changed():
            self._read_mounts()
        remote: list[Mount] = []
        root, statvfs, stats = self._machine.root, self._machine.statvfs, self._stats
        for mount in self._mounts:
            if mount.may_hang:
                remote.append(mount)
                continue
            try:
                stats[mount] = statvfs(root + mount.mountpoint)
            except OSError as error:
                self._fail(mount, error.strerror or str(error))
            else:
                if self._errors:
                    self._errors.pop(mount, None)
        return self._ask(remote, at) if remote else None

    def _mounts_changed(self) -> bool:
        if self._poll is None:
            try:
                fd = self._file.descriptor()
            except OSError:
                self._file.close()
                self._file = self._fallback
                fd = self._file.descriptor()
            self._poll = select.poll()
            # The kernel raises these on a mount table, once a change for each descriptor.
            self._poll.register(fd, select.POLLERR | select.POLLPRI)
            # A regular file (another machine's copy) never raises them.
            return True
        return bool(self._machine.root) or bool(self._poll.poll(0))

    def _read_mounts(self) -> None:
        try:
            mounts = parse_mounts(self._file.read())
        except OSError:
            self._poll = None
            raise
        seen: dict[tuple[str, str, str], Mount] = {}
        for mount in mounts:
            if self._types and self._types.match(mount.fstype):
                continue
            if self._points and self._points.match(mount.mountpoint):
                continue
            seen.setdefault((mount.device, mount.fstype, mount.mountpoint), mount)
        self._mounts = tuple(seen.values())
        self._labels = {mount: dict(zip(_LABELS, key, strict=True)) for key, mount in seen.items()}
        self._history = {mount: _texts(mount.mountpoint) for mount in self._mounts[:MAX_MOUNTS]}
        for known in (self._stats, self._errors, self._hung_since):
            for mount in known.keys() - self._labels.keys():
                del known[mount]

    def _fail(self, mount: Mount, message: str) -> None:
        self._stats.pop(mount, None)
        self._errors[mount] = message

    async def _ask(self, mounts: list[Mount], at: Moment) -> None:
        waiting: dict[asyncio.Future[os.statvfs_result], Mount] = {}
        for mount in mounts:
            path = self._machine.root + mount.mountpoint
            try:
                future = self._machine.calls.start(f"statvfs {path}", lambda path=path: self._machine.statvfs(path))  # type: ignore[misc]
            except Refused as refused:
                self._hang(mount, at, str(refused))
            else:
                waiting[future] = mount
        if not waiting:
            return
        # A shade less than the collector's deadline, so that a mount that hangs does not make the others late, too.
        try:
            done, late = await asyncio.wait(waiting, timeout=self._timeout_s * 0.9)
        finally:
            for future in waiting:
                future.cancel()  # nothing where it is done
        for future in late:
            self._hang(waiting[future], at, f"no answer in {self._timeout_s * 0.9:g} s")
        for future in done:
            self._answered(waiting[future], future)

    def _hang(self, mount: Mount, at: Moment, message: str) -> None:
        since_s = self._hung_since.setdefault(mount, at.monotonic_s)
        hung_s = at.monotonic_s - since_s
        self._fail(mount, f"{message}, for {hung_s:.0f} s" if hung_s >= 1 else message)

    def _answered(self, mount: Mount, future: asyncio.Future[os.statvfs_result]) -> None:
        self._hung_since.pop(mount, None)
        error = future.exception()
        if mount not in self._labels:
            return
        if error is None:
            self._stats[mount] = future.result()
            self._errors.pop(mount, None)
        else:
            self._fail(mount, getattr(error, "strerror", None) or str(error))

    def families(self) -> Iterator[Family]:
        rows = {mount: _row(mount, stat) for mount, stat in self._stats.items()}
        yield from self._sizes.families(rows, self._labels)
        known = [mount for mount in self._mounts if mount in self._stats or mount in self._errors]
        yield from self._error.families({mount: (float(mount in self._errors),) for mount in known}, self._labels)

    def history(self) -> Iterator[tuple[str, float]]:
        for mount, texts in self._history.items():
            stat = self._stats.get(mount)
            if stat is None or not stat.f_blocks:
                continue
            yield texts[0], _used_ratio(stat)
            yield texts[1], stat.f_bavail * stat.f_frsize
            if stat.f_files:
                yield texts[2], _inodes_ratio(stat)

    def show(self, glance: Glance) -> None:
        glance.filesystems = [view for mount in self._mounts if (view := self._view(mount)) is not None]

    def _view(self, mount: Mount) -> FilesystemView | None:
        error = self._errors.get(mount, "")
        stat = self._stats.get(mount)
        if stat is None and not error:
            return None
        return FilesystemView(
            mountpoint=mount.mountpoint,
            device=mount.device,
            fstype=mount.fstype,
            size_bytes=stat.f_blocks * stat.f_frsize if stat else 0,
            available_bytes=stat.f_bavail * stat.f_frsize if stat else 0,
            used_ratio=_used_ratio(stat) if stat else 0.0,
            inodes_used_ratio=_inodes_ratio(stat) if stat and stat.f_files else None,
            error=error,
        )

    def trouble(self) -> str:
        parts = [f"{mount.mountpoint}: {self._errors[mount]}" for mount in self._mounts if mount in self._errors]
        return "; ".join(parts[:5]) + (f"; and {len(parts) - 5} more" if len(parts) > 5 else "")

    def close(self) -> None:
        self._file.close()
        self._fallback.close()
        self._poll = None


def parse_mounts(raw: bytes) -> list[Mount]:
    """Return the mounts of a /proc/…/mounts file, in its order. Lines of another shape are passed over."""
    lines = [
        words for line in raw.decode("utf-8", "backslashreplace").splitlines() if len(words := line.split(" ")) >= 4
    ]
    remote = [_unescape(words[1]).rstrip("/") + "/" for words in lines if words[2] not in _LOCAL | _KERNEL]
    mounts = []
    for device, point, fstype, options, *_ in lines:
        mountpoint = _unescape(point)
        below = any(mountpoint.startswith(path) for path in remote if path != "/")
        mounts.append(
            Mount(
                device=_unescape(device),
                fstype=fstype,
                mountpoint=mountpoint,
                readonly="ro" in options.split(","),
                may_hang=fstype not in _LOCAL | _KERNEL or below,
            )
        )
    return mounts


# The kernel's own filesystems, which cannot hang: what is mounted below them is no slower for it. autofs is not one.
_KERNEL = frozenset(
    [
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rootfs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline, backslash and #."""
    if "\\" not in text:
        return text
    return re.sub(r"\\(0[0-7]{2}|1[0-7]{2})", lambda match: chr(int(match[1], 8)), text)


def _used_ratio(stat: os.statvfs_result) -> float:
    # Servers have been seen to report more that is free than there is.
    used = max(0, stat.f_blocks - stat.f_bfree)
    whole = used + stat.f_bavail
    return used / whole if whole else 0.0


def _inodes_ratio(stat: os.statvfs_result) -> float:
    return max(0.0, 1 - stat.f_ffree / stat.f_files)


def _row(mount: Mount, stat: os.statvfs_result) -> tuple[float, ...]:
    size = stat.f_frsize
    return (
        stat.f_bavail * size,
        stat.f_files,
        stat.f_ffree,
        stat.f_bfree * size,
        float(mount.readonly),
        stat.f_blocks * size,
    )


def _texts(mountpoint: str) -> tuple[str, str, str]:
    labels = {"mountpoint": mountpoint}
    return (
        series("dogwatch_host_filesystem_used_ratio", labels),
        series("node_filesystem_avail_bytes", labels),
        series("dogwatch_host_filesystem_inodes_used_ratio", labels),
    )
