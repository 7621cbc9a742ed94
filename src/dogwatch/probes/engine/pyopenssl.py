"""TLS by pyOpenSSL, whose wheel brings a newer OpenSSL than most systems have: a third less CPU per handshake.

An extra (`dogwatch[tls]`), and imported only by the engine that uses it: it costs 11 MB resident.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

from dogwatch.probes.certificates import certificate_facts
from dogwatch.probes.engine.addresses import literal
from dogwatch.probes.engine.tls import TlsChannel, TlsFailed, TlsPolicy, unusable

_VERSIONS = {"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}
_CHUNK_BYTES = 32 * 1024
_NEEDED = (
    "SSL_CTX_set1_curves_list",
    "SSL_session_reused",
    "SSL_get_verify_result",
    "X509_verify_cert_error_string",
)
_SHUT = SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN


class PyOpenSslTls:
    """The pyOpenSSL package. Names are matched by us (RFC 9525): it has no call for that."""

    name = "pyopenssl"

    def __init__(self) -> None:
        """Raises: ImportError if this version lacks a call that we need and that is not public."""
        missing = [name for name in _NEEDED if not hasattr(_lib, name)]
        if missing:
            raise ImportError(f"pyOpenSSL has no {', '.join(missing)}")

    def context(self, policy: TlsPolicy) -> object:
        try:
            return policy, _context(policy)
        except (SSL.Error, OSError, ValueError) as error:
            raise unusable(policy, _reason(error)) from error

    def channel(self, context: object, server_name: str, resumption: object | None) -> TlsChannel:
        assert isinstance(context, tuple)
        policy, made = context
        return PyOpenSslChannel(policy, made, server_name, resumption)


def _context(policy: TlsPolicy) -> Any:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if policy.verify:
        context.set_verify(SSL.VERIFY_PEER)
        if policy.ca_file:
            context.load_verify_locations(policy.ca_file)
        else:
            # Where the standard library looks, so that both providers trust the same.
            paths = ssl.get_default_verify_paths()
            if paths.cafile or paths.capath:
                context.load_verify_locations(paths.cafile, paths.capath)
            else:
                context.set_default_verify_paths()
    if policy.cert_file:
        context.use_certificate_chain_file(policy.cert_file)
        context.use_privatekey_file(policy.key_file or policy.cert_file)
        context.check_privatekey()
    context.set_min_proto_version(_VERSIONS.get(policy.min_version, _VERSIONS["1.2"]))
    if policy.max_version:
        context.set_max_proto_version(_VERSIONS[policy.max_version])
    if policy.min_version in {"1.0", "1.1"}:
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    # X25519 first, as browsers had it for a decade: the hybrid default of OpenSSL 4 costs 70 µs more a handshake.
    _lib.SSL_CTX_set1_curves_list(context._context, b"X25519:P-256:P-384:P-521")  # noqa: SLF001 - no public call
    if policy.alpn:
        context.set_alpn_protos([name.encode() for name in policy.alpn])
    return context


class PyOpenSslChannel:
    """One connection over OpenSSL's memory buffers."""

    __slots__ = ("_connection", "_name", "_shown")

    def __init__(self, policy: TlsPolicy, context: Any, server_name: str, resumption: object | None) -> None:
        self._connection = connection = SSL.Connection(context, None)
        self._name = server_name if policy.verify else ""
        self._shown: tuple[bytes, ...] | None = None
        connection.set_connect_state()
        if server_name and literal(server_name) is None:
            connection.set_tlsext_host_name(server_name.encode("ascii"))
        if isinstance(resumption, SSL.Session):
            connection.set_session(resumption)

    def feed(self, data: bytes | memoryview) -> None:
        if data:
            self._connection.bio_write(bytes(data))
        else:
            self._connection.bio_shutdown()

    def handshake(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.SysCallError as error:
            raise TlsFailed("tls", "the connection was closed during the TLS handshake") from error
        except SSL.Error as error:
            reason = _reason(error)
            if "certificate verify failed" in reason:
                raise TlsFailed("certificate", self._verdict()) from error
            raise TlsFailed("tls", reason) from error
        if self._name and not self.resumed():
            self._check_name()
        return True

    def _check_name(self) -> None:
        """A resumed session is of a peer whose name was checked; every other one is checked here."""
        chain = self.chain()
        if not chain or not names_match(certificate_facts(chain[0]).names, self._name):
            raise TlsFailed("certificate", f"the certificate is not for '{self._name}'")

    def outgoing(self) -> bytes:
        out = b""
        while True:
            try:
                data = self._connection.bio_read(_CHUNK_BYTES)
            except SSL.WantReadError:
                return out
            if len(data) < _CHUNK_BYTES:
                return out + data if out else data
            out += data

    def write(self, data: bytes) -> None:
        try:
            sent = 0
            while sent < len(data):
                sent += self._connection.send(data[sent : sent + _CHUNK_BYTES])
        except SSL.Error as error:
            raise TlsFailed("tls", _reason(error)) from error

    def read(self) -> bytes | None:
        try:
            return bytes(self._connection.recv(_CHUNK_BYTES))
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.SysCallError as error:
            raise TlsFailed("reset", "the connection was cut without a TLS goodbye") from error
        except SSL.Error as error:
            raise TlsFailed("tls", _reason(error)) from error

    def goodbye(self) -> bytes:
        try:
            self._connection.shutdown()
        except SSL.Error:
            return b""
        data = self.outgoing()
        # OpenSSL forgets a session whose connection it believes to have been cut.
        self._connection.set_shutdown(_SHUT)
        return data

    def resumed(self) -> bool:
        return _lib.SSL_session_reused(self._connection._ssl) == 1  # type: ignore[no-any-return]  # noqa: SLF001

    def resumption(self) -> object | None:
        session: object | None = self._connection.get_session()
        return session

    def version(self) -> str:
        name: str = self._connection.get_protocol_version_name()
        return name.replace("TLSv1.", "TLS 1.").replace("TLSv1", "TLS 1.0")

    def cipher(self) -> str:
        return self._connection.get_cipher_name() or ""

    def alpn(self) -> str:
        name: bytes = self._connection.get_alpn_proto_negotiated()
        return name.decode("latin-1")

    def chain(self) -> tuple[bytes, ...]:
        if self._shown is None:  # asked for twice, and 30 µs each time
            connection = self._connection
            chain = connection.get_verified_chain(as_cryptography=False)
            chain = chain or connection.get_peer_cert_chain(as_cryptography=False)
            self._shown = tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, item) for item in chain or [])
        return self._shown

    def _verdict(self) -> str:
        """Return OpenSSL's own sentence on the certificate: `certificate has expired`."""
        code = _lib.SSL_get_verify_result(self._connection._ssl)  # noqa: SLF001 - no public call
        text: bytes = _ffi.string(_lib.X509_verify_cert_error_string(code))
        return text.decode("latin-1")


def names_match(names: tuple[str, ...], wanted: str) -> bool:
    """Return whether a certificate's names cover a host; a star stands for the whole first label only."""
    address = literal(wanted)
    if address is not None:
        packed = socket.inet_pton(address[0], address[1])
        return any(
            socket.inet_pton(*other) == packed for name in names if (other := literal(name)) and other[0] == address[0]
        )
    host = wanted.lower().rstrip(".")
    _, dot, parent = host.partition(".")
    for name in names:
        pattern = name.lower().rstrip(".")
        if pattern == host or (pattern.startswith("*.") and dot and parent.count(".") >= 1 and pattern[2:] == parent):
            return True
    return False


def _reason(error: Exception) -> str:
    """Return OpenSSL's word for it: `wrong version number`."""
    details = error.args[0] if error.args else ""
    if isinstance(details, list) and details:
        return str(details[-1][-1]).lower()
    return str(getattr(error, "strerror", "") or error).lower() or "failed"
