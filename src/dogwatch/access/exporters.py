"""Where signed heads, and events where asked for, go off this machine: a file, a webhook, syslog.

One component each. They are called in a thread: what blocks there blocks nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
from abc import abstractmethod
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

import msgspec

from dogwatch.core.component import Component, Registry
from dogwatch.core.units import Secret
from dogwatch.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

_SYSLOG_BYTES = 8192


class Exporter(Component, frozen=True, kw_only=True):
    """Takes lines (JSON) in order. What it returned from is kept there; a line may come twice, never not at all."""

    @abstractmethod
    def send(self, lines: list[bytes], *, timeout_s: float) -> None:
        """Raises: TransientError (tried again), PermanentError."""

    def faults(self) -> Iterable[tuple[str, str]]:
        """Yield (option, what is wrong)."""
        return ()


class FileExporter(Exporter, frozen=True, kw_only=True):
    """Appends to a file: on another machine's disk, or append-only (chattr +a).

    path: the file; made if it is not there.
    """

    kind: ClassVar[str] = "file"
    short: ClassVar[str] = "path"
    path: str

    def send(self, lines: list[bytes], *, timeout_s: float) -> None:  # noqa: ARG002 a disk knows no time limit
        try:
            descriptor = os.open(Path(self.path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                left = memoryview(b"".join(line + b"\n" for line in lines))
                while left:  # a full disk takes less than it is given, and refuses the rest
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise TransientError(f"cannot append to {self.path}: {(error.strerror or str(error)).lower()}") from error


class WebhookExporter(Exporter, frozen=True, kw_only=True):
    """Posts JSON Lines, signed as Standard Webhooks are (webhook-id, webhook-timestamp, webhook-signature).

    url: where to. secret: `whsec_…` or any text; "" for no signature. headers: further ones.
    """

    kind: ClassVar[str] = "webhook"
    short: ClassVar[str] = "url"
    url: str
    secret: Secret = ""
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)

    def faults(self) -> Iterable[tuple[str, str]]:
        if urlsplit(self.url).scheme not in ("http", "https"):
            yield "url", f"'{self.url}' is not an http or https address"

    def send(self, lines: list[bytes], *, timeout_s: float) -> None:
        body = b"".join(line + b"\n" for line in lines)
        import urllib.error
        import urllib.request

        request = urllib.request.Request(self.url, data=body, method="POST")  # noqa: S310 checked: http or https
        for name, value in (*self.headers.items(), *self._signature(body)):
            request.add_header(name, value)
        request.add_header("content-type", "application/x-ndjson")
        try:
            with _straight().open(request, timeout=timeout_s) as answer:
                answer.read(1024)
        except urllib.error.HTTPError as error:
            error.close()
            told = TransientError if error.code >= 500 or error.code in (408, 429) else PermanentError
            raise told(f"{_host(self.url)} answered {error.code}") from error
        except (OSError, ValueError) as error:
            raise TransientError(f"cannot reach {_host(self.url)}: {error}") from error

    def _signature(self, body: bytes) -> list[tuple[str, str]]:
        import time

        # The same lines have the same id: the receiver can tell a repetition.
        delivery, now = hashlib.sha256(body).hexdigest()[:32], str(int(time.time()))
        found = [("webhook-id", delivery), ("webhook-timestamp", now)]
        if self.secret:
            known = self.secret.removeprefix("whsec_")
            key = base64.b64decode(known) if known != self.secret else self.secret.encode()
            digest = hmac.digest(key, f"{delivery}.{now}.".encode() + body, "sha256")
            found.append(("webhook-signature", f"v1,{base64.b64encode(digest).decode()}"))
        return found


class SyslogExporter(Exporter, frozen=True, kw_only=True):
    """Sends each line as a message of RFC 5424, facility 13 (log audit).

    address: `udp://host:514`, `tcp://host:601` (RFC 6587, counted) or `unix:/dev/log`.
    """

    kind: ClassVar[str] = "syslog"
    short: ClassVar[str] = "address"
    address: str = "unix:/dev/log"

    def faults(self) -> Iterable[tuple[str, str]]:
        if not _proper_address(self.address):
            yield "address", f"'{self.address}': write it as udp://host:514, tcp://host:601 or unix:/dev/log"

    def send(self, lines: list[bytes], *, timeout_s: float) -> None:
        parts = urlsplit(self.address)
        try:
            with _connected(parts.scheme, parts.path, parts.hostname or "", parts.port or 0, timeout_s) as channel:
                for line in lines:
                    message = b"<110>1 - %s dogwatch %d audit - %s" % (_machine(), os.getpid(), line[:_SYSLOG_BYTES])
                    if parts.scheme == "tcp":
                        channel.sendall(b"%d %s" % (len(message), message))
                    else:
                        channel.send(message)
        except OSError as error:
            raise TransientError(f"cannot send to {self.address}: {error}") from error


@cache
def _straight() -> OpenerDirector:
    """Return what follows no redirection: where one leads to nobody has configured, and a POST becomes a GET on the
    way, which any page answers with 200.
    """
    from urllib.request import HTTPRedirectHandler, build_opener

    class Nowhere(HTTPRedirectHandler):
        def redirect_request(self, *_: object, **__: object) -> None:
            return None

    return build_opener(Nowhere)


def _proper_address(address: str) -> bool:
    parts = urlsplit(address)
    try:
        if parts.scheme == "unix":
            return bool(parts.path)
        return parts.scheme in ("udp", "tcp") and bool(parts.hostname and parts.port)
    except ValueError:  # a port that is no number
        return False


def _machine() -> bytes:
    return socket.gethostname().encode("ascii", "replace")[:255] or b"-"


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _connected(scheme: str, path: str, host: str, port: int, timeout_s: float) -> socket.socket:
    if scheme == "tcp":
        return socket.create_connection((host, port), timeout_s)
    family = socket.AF_UNIX
    where: str | tuple[object, ...] = path
    if scheme == "udp":
        family, _kind, _protocol, _name, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    channel = socket.socket(family, socket.SOCK_DGRAM)
    try:
        channel.settimeout(timeout_s)
        channel.connect(where)
    except BaseException:
        channel.close()
        raise
    return channel


EXPORTERS: Registry[Exporter] = Registry("exporter", FileExporter, WebhookExporter, SyslogExporter)

__all__ = ["EXPORTERS", "Exporter", "FileExporter", "SyslogExporter", "WebhookExporter"]
