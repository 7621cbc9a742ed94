"""The `icmp` kind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.units import Ratio
from dogwatch.probes.addresses import SocketAddress, resolve_host
from dogwatch.probes.icmp_socket import TOKEN_BYTES, EchoSocket
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe, failure_of, inner_timeout

_MAX_PAYLOAD = 65_507 - 8


class IcmpProbe(SteppedProbe, frozen=True, kw_only=True):
    """Sends echo requests and counts the replies.

    host: name or address. ip_version: 4 or 6; default: whichever the name has. ip_fallback: take the
    other one if it has none of that; default false. count: requests in one attempt;
    default 1. interval: between them; default 200ms. payload: size of the data sent, at least 8 bytes; default 56B.
    ttl: hop limit of the requests, 0 for the system's; default 0. dont_fragment: fail where the path would have to
    fragment them; default false. source: our own address; default: the system's choice. max_loss: share of requests
    that may stay unanswered; default 0.5.
    """

    kind: ClassVar[str] = "icmp"
    short: ClassVar[str] = "host"
    schemes: ClassVar[tuple[str, ...]] = ("ping",)
    variables: ClassVar[dict[str, str]] = {
        "ip": "string",
        "ip_version": "int",
        "sent": "int",
        "received": "int",
        "loss_ratio": "double",
        "rtt_min_s": "double",
        "rtt_avg_s": "double",
        "rtt_max_s": "double",
        "hop_limit": "int",
        "resolve_s": "double",
        "setup_s": "double",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "ip": "address that answered",
        "ip_version": "4 or 6",
        "sent": "requests sent",
        "received": "replies received",
        "loss_ratio": "share without a reply",
        "rtt_min_s": "shortest round trip",
        "rtt_avg_s": "mean round trip",
        "rtt_max_s": "longest round trip",
        "hop_limit": "hop limit of the last reply",
        "resolve_s": "time to resolve the name",
        "setup_s": "time to open the socket",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        "ip_version": ("probe_ip_protocol", "Specifies whether probe ip protocol is IP4 or IP6"),
        "hop_limit": ("probe_icmp_reply_hop_limit", "Replied packet hop limit (TTL for ipv4)"),
        "resolve_s": ('probe_icmp_duration_seconds{phase="resolve"}', "Duration of icmp request by phase"),
        "setup_s": ('probe_icmp_duration_seconds{phase="setup"}', "Duration of icmp request by phase"),
        "rtt_avg_s": ('probe_icmp_duration_seconds{phase="rtt"}', "Duration of icmp request by phase"),
        "loss_ratio": ("probe_icmp_loss_ratio", "Share of echo requests without a reply"),
    }

    host: str
    ip_version: Literal[4, 6] | None = None
    ip_fallback: bool = False
    count: Annotated[int, Meta(ge=1, le=100)] = 1
    interval: Annotated[float, Meta(ge=0.001, extra={"unit": "duration"})] = 0.2
    payload: Annotated[int, Meta(ge=TOKEN_BYTES, le=_MAX_PAYLOAD, extra={"unit": "size"})] = 56
    ttl: Annotated[int, Meta(ge=0, le=255)] = 0
    dont_fragment: bool = False
    source: str = ""
    max_loss: Ratio = 0.5

    def address(self) -> str:
        return self.host

    @property
    def _bare(self) -> str:
        """The host as the system takes it: `[::1]` is how addresses of that kind stand in URLs."""
        return self.host[1:-1] if self.host.startswith("[") and self.host.endswith("]") else self.host

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        if not self.host or any(char.isspace() or char == "/" for char in self.host):
            return [(("host",), f"'{self.host}' is not a host name or an address", "")]
        return []

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        started = perf_counter()
        # Before SteppedProbe's own deadline, so that some loss is judged and not taken for a timeout.
        deadline = asyncio.get_running_loop().time() + inner_timeout(inner_timeout(attempt.timeout_s))
        progress.doing = f"resolving {self.host}"
        family, sockaddr = (
            await resolve_host(attempt, self._bare, 0, self.ip_version, deadline, fallback=self.ip_fallback)
        )[0]
        resolved = perf_counter()
        progress.resolve_s = progress.values["resolve_s"] = resolved - started
        progress.values.update({"ip": sockaddr[0], "ip_version": 6 if family == socket.AF_INET6 else 4})
        try:
            echo = EchoSocket(family, ttl=self.ttl, dont_fragment=self.dont_fragment, source=self.source)
        except OSError as error:
            raise failure_of(error, f"cannot send echo requests to {self.host}") from error
        pings = _Pings(echo, sockaddr, progress)
        try:
            progress.values["setup_s"] = perf_counter() - resolved
            await self._ping(pings, deadline)
        finally:
            echo.close()
        if pings.loss_ratio > self.max_loss:
            lost = pings.sent - pings.received
            message = f"{self.host}: {lost} of {pings.sent} echo requests had no reply within {attempt.timeout_s:g} s"
            raise ProbeFailed("timeout", message)

    async def _ping(self, pings: _Pings, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        descriptor = pings.echo.sock.fileno()
        loop.add_reader(descriptor, pings.read)
        pings.progress.doing = f"waiting for an echo reply from {self.host}"
        payload = bytes(index & 0xFF for index in range(self.payload - TOKEN_BYTES))
        try:
            # Time being up is no failure here: what came back by then decides.
            async with asyncio.timeout_at(deadline):
                for number in range(self.count):
                    pings.send(number, payload)
                    if number + 1 < self.count:
                        await asyncio.sleep(self.interval)
                await pings.wait(self.count)
        except TimeoutError:
            pass
        except ProbeFailed as failed:
            raise ProbeFailed(failed.reason, f"{self.host}: {failed.message}") from failed
        except OSError as error:
            raise failure_of(error, f"cannot send echo requests to {self.host}") from error
        finally:
            loop.remove_reader(descriptor)
            pings.fill_values()


class _Pings:
    """The echoes of one attempt: when each was sent, when it came back."""

    def __init__(self, echo: EchoSocket, sockaddr: SocketAddress, progress: Progress) -> None:
        self.echo = echo
        self.progress = progress
        self._sockaddr = sockaddr
        self._sent_at: dict[int, float] = {}
        self._rtts: list[float] = []
        self._changed = asyncio.Event()
        self._failed: Exception | None = None

    @property
    def sent(self) -> int:
        return len(self._sent_at) + len(self._rtts)

    @property
    def received(self) -> int:
        return len(self._rtts)

    @property
    def loss_ratio(self) -> float:
        return 1 - self.received / self.sent if self.sent else 1.0

    def send(self, number: int, payload: bytes) -> None:
        self._sent_at[number] = perf_counter()
        self.echo.send(self._sockaddr, number, payload)

    def read(self) -> None:
        """Take all replies that are here; called by the event loop."""
        now = perf_counter()
        try:
            while True:
                reply = self.echo.receive()
                sent_at = self._sent_at.pop(reply.sequence, None) if reply else None  # a second copy has none
                if reply is not None and sent_at is not None:
                    self._rtts.append(now - sent_at)
                    if reply.hop_limit is not None:
                        self.progress.values["hop_limit"] = reply.hop_limit
        except BlockingIOError:
            pass
        except (ProbeFailed, OSError) as error:
            self._failed = error
        self._changed.set()

    async def wait(self, count: int) -> None:
        """Return when all came back.

        Raises: ProbeFailed where a router said that they will not.
        """
        while self.received < count:
            if self._failed is not None:
                raise self._failed
            await self._changed.wait()
            self._changed.clear()

    def fill_values(self) -> None:
        values = self.progress.values
        values.update({"sent": self.sent, "received": self.received, "loss_ratio": self.loss_ratio})
        if self._rtts:
            values["rtt_min_s"], values["rtt_max_s"] = min(self._rtts), max(self._rtts)
            values["rtt_avg_s"] = self.progress.first_byte_s = sum(self._rtts) / len(self._rtts)
