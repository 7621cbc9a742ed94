"""TLS options that probe kinds share, the contexts behind them, and which check a bad certificate failed."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from dogwatch.probes.progress import ProbeFailed

TlsVersion = Literal["", "1.0", "1.1", "1.2", "1.3"]
_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
# OpenSSL's X509_V_ERR_* → the check that failed.
_CHECKS = {
    9: "not_yet_valid",
    10: "expired",
    18: "self_signed",
    19: "self_signed",
    2: "untrusted",
    20: "untrusted",
    21: "untrusted",
    23: "revoked",
    24: "untrusted",
    26: "purpose",
    62: "name",
    63: "name",
    64: "name",
}


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How TLS is spoken.

    server_name: name asked for and checked against the certificate; default: the host. verify: false accepts any
    certificate; default true. ca_file: PEM file trusted instead of the system's store. cert_file: our own
    certificate, PEM with its chain. key_file: its key; default: in cert_file. min_version: lowest TLS version
    accepted; default 1.2. max_version: highest one; default: the library's.
    """

    server_name: str = ""
    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    min_version: TlsVersion = ""
    max_version: TlsVersion = ""


def tls_options(option: TlsOptions | bool) -> TlsOptions | None:
    """Return the options behind `tls: true` or `tls: {…}`, None where TLS is off."""
    if isinstance(option, TlsOptions):
        return option
    return TlsOptions() if option else None


def tls_context(options: TlsOptions, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return the context for options; kept, and made again when a file behind it changed.

    Raises: ProbeFailed with reason "local" for files that cannot be used.
    """
    files = tuple(name for name in (options.ca_file, options.cert_file, options.key_file) if name)
    try:
        stamps = tuple(Path(name).stat().st_mtime_ns for name in files)
        return _context(options, alpn, stamps)
    except (OSError, ValueError) as error:
        # SSLError's text names OpenSSL's source lines; strerror is shorter.
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ProbeFailed("local", f"cannot use {', '.join(files) or 'the trust store'}: {why}") from error


@lru_cache(maxsize=512)
def _context(options: TlsOptions, alpn: tuple[str, ...], _stamps: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.ca_file:
        context.load_verify_locations(options.ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if options.cert_file:
        # A password would be asked for on the terminal: refuse instead.
        context.load_cert_chain(options.cert_file, options.key_file or None, password=lambda: b"")
    if options.min_version in {"1.0", "1.1"}:
        # OpenSSL 3 signs nothing older than TLS 1.2 at its default level.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = _VERSIONS.get(options.min_version, ssl.TLSVersion.TLSv1_2)
    if options.max_version:
        context.maximum_version = _VERSIONS[options.max_version]
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def tls_failure(error: ssl.SSLError, address: str) -> ProbeFailed:
    """Return what a failed handshake means: reason "certificate" where it was about trust, else "tls"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProbeFailed("certificate", f"{address}: certificate refused: {error.verify_message}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ProbeFailed("tls", f"{address}: TLS handshake failed: the connection ended")
    why = (error.reason or str(error)).replace("_", " ").lower()
    return ProbeFailed("tls", f"{address}: TLS handshake failed: {why}")


def failed_check(error: ssl.SSLCertVerificationError) -> str:
    """Return the check that a certificate failed: expired, self_signed, untrusted, name…"""
    return _CHECKS.get(error.verify_code, "other")


def tls_option_faults(option: TlsOptions | bool) -> list[tuple[tuple[str | int, ...], str, str]]:
    options = tls_options(option)
    if options is None:
        return []
    if options.key_file and not options.cert_file:
        return [(("tls", "key_file"), "is given without cert_file", "")]
    if options.min_version and options.max_version and options.min_version > options.max_version:
        return [(("tls", "max_version"), "is lower than min_version", "")]
    return []
