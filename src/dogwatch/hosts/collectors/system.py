"""What the machine is: kernel and distribution."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from dogwatch.core.metrics import Family, series
from dogwatch.hosts.collector import Collector, Metric, Moment, Sampler
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.view import Glance

_UNAME = Metric(
    "node_uname_info",
    "gauge",
    "Labeled system information as provided by the uname system call.",
    ("domainname", "machine", "nodename", "release", "sysname", "version"),
)
_OS_LABELS = (
    *("build_id", "id", "id_like", "image_id", "image_version", "name", "pretty_name", "variant", "variant_id"),
    *("version", "version_codename", "version_id"),
)
_OS = Metric(
    "node_os_info",
    "gauge",
    f"A metric with a constant '1' value labeled by {', '.join(_OS_LABELS)}.",
    _OS_LABELS,
)
_OS_VERSION = Metric(
    "node_os_version",
    "gauge",
    "Metric containing the major.minor part of the OS version.",
    ("id", "id_like", "name"),
)


class SystemCollector(Collector, frozen=True, kw_only=True):
    """Kernel (uname) and distribution (os-release)."""

    kind: ClassVar[str] = "system"
    default_every_s: ClassVar[float | None] = 300.0
    metrics: ClassVar[tuple[Metric, ...]] = (_UNAME, _OS, _OS_VERSION)

    def open(self, machine: Machine) -> Sampler:
        return SystemSampler(machine)


class SystemSampler(Sampler):
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._kernel = self._os = ""
        self._families: list[Family] = []

    def sample(self, _at: Moment, /) -> None:
        kernel = self._read("proc/sys/kernel/osrelease") or os.uname().release
        labels = {
            "domainname": self._read("proc/sys/kernel/domainname"),
            "machine": os.uname().machine,
            "nodename": self._read("proc/sys/kernel/hostname"),
            "release": kernel,
            "sysname": self._read("proc/sys/kernel/ostype"),
            "version": self._read("proc/sys/kernel/version"),
        }
        families = [_info(_UNAME, labels)]
        release = parse_os_release(self._read("etc/os-release") or self._read("usr/lib/os-release"))
        if release:
            families.append(_info(_OS, {name: release.get(name, "") for name in _OS_LABELS}))
            version = _version(release.get("version_id", ""))
            if version is not None:
                text = series(_OS_VERSION.name, {name: release.get(name, "") for name in _OS_VERSION.labels})
                families.append(Family(_OS_VERSION.name, _OS_VERSION.kind, _OS_VERSION.help, ((text, version),)))
        self._kernel, self._os, self._families = kernel, release.get("pretty_name", ""), families

    def _read(self, path: str) -> str:
        try:
            return Path(self._machine.path(path)).read_bytes()[:65536].decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def families(self) -> Iterator[Family]:
        yield from self._families

    def show(self, glance: Glance) -> None:
        glance.kernel, glance.os = self._kernel, self._os


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of an os-release file, names in small letters."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[name.lower()] = (
                value.replace('\\"', '"').replace("\\$", "$").replace("\\`", "`").replace("\\\\", "\\")
            )
    return found


def _version(text: str) -> float | None:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    return float(f"{major}.{minor or 0}") if major.isdecimal() and (not minor or minor.isdecimal()) else None


def _info(metric: Metric, labels: dict[str, str]) -> Family:
    return Family(metric.name, metric.kind, metric.help, ((series(metric.name, labels), 1.0),))
