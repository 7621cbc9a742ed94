"""The `tls` kind."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from dogwatch.probes.addresses import host_faults, join_host_port, split_host_port
from dogwatch.probes.certificates import certificate_facts, peer_chain, verified_chain
from dogwatch.probes.probe import Attempt
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe
from dogwatch.probes.starttls import DEFAULT_PORTS, Protocol, ask_for_tls
from dogwatch.probes.stream import (
    CONNECTION_MEANINGS,
    CONNECTION_METRICS,
    CONNECTION_VARIABLES,
    TLS_MEANINGS,
    TLS_METRICS,
    TLS_VARIABLES,
    Destination,
    Stream,
    open_stream,
)
from dogwatch.probes.trust import TlsOptions, TlsVersion, failed_check, tls_failure, tls_option_faults

_HTTPS = 443


class TlsProbe(SteppedProbe, frozen=True, kw_only=True):
    """Does a TLS handshake and judges the certificates: chain, name, days to the first expiry in the chain.

    A certificate that is refused is still described, and `failed_check` says what was wrong with it: expired,
    not_yet_valid, self_signed, untrusted, name, purpose, revoked or other. That takes a second connection, which
    accepts anything and says nothing.

    host: name or address; may carry the port: `shop.example:8443`. port: default 443, or that of `starttls`.
    ip_version: 4 or 6; default: whichever answers. source: our own address; default: the system's choice.
    server_name: name asked for and checked; default: the host. verify: false only looks; default true. ca_file: PEM
    file trusted instead of the system's store. cert_file: our own certificate, PEM. key_file: its key; default: in
    cert_file. min_version: lowest version accepted: 1.0 to 1.3; default 1.2. max_version: highest one offered; default:
    the library's. alpn: protocols offered; default none. min_days: fails when any certificate of the chain expires
    sooner, in days; default 0. starttls: smtp, imap, pop3, ftp, nntp, sieve, postgres, mysql, ldap or xmpp; default
    none.
    """

    kind: ClassVar[str] = "tls"
    short: ClassVar[str] = "host"
    variables: ClassVar[dict[str, str]] = {
        **CONNECTION_VARIABLES,
        **TLS_VARIABLES,
        "tls_cipher": "string",
        "tls_alpn": "string",
        "tls_verified": "bool",
        "failed_check": "string",
        "chain": "list",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        **CONNECTION_MEANINGS,
        **TLS_MEANINGS,
        "tls_cipher": "cipher suite",
        "tls_alpn": "protocol that was agreed",
        "tls_verified": "whether chain and name were accepted",
        "failed_check": "what was wrong with the certificate, one word",
        "chain": "each certificate of the chain, as a map",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        **CONNECTION_METRICS,
        **TLS_METRICS,
        "tls_verified": ("probe_tls_verified", "Whether the chain and the name of the certificate were accepted"),
    }

    host: str
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    ip_version: Literal[4, 6] | None = None
    source: str = ""
    server_name: str = ""
    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    min_version: TlsVersion = ""
    max_version: TlsVersion = ""
    alpn: Annotated[tuple[str, ...], Meta(max_length=10)] = ()
    min_days: Annotated[float, Meta(ge=0)] = 0.0
    starttls: Protocol = ""

    def _where(self) -> tuple[str, int]:
        host, port = split_host_port(self.host, DEFAULT_PORTS.get(self.starttls, _HTTPS))
        return host, self.port or port

    def _options(self) -> TlsOptions:
        return TlsOptions(
            server_name=self.server_name,
            verify=self.verify,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            min_version=self.min_version,
            max_version=self.max_version,
        )

    def address(self) -> str:
        try:
            return join_host_port(*self._where())
        except ValueError:
            return self.host

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found = host_faults(self.host, self.port, _HTTPS)
        found += [(path[1:], message, hint) for path, message, hint in tls_option_faults(self._options())]
        return found + [
            (("alpn", number), "is not a protocol name of 1 to 255 bytes", "")
            for number, name in enumerate(self.alpn)
            if not 0 < len(name.encode()) < 256
        ]

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        progress.values.update({"tls": True, "tls_verified": False, "failed_check": ""})
        try:
            await self._look(attempt, progress, self._options())
        except ssl.SSLCertVerificationError as error:
            progress.values["failed_check"] = failed_check(error)
            await self._describe(attempt, progress)
            raise tls_failure(error, self.address()) from error
        progress.values["tls_verified"] = self.verify
        self._judge_expiry(progress.values)

    async def _look(self, attempt: Attempt, progress: Progress, options: TlsOptions) -> None:
        host, port = self._where()
        to = Destination(host=host, port=port, ip_version=self.ip_version, source=self.source)
        with await open_stream(attempt, to, progress) as stream:
            if self.starttls:
                await ask_for_tls(stream, self.starttls, host)
            await stream.start_tls(options, host, self.alpn)
            progress.values.update(stream.certificate_values(attempt))
            progress.values.update(_session_values(stream))

    async def _describe(self, attempt: Attempt, progress: Progress) -> None:
        """Fill in what the refused certificates say; what was found so far stands where that fails."""
        second = Progress()
        try:
            await self._look(attempt, second, msgspec.structs.replace(self._options(), verify=False))
        except (ProbeFailed, OSError):
            return
        progress.values.update(second.values)

    def _judge_expiry(self, values: dict[str, Any]) -> None:
        left = values.get("tls_days_left")
        if left is None or left >= max(self.min_days, 0) or not (self.verify or self.min_days):
            return
        values["failed_check"] = "expired" if left < 0 else "expiring"
        first = min(values.get("chain", []), key=lambda item: item["expiry_s"], default={"subject": "?"})
        when = f"expired {-left:.1f} days ago" if left < 0 else f"expires in {left:.1f} days"
        wanted = f", wanted at least {self.min_days:g}" if left >= 0 else ""
        raise ProbeFailed("certificate", f"{self.address()}: certificate '{first['subject']}' {when}{wanted}")


def _session_values(stream: Stream) -> dict[str, Any]:
    tls = stream.tls
    assert tls is not None
    cipher = tls.cipher()
    return {
        "tls_cipher": cipher[0] if cipher else "",
        "tls_alpn": tls.selected_alpn_protocol() or "",
        "chain": _described(verified_chain(tls) or peer_chain(tls)),
    }


def _described(chain: tuple[bytes, ...]) -> list[dict[str, Any]]:
    """Return the chain as expectations and pages read it, the leaf first."""
    described = []
    for der in chain[:20]:
        try:
            facts = certificate_facts(der)
        except ValueError:
            continue
        described.append(
            {
                "subject": facts.subject,
                "issuer": facts.issuer,
                "expiry_s": facts.not_after_s,
                "serial": facts.serial,
                "fingerprint": facts.fingerprint,
            }
        )
    return described
