"""TLS over memory buffers, behind a seam: which library does it is one class, and contexts are shared per policy."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Protocol

import msgspec

from dogwatch.probes.certificates import peer_chain, verified_chain

# How often the files behind a context are looked at, so that a renewed client certificate is taken up.
FILES_CHECKED_S = 30.0
MAX_CONTEXTS = 1000
_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


class TlsPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What is trusted and shown. Targets with the same policy share one context.

    verify: False accepts any certificate. ca_file: PEM trusted instead of the system's store. cert_file, key_file:
    our own certificate. min_version, max_version: "1.0" to "1.3", "" for the library's own. alpn: protocols offered.
    """

    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    min_version: str = ""
    max_version: str = ""
    alpn: tuple[str, ...] = ()


class TlsFailed(Exception):
    """A handshake or a read failed. reason: tls, certificate or reset."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class TlsChannel(Protocol):
    """One connection's TLS: bytes in, bytes out, no socket.

    feed: what came from the peer (b"" at its end). handshake: True once done. outgoing: what to send now.
    read: plain bytes, None for "more is needed", b"" for the end. resumption: keep and give to the next `channel`.
    """

    def feed(self, data: bytes | memoryview) -> None: ...
    def handshake(self) -> bool: ...
    def outgoing(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def read(self) -> bytes | None: ...
    def goodbye(self) -> bytes: ...
    def resumed(self) -> bool: ...
    def resumption(self) -> object | None: ...
    def version(self) -> str: ...
    def cipher(self) -> str: ...
    def alpn(self) -> str: ...
    def chain(self) -> tuple[bytes, ...]: ...


class TlsProvider(Protocol):
    """A TLS library. Both calls may raise TlsFailed("local", …) for files that cannot be read."""

    name: str

    def context(self, policy: TlsPolicy) -> object: ...

    def channel(self, context: object, server_name: str, resumption: object | None) -> TlsChannel: ...


class StandardChannel:
    """TLS by Python's own ssl module."""

    __slots__ = ("_incoming", "_object", "_outgoing")

    def __init__(self, context: ssl.SSLContext, server_name: str, resumption: ssl.SSLSession | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name or None, session=resumption
        )

    def feed(self, data: bytes | memoryview) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def handshake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise TlsFailed("certificate", _certificate_message(error)) from error
        except ssl.SSLError as error:
            raise TlsFailed("tls", _tls_message(error)) from error
        return True

    def outgoing(self) -> bytes:
        return self._outgoing.read()

    def write(self, data: bytes) -> None:
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            raise TlsFailed("tls", _tls_message(error)) from error

    def read(self) -> bytes | None:
        try:
            return self._object.read(65536)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLEOFError as error:
            raise TlsFailed("reset", "the connection was cut without a TLS goodbye") from error
        except ssl.SSLError as error:
            raise TlsFailed("tls", _tls_message(error)) from error

    def goodbye(self) -> bytes:
        """Return the close_notify to send."""
        # It is written before the peer's own is waited for, which is what this complains about.
        with suppress(ssl.SSLError, ValueError):
            self._object.unwrap()
        return self._outgoing.read()

    def resumed(self) -> bool:
        return bool(self._object.session_reused)

    def resumption(self) -> object | None:
        session = self._object.session
        return session if session is not None and session.has_ticket else None

    def version(self) -> str:
        return (self._object.version() or "").replace("TLSv1.", "TLS 1.").replace("TLSv1", "TLS 1.0")

    def cipher(self) -> str:
        return (self._object.cipher() or ("",))[0]

    def alpn(self) -> str:
        return self._object.selected_alpn_protocol() or ""

    def chain(self) -> tuple[bytes, ...]:
        return verified_chain(self._object) or peer_chain(self._object)


