"""TLS of connections that are not HTTP: options of a client and of a server."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

import msgspec

from dogwatch.errors import TransientError, reason_of

Faults = Iterable[tuple[tuple[str | int, ...], str, str]]


class ClientTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server is trusted. ca_file: certificates that are trusted in place of the system's. cert_file, key_file: of
    the client, where the server asks for one. verify: whether certificates are checked.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Raises: TransientError where a file cannot be read; it is tried again."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise TransientError(f"certificates cannot be used: {reason_of(error)}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _telling(refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    class Telling(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                refused(reason_of(error))
                raise

    return Telling


class ServerTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a source shows who it is. cert_file, key_file: its certificate and key. client_ca_file: clients must show a
    certificate of one of these; "" asks for none.
    """

    cert_file: str
    key_file: str = ""
    client_ca_file: str = ""

    def context(self, refused: Callable[[str], None] = lambda _reason: None) -> ssl.SSLContext:
        """refused: told why a client was not let in; the loop keeps that to itself.

        Raises: TransientError where a file cannot be read; it is tried again.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.sslobject_class = _telling(refused)
        try:
            context.load_cert_chain(self.cert_file, self.key_file or None)
            if self.client_ca_file:
                context.load_verify_locations(self.client_ca_file)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise TransientError(f"certificates cannot be used: {reason_of(error)}") from None
        return context
