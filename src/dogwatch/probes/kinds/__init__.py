"""One file per kind of probe, and the one list of them. What kinds share lives a folder higher."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.probes.kinds.dns import DnsProbe
from dogwatch.probes.kinds.docker import DockerProbe
from dogwatch.probes.kinds.exec import ExecProbe
from dogwatch.probes.kinds.grpc import GrpcProbe
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.kinds.icmp import IcmpProbe
from dogwatch.probes.kinds.remote import RemoteProbe
from dogwatch.probes.kinds.tcp import TcpProbe
from dogwatch.probes.kinds.tls import TlsProbe
from dogwatch.probes.kinds.unix import UnixProbe
from dogwatch.probes.kinds.websocket import WebsocketProbe
from dogwatch.probes.probe import Probe

PROBES: Registry[Probe] = Registry(
    "probe",
    HttpProbe,
    TcpProbe,
    TlsProbe,
    DnsProbe,
    IcmpProbe,
    GrpcProbe,
    WebsocketProbe,
    UnixProbe,
    ExecProbe,
    DockerProbe,
    HeartbeatProbe,
    RemoteProbe,
)
