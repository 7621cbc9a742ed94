"""What is wrong with a host, from what it said: pure, so that the same looks can be judged by other limits later."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dogwatch.core.units import format_duration, format_size
from dogwatch.inspection.reading import Reading

DAY_S = 86400.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Above which something is a finding. load: by core. errors: in the log of the last hour."""

    disk_ratio: float = 0.85
    memory_ratio: float = 0.95
    swap_ratio: float = 0.8
    load: float = 2.0
    offset_s: float = 1.0
    certificate_s: float = 14 * DAY_S
    errors: int = 0
    security_updates: int = 0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something about a host. serious: it should be seen to now. what: the group in which it is told."""

    check: str
    what: str
    message: str
    serious: bool = True


def judge(reading: Reading, limits: Limits, now_s: float) -> list[Finding]:
    """Return what is wrong, the serious first."""
    found = [*_disks(reading, limits), *_memory(reading, limits), *_rest(reading, limits)]
    found += _certificates(reading, limits, now_s)
    if not reading.complete:
        found.append(Finding(check="end", what="looked at only in part", message="the script did not come to its end"))
    return sorted(found, key=lambda one: not one.serious)


def _disks(reading: Reading, limits: Limits) -> Iterator[Finding]:
    what = f"disk above {limits.disk_ratio:.0%}"
    for one in sorted(reading.disks, key=lambda disk: -disk.used_ratio):
        if one.used_ratio > limits.disk_ratio:
            room = f"{format_size(one.free_bytes)} of {format_size(one.size_bytes)} free"
            yield Finding(check="disk", what=what, message=f"{one.mount} {one.used_ratio:.0%}, {room}")
        if one.inodes_ratio is not None and one.inodes_ratio > limits.disk_ratio:
            message = f"{one.mount} {one.inodes_ratio:.0%} of its inodes"
            yield Finding(check="disk", what=what.replace("disk", "inodes"), message=message)


def _memory(reading: Reading, limits: Limits) -> Iterator[Finding]:
    used, swap = reading.memory_used_ratio, reading.swap_used_ratio
    if used is not None and used > limits.memory_ratio:
        message = f"{used:.0%} of {format_size(reading.memory_bytes or 0)}"
        yield Finding(check="memory", what=f"memory above {limits.memory_ratio:.0%}", message=message)
    if swap is not None and swap > limits.swap_ratio:
        yield Finding(check="memory", what=f"swap above {limits.swap_ratio:.0%}", message=f"{swap:.0%}")


def _rest(reading: Reading, limits: Limits) -> Iterator[Finding]:
    cores = max(1, reading.cores or 1)
    if reading.load_1m is not None and reading.load_1m / cores > limits.load:
        message = f"{reading.load_1m:.1f} on {cores} core{'' if cores == 1 else 's'}"
        yield Finding(check="load", what=f"load above {limits.load:g} a core", message=message)
    if reading.services_failed:
        names = ", ".join(reading.services_failed[:5])
        more = f" and {len(reading.services_failed) - 5} more" if len(reading.services_failed) > 5 else ""
        yield Finding(check="services", what="services failed", message=names + more)
    offset_s = reading.time_offset_s
    if offset_s is not None and abs(offset_s) - reading.time_error_s > limits.offset_s:
        way = "ahead" if offset_s > 0 else "behind"
        message = f"{format_duration(round(abs(offset_s), 1))} {way}"
        yield Finding(check="time", what=f"clock off by more than {format_duration(limits.offset_s)}", message=message)
    if (reading.security_updates or 0) > limits.security_updates:
        message = f"{reading.security_updates} of {reading.updates} updates"
        yield Finding(check="packages", what="security updates wait", message=message)
    if reading.reboot_required:
        yield Finding(check="reboot", what="reboot required", message=reading.reboot_reason or "yes", serious=False)
    if (reading.log_errors or 0) > limits.errors:
        last = f", last: {reading.log_last[-1]}" if reading.log_last else ""
        many = "200 or more" if (reading.log_errors or 0) >= 200 else str(reading.log_errors)
        what = "errors in the log, last hour"
        yield Finding(check="errors", what=what, message=f"{many}{last}", serious=False)


def _certificates(reading: Reading, limits: Limits, now_s: float) -> Iterator[Finding]:
    for one in reading.certificates or ():
        name = f"{one.name} in {one.file}" if one.name else one.file
        if one.expires_s is None:
            yield Finding(check="certificates", what="certificates", message=f"{name}: {one.trouble}", serious=False)
        elif one.expires_s <= now_s:
            ago = format_duration(round(now_s - one.expires_s))
            yield Finding(check="certificates", what="certificates expired", message=f"{name}: {ago} ago")
        elif one.expires_s - now_s < limits.certificate_s:
            left = format_duration(round(one.expires_s - now_s))
            what = f"certificates expire within {format_duration(limits.certificate_s)}"
            yield Finding(check="certificates", what=what, message=f"{name}: in {left}")
