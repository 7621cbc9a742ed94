"""Every kind of probe against a real other side: one that is well, one that refuses, one that says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.message
import msgspec
import pytest

from dogwatch.core.clock import ManualClock
from dogwatch.errors import TransientError
from dogwatch.probes.heartbeats import HeartbeatLedger
from dogwatch.probes.kinds.dns import DnsProbe
from dogwatch.probes.kinds.docker import DockerProbe
from dogwatch.probes.kinds.exec import ExecProbe
from dogwatch.probes.kinds.grpc import GrpcProbe
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.probes.kinds.icmp import IcmpProbe
from dogwatch.probes.kinds.remote import RemoteProbe
from dogwatch.probes.kinds.tcp import DialogueStep, TcpProbe
from dogwatch.probes.kinds.tls import TlsProbe
from dogwatch.probes.kinds.unix import UnixProbe
from dogwatch.probes.kinds.websocket import WebsocketProbe
from dogwatch.probes.probe import Probe
from tests.probing import Trust, free_port, peer, silent_tcp, silent_udp

SECRET = "hunter2-very-secret"


@dataclass
class Scene:
    """A probe and what it is to meet. secret: it carries SECRET somewhere."""

    probe: Probe
    extra: dict[str, Any] = field(default_factory=dict)


Opener = Callable[[Path], AbstractAsyncContextManager[Scene]]


@dataclass
class Case:
    """One kind. example: as configuration writes it. bad: options that must be refused, with the faulty path.

    good, refused, silent: scenes; None where there is no such thing for the kind, and `why` says why.
    """

    example: dict[str, Any]
    bad: list[tuple[dict[str, Any], str]]
    good: Opener
    refused: Opener | None
    silent: Opener | None
    why: str = ""


def scene(make: Callable[[Path], AsyncIterator[Scene]]) -> Opener:
    return contextlib.asynccontextmanager(make)


# --- tcp


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ready\r\n")
    await reader.readline()
    writer.write(b"250 fine\r\n")
    await writer.drain()


DIALOGUE = (DialogueStep(expect="^220", send=SECRET), DialogueStep(expect="^250"))


@scene
async def tcp_good(_: Path) -> AsyncIterator[Scene]:
    async with peer(_greet) as port:
        yield Scene(TcpProbe(host="127.0.0.1", port=port, dialogue=DIALOGUE))


@scene
async def tcp_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(TcpProbe(host="127.0.0.1", port=free_port(), dialogue=DIALOGUE))


@scene
async def tcp_silent(_: Path) -> AsyncIterator[Scene]:
    with silent_tcp() as port:
        yield Scene(TcpProbe(host="127.0.0.1", port=port, dialogue=DIALOGUE))


# --- unix


@scene
async def unix_good(folder: Path) -> AsyncIterator[Scene]:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _greet(reader, writer)
        writer.close()
        await writer.wait_closed()

    (folder / "good").unlink(missing_ok=True)
    async with await asyncio.start_unix_server(greet, folder / "good"):
        yield Scene(UnixProbe(path=str(folder / "good"), dialogue=DIALOGUE))


@scene
async def unix_refused(folder: Path) -> AsyncIterator[Scene]:
    with socket.socket(socket.AF_UNIX) as sock:
        (folder / "refused").unlink(missing_ok=True)
        sock.bind(str(folder / "refused"))
        yield Scene(UnixProbe(path=str(folder / "refused"), dialogue=DIALOGUE))


@scene
async def unix_silent(folder: Path) -> AsyncIterator[Scene]:
    with socket.socket(socket.AF_UNIX) as sock:
        (folder / "silent").unlink(missing_ok=True)
        sock.bind(str(folder / "silent"))
        sock.listen()
        yield Scene(UnixProbe(path=str(folder / "silent"), dialogue=DIALOGUE))


# --- tls


async def _idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


@scene
async def tls_good(folder: Path) -> AsyncIterator[Scene]:
    trust = Trust(folder)
    async with peer(_idle, trust.server()) as port:
        yield Scene(TlsProbe(host=f"127.0.0.1:{port}", ca_file=trust.ca_file))


@scene
async def tls_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(TlsProbe(host=f"127.0.0.1:{free_port()}"))


@scene
async def tls_silent(_: Path) -> AsyncIterator[Scene]:
    with silent_tcp() as port:
        yield Scene(TlsProbe(host=f"127.0.0.1:{port}"))


# --- dns


class _Answers(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        response = dns.message.make_response(dns.message.from_wire(data))
        self.transport.sendto(response.to_wire(), address)


@scene
async def dns_good(_: Path) -> AsyncIterator[Scene]:
    loop = asyncio.get_running_loop()
    transport, _protocol = await loop.create_datagram_endpoint(_Answers, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    yield Scene(DnsProbe(name="a.example", server=f"127.0.0.1:{port}"))
    transport.close()


@scene
async def dns_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(DnsProbe(name="a.example", server=f"127.0.0.1:{free_port()}", transport="tcp"))


@scene
async def dns_silent(_: Path) -> AsyncIterator[Scene]:
    with silent_udp() as port:
        yield Scene(DnsProbe(name="a.example", server=f"127.0.0.1:{port}"))


# --- icmp


def _can_ping() -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP):
            return True
    return False


@scene
async def icmp_good(_: Path) -> AsyncIterator[Scene]:
    if not _can_ping():
        pytest.skip("not allowed to send echo requests here")
    yield Scene(IcmpProbe(host="127.0.0.1"))


# --- grpc


@scene
async def grpc_good(_: Path) -> AsyncIterator[Scene]:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Scene(GrpcProbe(host=f"127.0.0.1:{port}", metadata={"authorization": SECRET}))
    await server.stop(None)


@scene
async def grpc_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(GrpcProbe(host=f"127.0.0.1:{free_port()}", metadata={"authorization": SECRET}))


@scene
async def grpc_silent(_: Path) -> AsyncIterator[Scene]:
    with silent_tcp() as port:
        yield Scene(GrpcProbe(host=f"127.0.0.1:{port}", metadata={"authorization": SECRET}))


# --- websocket


@scene
async def websocket_good(_: Path) -> AsyncIterator[Scene]:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"ws://127.0.0.1:{port}/chat?token={SECRET}"
        yield Scene(WebsocketProbe(url=url, send=SECRET, expect_message="hunter2", ping=True))


@scene
async def websocket_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(WebsocketProbe(url=f"ws://127.0.0.1:{free_port()}/?token={SECRET}", headers={"Cookie": SECRET}))


@scene
async def websocket_silent(_: Path) -> AsyncIterator[Scene]:
    with silent_tcp() as port:
        yield Scene(WebsocketProbe(url=f"ws://user:{SECRET}@127.0.0.1:{port}/?token={SECRET}"))


# --- exec


@scene
async def exec_good(_: Path) -> AsyncIterator[Scene]:
    yield Scene(ExecProbe(args=("/bin/echo", "load=1.5"), env={"TOKEN": SECRET}))


@scene
async def exec_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(ExecProbe(args=("/nowhere/no-such-program", SECRET)))


@scene
async def exec_silent(_: Path) -> AsyncIterator[Scene]:
    # A child of the child holds the pipes: ending only the first would leave it.
    yield Scene(ExecProbe(shell=f"sleep 1000 & sleep 1000 # {SECRET}", grace=0.2))


# --- docker


@contextlib.contextmanager
def _unix(folder: Path) -> Any:
    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield str(path), sock
    path.unlink()


ENGINE = {
    "/version": {"ApiVersion": "1.41", "MinAPIVersion": "1.12"},
    "/v1.41/containers/web/json": {"Id": "abcdef0123456789", "Name": "/web", "State": {"Status": "running"}},
}


async def _engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        path = line.split()[1].decode()
        while (await reader.readline()).strip():
            pass
        body = msgspec.json.encode(ENGINE.get(path, {"message": "no such page"}))
        status = b"200 OK" if path in ENGINE else b"404 Not Found"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
    writer.close()


@scene
async def docker_good(folder: Path) -> AsyncIterator[Scene]:
    path = str(folder / "d.sock")
    server = await asyncio.start_unix_server(_engine, path)
    yield Scene(DockerProbe(container="web", socket=path))
    server.close()


@scene
async def docker_refused(folder: Path) -> AsyncIterator[Scene]:
    yield Scene(DockerProbe(container="web", socket=str(folder / "none.sock")))


@scene
async def docker_silent(folder: Path) -> AsyncIterator[Scene]:
    with _unix(folder) as (path, _):
        yield Scene(DockerProbe(container="web", socket=path))


# --- remote


class _Shell:
    """Hosts that are this machine, one that refuses, and one that never answers."""

    async def knows(self, host: str) -> bool:
        return host in ("here", "refused", "silent")

    async def run(self, host: str, script: str, *, timeout_s: float, limit_bytes: int) -> tuple[bytes, str]:
        if host == "refused":
            raise TransientError("refused cannot be looked at: refused 127.0.0.1:22 refuses connections")
        if host == "silent":
            await asyncio.Event().wait()
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return out[:limit_bytes], ""


@scene
async def remote_good(folder: Path) -> AsyncIterator[Scene]:
    probe = RemoteProbe(host="here", checks=("time", "memory", "disk"), disk=1.0, memory=1.0)
    yield Scene(probe, extra={"shell": _Shell()})


@scene
async def remote_refused(folder: Path) -> AsyncIterator[Scene]:
    yield Scene(RemoteProbe(host="refused"), extra={"shell": _Shell()})


@scene
async def remote_silent(folder: Path) -> AsyncIterator[Scene]:
    yield Scene(RemoteProbe(host="silent"), extra={"shell": _Shell()})


# --- heartbeat


def _ledger(*signals: str) -> HeartbeatLedger:
    ledger = HeartbeatLedger(ManualClock())
    ledger.configure({"t": SECRET})
    for signal in signals:
        ledger.apply(ledger.ping("t", signal=signal))
    return ledger


@scene
async def heartbeat_good(_: Path) -> AsyncIterator[Scene]:
    yield Scene(HeartbeatProbe(id=SECRET), {"heartbeat": _ledger("success")})


@scene
async def heartbeat_refused(_: Path) -> AsyncIterator[Scene]:
    yield Scene(HeartbeatProbe(id=SECRET), {"heartbeat": _ledger("fail")})


CASES: dict[str, Case] = {
    "tcp": Case(
        example={"host": "db-1:5432", "dialogue": [{"expect": "^220 (\\S+)", "send": "EHLO $1"}]},
        bad=[
            ({"host": "db-1"}, "port"),
            ({"host": "db-1:x"}, "host"),
            ({"host": "a:1", "dialogue": [{"expect": "("}]}, "dialogue"),
            ({"host": "a:1", "dialogue": [{}]}, "dialogue"),
        ],
        good=tcp_good,
        refused=tcp_refused,
        silent=tcp_silent,
    ),
    "unix": Case(
        example={"path": "/run/app.sock", "dialogue": [{"send": "PING"}, {"expect": "PONG"}]},
        bad=[({"path": ""}, "path"), ({"path": "/s", "dialogue": [{"send_hex": "0"}]}, "send_hex")],
        good=unix_good,
        refused=unix_refused,
        silent=unix_silent,
    ),
    "tls": Case(
        example={"host": "shop.example:8443", "min_days": 14, "starttls": "smtp"},
        bad=[({"host": "a b"}, "host"), ({"host": "a", "key_file": "k.pem"}, "key_file")],
        good=tls_good,
        refused=tls_refused,
        silent=tls_silent,
    ),
    "dns": Case(
        example={"name": "shop.example", "type": "MX", "values": ["10 mail.shop.example."], "match": "exact"},
        bad=[
            ({"name": "a", "type": "NONSENSE"}, "type"),
            ({"name": "a..b"}, "name"),
            ({"name": "a", "rcode": ["FINE"]}, "rcode"),
            ({"name": "a", "match": "regex", "values": ["("]}, "values"),
            ({"name": "a", "answer": {"fail_if_matches": ["("]}}, "answer"),
        ],
        good=dns_good,
        refused=dns_refused,
        silent=dns_silent,
    ),
    "icmp": Case(
        example={"host": "db-1", "count": 3, "interval": "100ms", "payload": "1KiB", "max_loss": "20%"},
        bad=[({"host": "http://db-1/"}, "host")],
        good=icmp_good,
        refused=None,
        silent=None,
        why="loopback always answers; tests/integration/test_kind_icmp.py does it in a network namespace",
    ),
    "grpc": Case(
        example={"host": "shop:50051", "service": "shop.Cart", "tls": True, "metadata": {"x-team": "shop"}},
        bad=[({"host": "a", "metadata": {"Bad Name": "x"}}, "metadata"), ({"host": ":1"}, "host")],
        good=grpc_good,
        refused=grpc_refused,
        silent=grpc_silent,
    ),
    "websocket": Case(
        example={"url": "wss://shop.example/live", "send": "ping", "expect_message": "^pong$"},
        bad=[
            ({"url": "https://shop.example/"}, "url"),
            ({"url": "ws://a/", "expect_message": "["}, "expect_message"),
            ({"url": "ws://a/", "headers": {"A": "x\r\nB: y"}}, "headers"),
        ],
        good=websocket_good,
        refused=websocket_refused,
        silent=websocket_silent,
    ),
    "exec": Case(
        example={"args": ["/usr/lib/nagios/plugins/check_disk", "-w", "10%"], "format": "nagios"},
        bad=[({}, "args"), ({"args": ["a"], "shell": "b"}, "args"), ({"args": ["a"], "env": {"A=B": "c"}}, "env")],
        good=exec_good,
        refused=exec_refused,
        silent=exec_silent,
    ),
    "docker": Case(
        example={"labels": ["com.example.team=shop"], "condition": "healthy", "max_restarts": 3},
        bad=[({}, "container"), ({"container": "a", "socket": "docker.sock"}, "socket")],
        good=docker_good,
        refused=docker_refused,
        silent=docker_silent,
    ),
    "remote": Case(
        example={"host": "web01", "checks": ["disk", "certificates"], "disk": "80%", "expires": "30d"},
        bad=[
            ({}, "host"),
            ({"host": "a", "checks": []}, "checks"),
            ({"host": "a", "checks": ["certificates"], "certificates": ["/etc/$(id)"]}, "certificates"),
        ],
        good=remote_good,
        refused=remote_refused,
        silent=remote_silent,
    ),
    "heartbeat": Case(
        example={"cron": "30 3 * * *", "timezone": "Europe/Berlin", "grace": "30m"},
        bad=[({"cron": "61 * * * *"}, "cron"), ({"timezone": "Mars/Olympus"}, "timezone")],
        good=heartbeat_good,
        refused=heartbeat_refused,
        silent=None,
        why="it asks nobody: it answers at once from what it heard",
    ),
}
