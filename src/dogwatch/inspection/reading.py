"""From what the script wrote to values: every section by itself, so that one that is odd spoils no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dogwatch.inspection.script import CHECKS, MARK

_SHOWN_LINES = 5
_LINE_CHARS = 300
_SECURITY = re.compile(r"\((?:[^()]*)security", re.IGNORECASE)


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A file system. used_ratio: as df has it, of what is not reserved. inodes_ratio: None where it has none."""

    mount: str
    device: str
    size_bytes: int
    free_bytes: int
    used_ratio: float
    inodes_ratio: float | None = None


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate in a file. expires_s: seconds since 1970; None where it cannot be read, and `trouble` says why."""

    file: str
    name: str = ""
    expires_s: float | None = None
    trouble: str = ""


def _or(value: float | None) -> float:
    return -1.0 if value is None else float(value)


class Reading(msgspec.Struct, kw_only=True):
    """What a host said. None: that check was not asked for, or could not be done; `missing` says why.

    complete: the script came to its end. time_offset_s: of its clock to ours, no surer than time_error_s.
    """

    complete: bool = False
    missing: dict[str, str] = {}
    time_offset_s: float | None = None
    time_error_s: float = 0.0
    load_1m: float | None = None
    cores: int | None = None
    uptime_s: float | None = None
    memory_bytes: int | None = None
    memory_used_ratio: float | None = None
    swap_used_ratio: float | None = None
    disks: list[Disk] = []
    services_failed: list[str] | None = None
    updates: int | None = None
    security_updates: int | None = None
    reboot_required: bool | None = None
    reboot_reason: str = ""
    log_errors: int | None = None
    log_last: list[str] = []
    certificates: list[Certificate] | None = None

    def values(self, now_s: float) -> dict[str, Any]:
        """Return what expressions read: numbers, -1 for what is not known."""
        expiries = [one.expires_s - now_s for one in self.certificates or () if one.expires_s is not None]
        inodes = [one.inodes_ratio for one in self.disks if one.inodes_ratio is not None]
        return {
            "disk_used_ratio": max((one.used_ratio for one in self.disks), default=-1.0),
            "inodes_used_ratio": max(inodes, default=-1.0),
            "memory_used_ratio": _or(self.memory_used_ratio),
            "swap_used_ratio": _or(self.swap_used_ratio),
            "load_1m": _or(self.load_1m),
            "load_per_core": -1.0 if self.load_1m is None else self.load_1m / max(1, self.cores or 1),
            "uptime_s": _or(self.uptime_s),
            "time_offset_s": 0.0 if self.time_offset_s is None else self.time_offset_s,
            "services_failed": -1 if self.services_failed is None else len(self.services_failed),
            "updates": -1 if self.updates is None else self.updates,
            "security_updates": -1 if self.security_updates is None else self.security_updates,
            "reboot_required": bool(self.reboot_required),
            "log_errors": -1 if self.log_errors is None else self.log_errors,
            "certificate_expires_in_s": min(expiries, default=-1.0),
        }


VARIABLES: Mapping[str, str] = {
    name: {bool: "bool", int: "int", float: "double"}[type(value)] for name, value in Reading().values(0.0).items()
}
MEANINGS: Mapping[str, str] = {
    "disk_used_ratio": "of the fullest file system, 0 to 1",
    "inodes_used_ratio": "of the file system with the fewest left, 0 to 1",
    "memory_used_ratio": "memory that is not available, 0 to 1",
    "swap_used_ratio": "swap in use, 0 to 1",
    "load_1m": "load of the last minute",
    "load_per_core": "load of the last minute by core",
    "uptime_s": "seconds since it was started",
    "time_offset_s": "its clock beside ours, seconds; 0 where that cannot be told apart from the way there",
    "services_failed": "units of systemd that failed",
    "updates": "packages that can be upgraded, as far as its lists know",
    "security_updates": "of these, those that mend security",
    "reboot_required": "whether it waits for a reboot",
    "log_errors": "errors in its log in the last hour",
    "certificate_expires_in_s": "seconds until the first certificate in its files expires",
}


def read(text: str, *, asked_s: float | None = None, answered_s: float | None = None) -> Reading:
    """Return what the script's output says. asked_s, answered_s: our clock before it, and at its first word."""
    found = Reading()
    for name, lines in _sections(text).items():
        if name == "end":
            found.complete = True
            continue
        told = next((line[9:] for line in lines if line.startswith("missing: ")), "")
        if told and name != "certificates":
            found.missing[name] = told
            continue
        try:
            _READERS[name](found, lines)
        except (ValueError, IndexError, KeyError) as error:
            found.missing[name] = f"what it said is not understood: {str(error)[:100]}"
    if found.time_offset_s is not None:
        _place_in_time(found, asked_s, answered_s)
    return found


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        name = line.removeprefix(MARK)
        if name != line and (name in CHECKS or name == "end"):
            lines = found.setdefault(name, [])
        elif line:
            lines.append(line)
    return found


