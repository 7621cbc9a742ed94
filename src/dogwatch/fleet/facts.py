"""Facts of hosts: what a machine is. Gathered once with one script of sh, and kept for a bounded time."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from dogwatch.fleet.connection import Connection
from dogwatch.fleet.login import Login
from dogwatch.fleet.operations.state import CannotRead
from dogwatch.fleet.plans.asking import answer_of

_SCRIPT = r"""LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
v() { printf '%s=' "$1"; shift; "$@" 2>/dev/null | head -n 1 | tr -d '\n'; echo; }
has() { command -v "$1" >/dev/null 2>&1; }
v hostname uname -n
v fqdn sh -c 'hostname -f || uname -n'
v kernel uname -s
v kernel_release uname -r
v arch uname -m
for f in /etc/os-release /usr/lib/os-release; do [ -r $f ] && { sed -n 's/^/os_/p' $f; break; }; done
v cpus sh -c 'nproc || getconf _NPROCESSORS_ONLN'
[ -r /proc/meminfo ] && sed -n 's/^MemTotal: *\([0-9]*\) kB/memory_kib=\1/p' /proc/meminfo
[ -r /proc/meminfo ] && sed -n 's/^SwapTotal: *\([0-9]*\) kB/swap_kib=\1/p' /proc/meminfo
[ -r /sys/class/dmi/id/product_name ] && v product cat /sys/class/dmi/id/product_name
[ -r /etc/machine-id ] && v machine_id cat /etc/machine-id
[ -r /proc/stat ] && sed -n 's/^btime /booted_s=/p' /proc/stat
if [ -d /run/systemd/system ]; then echo init=systemd; else v init cat /proc/1/comm; fi
if has systemd-detect-virt; then v virtual systemd-detect-virt; fi
for m in apt-get dnf yum apk zypper pacman; do has $m && { echo "package_manager=${m%-get}"; break; }; done
v user id -un
v shell sh -c 'echo "$SHELL"'
v timezone sh -c 'cat /etc/timezone || readlink /etc/localtime | sed s,.*zoneinfo/,,'
if has ip; then
  ip -o addr show scope global 2>/dev/null | while read -r _ d f a _; do echo "address_$f=$d ${a%%/*}"; done
  ip -o route show default 2>/dev/null | head -n 1 | sed -n 's/.*via \([^ ]*\).*/gateway=\1/p'
fi
echo facts_end=1
"""
_FAMILIES = {
    "debian": ("debian", "ubuntu", "raspbian", "linuxmint", "kali"),
    "redhat": ("rhel", "centos", "fedora", "rocky", "almalinux", "ol", "amzn"),
    "alpine": ("alpine",),
    "suse": ("suse", "sles", "opensuse", "opensuse-leap", "opensuse-tumbleweed"),
    "arch": ("arch", "archarm", "manjaro"),
}
_BYTES = 1024 * 1024


def parse_facts(text: str) -> dict[str, Any]:
    """Return the facts that the script printed. Raises: CannotRead where it did not come to its end."""
    raw: dict[str, str] = {}
    addresses: dict[str, list[str]] = {"inet": [], "inet6": []}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if not sign or not re.fullmatch(r"[A-Za-z_0-9]+", name):
            continue
        if name.startswith("address_"):
            addresses.setdefault(name.removeprefix("address_"), []).append(value.partition(" ")[2])
            continue
        raw[name] = value.strip().strip('"').strip("'")
    if raw.pop("facts_end", "") != "1":
        raise CannotRead("the host's facts are cut short", hint="its shell must be POSIX")
    os_id = raw.get("os_ID", "")
    words = [os_id, *raw.get("os_ID_LIKE", "").split()]
    family = next((name for name, members in _FAMILIES.items() if any(word in members for word in words)), os_id)
    return {
        "hostname": raw.get("hostname", ""),
        "fqdn": raw.get("fqdn", ""),
        "os": {
            "id": os_id,
            "family": family,
            "name": raw.get("os_PRETTY_NAME", ""),
            "version": raw.get("os_VERSION_ID", ""),
            "codename": raw.get("os_VERSION_CODENAME", ""),
        },
        "kernel": raw.get("kernel", ""),
        "kernel_release": raw.get("kernel_release", ""),
        "arch": raw.get("arch", ""),
        "cpus": _number(raw, "cpus"),
        "memory_bytes": _number(raw, "memory_kib") * 1024,
        "swap_bytes": _number(raw, "swap_kib") * 1024,
        "product": raw.get("product", ""),
        "machine_id": raw.get("machine_id", ""),
        "booted_s": _number(raw, "booted_s"),
        "init": raw.get("init", ""),
        "virtual": raw.get("virtual", ""),
        "package_manager": raw.get("package_manager", ""),
        "user": raw.get("user", ""),
        "shell": raw.get("shell", ""),
        "timezone": raw.get("timezone", ""),
        "ipv4": addresses["inet"],
        "ipv6": addresses["inet6"],
        "gateway": raw.get("gateway", ""),
    }


def _number(raw: Mapping[str, str], name: str) -> int:
    return int(raw[name]) if raw.get(name, "").isdigit() else 0


class _Kept(msgspec.Struct, frozen=True):
    at_s: float
    facts: dict[str, Any]


class Facts:
    """Facts of hosts, kept in a folder. max_age_s: older ones are gathered again; 0: always."""

    def __init__(
        self, folder: Path | None, *, max_age_s: float, now_s: Callable[[], float], timeout_s: float = 60.0
    ) -> None:
        self._folder, self._max_age_s, self._now_s, self._timeout_s = folder, max_age_s, now_s, timeout_s
        self.gathered = 0

    async def of(self, host: str, login: Login, connection: Connection) -> Mapping[str, Any]:
        """Return the host's facts, kept or gathered. Raises: HostFailed, CannotRead."""
        kept = self.kept(host)
        if kept is not None:
            return kept
        raw = await answer_of(connection, login, f"{{\n{_SCRIPT}}} </dev/null\n", timeout_s=self._timeout_s)
        facts = parse_facts(raw[:_BYTES].decode(errors="replace"))
        self.gathered += 1
        self._keep(host, facts)
        return facts

    def kept(self, host: str) -> dict[str, Any] | None:
        """Return facts that are young enough."""
        if self._folder is None or self._max_age_s <= 0:
            return None
        try:
            kept = msgspec.json.decode(self._file(host).read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return None
        # From a clock that was ahead: nobody knows how old they are.
        return kept.facts if 0 <= self._now_s() - kept.at_s <= self._max_age_s else None

    def _keep(self, host: str, facts: dict[str, Any]) -> None:
        if self._folder is None:
            return
        # They are only kept to save time: a folder that cannot be written costs that, no more.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = self._file(host).with_suffix(f".{secrets.token_hex(4)}")
            part.write_bytes(msgspec.json.encode(_Kept(self._now_s(), facts)))
            part.replace(self._file(host))

    def _file(self, host: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{quote(host, safe='')[:200]}.json"