class StandardTls:
    """Python's ssl module: always there; OpenSSL as the system has it."""

    name = "standard"

    def context(self, policy: TlsPolicy) -> ssl.SSLContext:
        try:
            return _standard_context(policy)
        except (OSError, ValueError) as error:
            raise unusable(policy, _file_message(error)) from error

    def channel(self, context: object, server_name: str, resumption: object | None) -> TlsChannel:
        assert isinstance(context, ssl.SSLContext)
        session = resumption if isinstance(resumption, ssl.SSLSession) else None
        try:
            return StandardChannel(context, server_name, session)
        except ValueError as error:
            if session is not None:  # of a context that a renewed file replaced
                return self.channel(context, server_name, None)
            raise TlsFailed("tls", f"cannot ask for server name '{server_name}': {error}") from error


def _standard_context(policy: TlsPolicy) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not policy.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif policy.ca_file:
        context.load_verify_locations(policy.ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if policy.cert_file:
        # A password would be asked for on the terminal: refuse instead.
        context.load_cert_chain(policy.cert_file, policy.key_file or None, password=lambda: b"")
    context.minimum_version = _VERSIONS.get(policy.min_version, ssl.TLSVersion.TLSv1_2)
    if policy.max_version:
        context.maximum_version = _VERSIONS[policy.max_version]
    if policy.min_version in {"1.0", "1.1"}:
        # OpenSSL 3 signs nothing older than TLS 1.2 at its default level.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if policy.alpn:
        context.set_alpn_protocols(list(policy.alpn))
    return context


class TlsContexts:
    """Contexts by policy, made once and again when a file behind one changed; counts handshakes."""

    def __init__(self, provider: TlsProvider) -> None:
        self.provider = provider
        self.full_total = 0
        self.resumed_total = 0
        self._known: dict[TlsPolicy, tuple[object, float, tuple[float, ...]]] = {}

    def channel(self, policy: TlsPolicy, server_name: str, resumption: object | None = None) -> TlsChannel:
        """Return a new connection's TLS.

        Raises: TlsFailed with reason "local" or "tls".
        """
        return self.provider.channel(self._context(policy), server_name, resumption)

    def _context(self, policy: TlsPolicy) -> object:
        now_s = perf_counter()
        known = self._known.get(policy)
        if known is not None and now_s - known[1] < FILES_CHECKED_S:
            return known[0]
        stamps = tuple(_stamp(name) for name in (policy.ca_file, policy.cert_file, policy.key_file) if name)
        if known is not None and known[2] == stamps:
            self._known[policy] = (known[0], now_s, stamps)
            return known[0]
        if len(self._known) >= MAX_CONTEXTS:
            del self._known[next(iter(self._known))]
        context = self.provider.context(policy)
        self._known[policy] = (context, now_s, stamps)
        return context


def _stamp(name: str) -> float:
    try:
        return Path(name).stat().st_mtime
    except OSError:
        return 0.0


def choose_provider(name: str) -> TlsProvider:
    """Return the provider of that name: standard, pyopenssl, or auto (pyOpenSSL where it is installed)."""
    if name in {"pyopenssl", "auto"}:
        try:
            # Heavy, therefore only when the first https probe asks for it.
            from dogwatch.probes.engine.pyopenssl import PyOpenSslTls

            return PyOpenSslTls()
        except ImportError:
            if name == "pyopenssl":
                raise
    return StandardTls()


def _certificate_message(error: ssl.SSLCertVerificationError) -> str:
    text = str(getattr(error, "verify_message", "") or error.reason or error)
    return text.rstrip(".")


def _tls_message(error: ssl.SSLError) -> str:
    """Return OpenSSL's word for it, readable: `wrong version number`."""
    if isinstance(error, ssl.SSLEOFError):
        return "the connection was closed during the TLS handshake"
    return (error.reason or str(error)).replace("_", " ").lower()


def unusable(policy: TlsPolicy, message: str) -> TlsFailed:
    """Return what to say of files that cannot be used: the one that cannot be read, or all and the library's word."""
    names = [name for name in (policy.ca_file, policy.cert_file, policy.key_file) if name]
    for name in names:
        try:
            with open(name, "rb"):  # noqa: PTH123 - libraries open it so
                pass
        except OSError as error:
            names, message = [name], (error.strerror or str(error)).lower()
            break
    return TlsFailed("local", f"cannot use {', '.join(names) or 'the trust store'}: {message}")


def _file_message(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return str(getattr(error, "strerror", "") or error)