def _place_in_time(found: Reading, asked_s: float | None, answered_s: float | None) -> None:
    there_s = found.time_offset_s or 0.0
    if asked_s is None or answered_s is None:
        found.time_offset_s = None
        return
    offset_s = there_s - (asked_s + answered_s) / 2
    found.time_error_s = max(0.0, answered_s - asked_s) / 2
    found.time_offset_s = offset_s if abs(offset_s) > found.time_error_s else 0.0


def _time(found: Reading, lines: list[str]) -> None:
    text = lines[0]
    # Without %N, as busybox has it, it is right to the second.
    found.time_offset_s = float(text.replace(".%N", ".5").replace(".N", ".5"))


def _load(found: Reading, lines: list[str]) -> None:
    found.load_1m = float(lines[0].split()[0])
    found.cores = int(lines[1])
    found.uptime_s = float(lines[2].split()[0])


def _memory(found: Reading, lines: list[str]) -> None:
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    total = kib["MemTotal"]
    free = kib.get("MemAvailable", kib["MemFree"] + kib.get("Buffers", 0) + kib.get("Cached", 0))
    found.memory_bytes = total * 1024
    found.memory_used_ratio = 1 - free / total if total else 0.0
    swap = kib.get("SwapTotal", 0)
    found.swap_used_ratio = 1 - kib.get("SwapFree", 0) / swap if swap else 0.0


def _disk(found: Reading, lines: list[str]) -> None:
    at = lines.index("inodes") if "inodes" in lines else len(lines)
    inodes: dict[str, float] = {}
    for line in lines[at + 1 :]:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4].removesuffix("%").isdigit():
            inodes[fields[5]] = float(fields[4][:-1]) / 100
    seen: set[str] = set()
    disks = []
    for line in lines[:at]:
        fields = line.split(None, 5)
        if len(fields) < 6 or not fields[1].isdigit() or not fields[4].removesuffix("%").isdigit() or fields[1] == "0":
            continue
        device = fields[0]
        if device in seen and device.startswith("/dev/"):
            continue  # mounted in several places: one disk
        seen.add(device)
        disks.append(
            Disk(
                mount=fields[5],
                device=device,
                size_bytes=int(fields[1]) * 1024,
                free_bytes=int(fields[3]) * 1024,
                used_ratio=float(fields[4][:-1]) / 100,
                inodes_ratio=inodes.get(fields[5]),
            )
        )
    if not disks:
        raise ValueError("df names no file system")
    found.disks = disks


def _services(found: Reading, lines: list[str]) -> None:
    found.services_failed = [line.lstrip("● *").split()[0] for line in lines if line.strip("● *")]


def _packages(found: Reading, lines: list[str]) -> None:
    kind, rest = lines[0], lines[1:]
    if kind == "apt":
        found.updates = len(rest)
        found.security_updates = sum(bool(_SECURITY.search(line)) for line in rest)
    elif kind == "dnf":
        at = rest.index("security") if "security" in rest else len(rest)
        found.updates = sum(len(line.split()) == 3 for line in rest[:at])
        found.security_updates = sum(len(line.split()) >= 3 for line in rest[at + 1 :])
    else:
        found.updates = sum(" < " in line for line in rest)


def _reboot(found: Reading, lines: list[str]) -> None:
    found.reboot_required = lines[0] == "yes"
    found.reboot_reason = ", ".join(dict.fromkeys(lines[1:]))[:_LINE_CHARS]


def _errors(found: Reading, lines: list[str]) -> None:
    kept = [line for line in lines if not line.startswith(("Hint: ", "No journal files", "-- "))]
    if len(kept) < len(lines) and not kept:
        found.missing["errors"] = "the log may not be read by this user"
        return
    found.log_errors = len(kept)
    found.log_last = [line[:_LINE_CHARS] for line in kept[-_SHOWN_LINES:]]


def _certificates(found: Reading, lines: list[str]) -> None:
    files: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("file "):
            current = files.setdefault(line[5:], [])
        else:
            current.append(line)
    found.certificates = [_certificate(name, "\n".join(body)) for name, body in files.items()]


def _certificate(file: str, pem: str) -> Certificate:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        one = x509.load_pem_x509_certificate(pem[pem.index("-----BEGIN") :].encode() + b"\n")
    except ValueError:
        return Certificate(file=file, trouble="holds no certificate that can be read")
    names = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else ""
    return Certificate(file=file, name=name, expires_s=one.not_valid_after_utc.timestamp())


_READERS: Mapping[str, Callable[[Reading, list[str]], None]] = {
    "time": _time,
    "load": _load,
    "memory": _memory,
    "disk": _disk,
    "services": _services,
    "packages": _packages,
    "reboot": _reboot,
    "errors": _errors,
    "certificates": _certificates,
}
