"""E-mail over SMTP. smtplib blocks, so each message has a thread; cancelling closes its connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, formataddr, parseaddr
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from dogwatch.core.units import Secret
from dogwatch.engine.values import Json
from dogwatch.errors import DogwatchError, PermanentError, TransientError
from dogwatch.notify.channel import Channel, Held, Receipt, Tools
from dogwatch.notify.message import Parcel

_PORTS = {"starttls": 587, "implicit": 465, "none": 25}
_PRIORITY = {"error": "2", "critical": "1"}


class EmailChannel(Channel, frozen=True, kw_only=True):
    """Sends an e-mail.

    host, port: of the mail server; port 587, 465 or 25 by `tls`. tls: starttls, implicit (TLS from the first byte) or
    none. user, password: where it wants them. sender: whom it is from, `Dogwatch <watch@example.org>`. to: who gets it.
    name: how we greet the server; "" for this machine's name. ca_file: further trust. verify: of its certificate.
    """

    kind: ClassVar[str] = "email"
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    user: str = ""
    password: Secret = ""
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...]
    name: str = ""
    ca_file: str = ""
    verify: bool = True

    def address(self) -> str:
        return ", ".join(self.to)

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.host.strip():
            yield ("host",), "is empty", ""
        if not _is_address(self.sender):
            yield ("from",), f"'{self.sender}' is not a mail address", ""
        if not self.to:
            yield ("to",), "names nobody", ""
        for index, one in enumerate(self.to):
            if not _is_address(one):
                yield ("to", index), f"'{one}' is not a mail address", ""
        if self.user and self.tls == "none" and not _local(self.host):
            yield ("tls",), "would send the password in the clear", "use starttls or implicit"

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:  # noqa: ARG002 - it needs no HTTP
        letter = self.letter(parcel)
        return await _Post(self, letter, parcel.timeout_s).sent()

    def content(self, parcel: Parcel) -> Json:
        return self.letter(parcel).as_string()

    def letter(self, parcel: Parcel) -> EmailMessage:
        """Return the message; its Message-ID is the same for every attempt, so that mail servers know it again."""
        message = parcel.message
        letter = EmailMessage()
        letter["From"] = _header_address(self.sender)
        letter["To"] = ", ".join(_header_address(one) for one in message.recipients or self.to)
        letter["Subject"] = " ".join((parcel.title or message.type).split())[:250]
        letter["Date"] = format_datetime(datetime.fromtimestamp(parcel.created_s, UTC))
        domain = parseaddr(self.sender)[1].rpartition("@")[2] or "dogwatch"
        letter["Message-ID"] = f"<{parcel.message_id}@{domain}>"
        letter["Auto-Submitted"] = "auto-generated"
        letter["X-Dogwatch-Type"] = " ".join(message.type.split())[:100]
        if message.severity in _PRIORITY:
            letter["X-Priority"] = _PRIORITY[message.severity]
        text = parcel.text or parcel.title
        letter.set_content(f"{text}\n\n{message.url}\n" if message.url else f"{text}\n")
        return letter


class _Post:
    """One letter on its way, in a thread of its own."""

    def __init__(self, options: EmailChannel, letter: EmailMessage, timeout_s: float) -> None:
        self._options, self._letter, self._timeout_s = options, letter, timeout_s
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._server: smtplib.SMTP | None = None
        self._thread = threading.Thread(target=self._run, name="dogwatch-mail", daemon=True)

    async def sent(self) -> Receipt:
        self._thread.start()
        try:
            await asyncio.shield(self._done)
        except asyncio.CancelledError:
            self._cut()
            raise
        return Receipt(detail=f"taken by {self._options.host} for {len(self._options.to)}")

    def _cut(self) -> None:
        """Wake the thread from whatever it waits for; nobody waits for its result any more."""
        self._done.add_done_callback(lambda done: done.cancelled() or done.exception())
        sock = getattr(self._server, "sock", None)
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        error: DogwatchError | None = None
        try:
            self._send()
        except DogwatchError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - handed to the waiter, as one of ours
            error = translated(self._options.host, caught)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._finish, error)

    def _finish(self, error: DogwatchError | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    def _send(self) -> None:
        options = self._options
        port = options.port or _PORTS[options.tls]
        local = options.name or None
        context = _context(options)
        if options.tls == "implicit":
            server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=self._timeout_s, context=context, local_hostname=local)
        else:
            server = smtplib.SMTP(timeout=self._timeout_s, local_hostname=local)
        self._server = server
        # What an SMTP_SSL object checks the certificate against; only its constructor with a host sets it.
        server._host = options.host  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            code, said = server.connect(options.host, port)
            if code != 220:  # only its constructor looks at it
                raise smtplib.SMTPConnectError(code, said)
            server.ehlo_or_helo_if_needed()
            if options.tls == "starttls":
                server.starttls(context=context)
                server.ehlo()
            if options.user:
                server.login(options.user, options.password)
            refused = server.send_message(self._letter)
        finally:
            server.close()
        if refused:
            raise PermanentError(f"{options.host} took it for some, but refused {', '.join(refused)}")


def _context(options: EmailChannel) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_file or None)
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def translated(host: str, error: Exception) -> DogwatchError:
    """Return smtplib's error as one of ours."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
        text = f"{host} refused every recipient: {_reply(*next(iter(error.recipients.values())))}"
        return PermanentError(text) if all(code >= 500 for code in codes) else TransientError(text)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        # A wrong password is the destination's trouble, not this message's: everything waits until it is mended.
        return Held(f"{host} refused user and password: {_reply(error.smtp_code, error.smtp_error)}")
    if isinstance(error, smtplib.SMTPConnectError | smtplib.SMTPHeloError):
        return Held(f"{host}: {_reply(error.smtp_code, error.smtp_error)}")
    if isinstance(error, smtplib.SMTPResponseException):
        text = f"{host}: {_reply(error.smtp_code, error.smtp_error)}"
        return PermanentError(text) if error.smtp_code >= 500 else TransientError(text)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Held(f"{host}: {error}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Held(f"{host}: its certificate is not trusted: {error.verify_message}")
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return Held(f"no answer from {host}: {os.strerror(error.errno).lower()}")
    if isinstance(error, OSError | smtplib.SMTPException):
        return Held(f"no answer from {host}: {error}")
    return PermanentError(f"the letter cannot be made: {type(error).__name__}: {error}")


def _reply(code: int, text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(said.split())[:200]}"


def _is_address(text: str) -> bool:
    address = parseaddr(text)[1]
    return bool(text.isprintable() and address.count("@") == 1 and all(address.split("@")) and " " not in address)


def _header_address(text: str) -> str:
    name, address = parseaddr(text)
    return formataddr((name, address)) if name else address


def _local(host: str) -> bool:
    return host.lower() in ("localhost", "127.0.0.1", "::1")
