"""HTTPS by the server itself: certificates that are taken over when their files change, and clients' certificates."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

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
    load(context, options)
    if options.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED if options.client == "required" else ssl.CERT_OPTIONAL
    return context


def load(context: ssl.SSLContext, options: TlsOptions) -> None:
    """Put the files' contents into a context: handshakes from now on use them."""
    what = options.certificate
    try:
        context.load_cert_chain(options.certificate, options.key or None, password=_refuse)
        if options.client_ca:
            what = options.client_ca
            context.load_verify_locations(options.client_ca)
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


def _refuse() -> str:
    # Otherwise OpenSSL asks at the terminal, and waits.
    raise ValueError("the key is encrypted")


class Tls:
    """The context of a running server."""

    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self.context = tls_context(options)
        self._seen = self._state()

    def _state(self) -> tuple[object, ...]:
        """Return what changes with the files. A certificate manager swaps links, so it is asked through them."""
        found: list[object] = []
        for name in (self._options.certificate, self._options.key, self._options.client_ca):
            try:
                status = Path(name).stat() if name else None
            except OSError:
                status = None
            found.append((status.st_mtime_ns, status.st_ino, status.st_size) if status else None)
        return tuple(found)

    async def keep_fresh(self) -> None:
        """Look at the files every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.refresh()

    def refresh(self) -> bool:
        """Take over files that have changed and belong together; else the old stay in use. Return whether it did."""
        state = self._state()
        if state == self._seen:
            return False
        try:
            tls_context(self._options)  # whole, or not at all: certificate and key are written one after the other
            load(self.context, self._options)
        except DogwatchError as error:
            log.warning("the new certificate is not used (yet): %s", error)
            return False
        self._seen = state
        log.info("certificate %s is in use", self._options.certificate)
        return True
