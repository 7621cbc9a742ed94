"""Protocol counters (netstat, snmp, snmp6) and sockets in use (sockstat)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from dogwatch.core.metrics import Family
from dogwatch.hosts.collector import Absent, Collector, CollectorError, Metric, Moment, Sampler, field_name
from dogwatch.hosts.machine import KernelFile, Machine

_NETSTAT = Metric("node_netstat_*", "untyped", "Statistic *.")
_SOCKSTAT = Metric("node_sockstat_*", "gauge", "Number of * sockets in state *.")


class SocketsCollector(Collector, frozen=True, kw_only=True):
    """Protocol counters of IP, ICMP, TCP and UDP, and sockets in use.

    fields: regular expression of the counters shown, as Protocol_Field.
    """

    kind: ClassVar[str] = "sockets"
    metrics: ClassVar[tuple[Metric, ...]] = (_NETSTAT, _SOCKSTAT)
    patterns: ClassVar[tuple[str, ...]] = ("fields",)
    fields: str = (
        r"^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)"
        r"|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)"
        r"|Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)"
        r"|Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$"
    )

    def open(self, machine: Machine) -> Sampler:
        return SocketsSampler(machine, self.fields)


class SocketsSampler(Sampler):
    def __init__(self, machine: Machine, fields: str) -> None:
        self._wanted = re.compile(fields)
        self._page_bytes = machine.page_bytes
        self._files = {
            name: machine.proc(f"net/{name}") for name in ("netstat", "snmp", "snmp6", "sockstat", "sockstat6")
        }
        self._raw: dict[str, bytes] = {}
        # Header line of netstat and snmp -> where the wanted values are: (index, name, help).
        self._layouts: dict[bytes, list[tuple[int, str, str]]] = {}
        self._snmp6: dict[bytes, tuple[str, str] | None] = {}

    def sample(self, _at: Moment, /) -> None:
        self._raw = {}
        raw = {}
        for name, file in self._files.items():
            content = _optional(file)
            if content:
                raw[name] = content
        if not raw:
            raise Absent("no files about sockets in /proc/net")
        for name in ("netstat", "snmp"):
            if name in raw and raw[name].count(b"\n") % 2:
                raise CollectorError(f"{self._files[name].path} is not in pairs of lines")
        self._raw = raw

    def families(self) -> Iterator[Family]:
        raw = self._raw
        for name in ("netstat", "snmp"):
            lines = raw.get(name, b"").splitlines()
            for head, line in zip(lines[::2], lines[1::2], strict=True):
                yield from self._pairs(head, line)
        for line in raw.get("snmp6", b"").splitlines():
            yield from self._line6(line)
        for name in ("sockstat", "sockstat6"):
            for line in raw.get(name, b"").splitlines():
                yield from self._sockstat(line.decode("ascii"))

    def _pairs(self, head: bytes, line: bytes) -> Iterator[Family]:
        layout = self._layouts.get(head)
        if layout is None:
            layout = self._layout(head)
        if not layout:
            return
        words = line.split()
        for index, name, text in layout:
            yield Family(name, "untyped", text, ((name, int(words[index])),))

    def _layout(self, head: bytes) -> list[tuple[int, str, str]]:
        if len(self._layouts) > 100:
            self._layouts.clear()
        protocol, *fields = head.decode("ascii").split()
        protocol = protocol.rstrip(":")
        self._layouts[head] = [
            (index, f"node_netstat_{field_name(protocol)}_{field_name(field)}", f"Statistic {protocol}{field}.")
            for index, field in enumerate(fields, 1)
            if self._wanted.match(f"{protocol}_{field}")
        ]
        return self._layouts[head]

    def _line6(self, line: bytes) -> Iterator[Family]:
        key, _, value = line.partition(b" ")
        key = key.strip()
        if key not in self._snmp6:
            if len(self._snmp6) > 2000:
                self._snmp6.clear()
            protocol, six, field = key.decode("ascii").partition("6")
            wanted = six and self._wanted.match(f"{protocol}6_{field}")
            self._snmp6[key] = (
                (f"node_netstat_{field_name(protocol)}6_{field_name(field)}", f"Statistic {protocol}6{field}.")
                if wanted
                else None
            )
        found = self._snmp6[key]
        if found:
            yield Family(found[0], "untyped", found[1], ((found[0], int(value)),))

    def _sockstat(self, line: str) -> Iterator[Family]:
        protocol, *words = line.split()
        protocol = protocol.rstrip(":")
        for field, value in zip(words[::2], words[1::2], strict=True):
            yield _socket(protocol, field, int(value))
            if field == "mem":
                # Counted in pages.
                yield _socket(protocol, "mem_bytes", int(value) * self._page_bytes)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _socket(protocol: str, field: str, value: int) -> Family:
    if protocol == "sockets":
        return Family(
            "node_sockstat_sockets_used",
            "gauge",
            "Number of IPv4 sockets in use.",
            (("node_sockstat_sockets_used", value),),
        )
    name = f"node_sockstat_{field_name(protocol)}_{field_name(field)}"
    return Family(name, "gauge", f"Number of {protocol} sockets in state {field}.", ((name, value),))


def _optional(file: KernelFile) -> bytes:
    """Return the content; nothing where the protocol is not there (IPv6 switched off)."""
    try:
        return file.read()
    except FileNotFoundError:
        return b""
