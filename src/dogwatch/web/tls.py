"""HTTPS by the server itself: certificates that are taken over when their files change, and clients' certificates."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.errors import DogwatchError
from dogwatch.web.options import TlsOptions

log = logging.getLogger(__name__)
_LOOK_S = 5.0
_LONGEST_NAME = 500


def tls_context(options: TlsOptions) -> ssl.SSLContext:
    """Return a server's context. Raises: DogwatchError naming the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # HTTP/1.1 is all that is spoken.
    context.set_alpn_protocols(["http/1.1"])
    _load(context, options)
    if options.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED if options.client == "required" else ssl.CERT_OPTIONAL
        # A session that is resumed is not verified again (protocol.py looks, where one is all the same).
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        if options.client_crl:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _load(context: ssl.SSLContext, options: TlsOptions) -> None:
    """Put the files' contents into a new context: to one that is in use they would only be added."""
    what = options.certificate
    try:
        context.load_cert_chain(options.certificate, options.key or None, password=_refuse)
        if options.client_ca:
            what = options.client_ca
            context.load_verify_locations(options.client_ca)
            if options.client_crl:
                what = options.client_crl
                context.load_verify_locations(options.client_crl)
    except ssl.SSLError as error:
        raise DogwatchError(
            f"cannot use {what} for TLS: {error.reason or error}", hint="are key and certificate a pair?"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DogwatchError(f"cannot use {what} for TLS: {reason.lower()}") from error


def certificate_names(certificate: Any) -> tuple[str, ...]:
    """Return the names of a client's certificate, as ssl gives it: `CN:agent-1`, `DNS:agent-1.example`…

    certificate: empty or None where the client showed none; never one that was not verified.
    """
    if not certificate:
        return ()
    subject = [f"CN:{value}" for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ())]
    return tuple(name for name in (*subject, *others) if len(name) <= _LONGEST_NAME and name.isprintable())


class Shown(msgspec.Struct, frozen=True):
    """A client's certificate. verified_s: when the handshake was that verified it. until_s: it holds so long."""

    names: tuple[str, ...]
    verified_s: float
    until_s: float

    def holds(self, since_s: float, now_s: float) -> bool:
        """Return whether it is to be believed. since_s: what was verified before is not known to hold any more."""
        return bool(self.names) and since_s <= self.verified_s and now_s < self.until_s


NOTHING_SHOWN = Shown((), 0.0, 0.0)


def shown_by(channel: ssl.SSLObject | None, now_s: float) -> Shown:
    """Return what a client has shown in its handshake."""
    certificate = channel.getpeercert() if channel is not None else None
    names = certificate_names(certificate)
    if channel is None or not certificate or not names:
        return NOTHING_SHOWN
    session = channel.session
    verified_s = float(session.time) if channel.session_reused and session is not None else now_s
    return Shown(names, verified_s, float(ssl.cert_time_to_seconds(str(certificate["notAfter"]))))


def _stats(*names: str) -> Sequence[object]:
    found: list[object] = []
    for name in names:
        try:
            status = Path(name).stat() if name else None
        except OSError:
            status = None
        found.append((status.st_mtime_ns, status.st_ino, status.st_size) if status else None)
    return found


def _refuse() -> str:
    # Otherwise OpenSSL asks at the terminal, and waits.
    raise ValueError("the key is encrypted")


class Tls:
    """The context of a running server, which gives each handshake the newest one.

    on_trust: called when clients are verified against other files from now on.
    """

    def __init__(self, options: TlsOptions, on_trust: Callable[[], None], *, look_s: float = _LOOK_S) -> None:
        self._options = options
        self._on_trust = on_trust
        self._look_s = look_s
        self._fresh = tls_context(options)
        self.context = tls_context(options)
        self.context.sni_callback = self._renew
        self._seen = self._state()
        # What clients showed before was verified against other files.
        self.changed_s = 0.0

    def _state(self) -> tuple[Sequence[object], Sequence[object]]:
        """Return what changes with the files: ours, and those that clients are verified against. A certificate manager
        swaps links, so it is asked through them.
        """
        options = self._options
        return _stats(options.certificate, options.key), _stats(options.client_ca, options.client_crl)

    def _renew(self, channel: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL asks also where the client names no server. What the old context trusted is gone with it.
        channel.context = self._fresh

    async def keep_fresh(self) -> None:
        """Look at the files every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            try:
                self.refresh()
            except Exception:
                # Nobody looks after this task: it must not end for good. The next look tries again.
                log.exception("the new certificate could not be taken over")

    def refresh(self) -> bool:
        """Take over files that have changed and belong together; else the old stay in use. Return whether it did."""
        state = self._state()
        if state == self._seen:
            return False
        try:
            # Whole, or not at all: certificate and key are written one after the other.
            self._fresh = tls_context(self._options)
        except DogwatchError as error:
            log.warning("the new certificate is not used (yet): %s", error)
            return False
        if state[1] != self._seen[1]:
            self.changed_s = time.time()
            self._on_trust()
        self._seen = state
        log.info("certificate %s is in use", self._options.certificate)
        return True
