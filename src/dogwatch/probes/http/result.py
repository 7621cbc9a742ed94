"""What an attempt says at its end: values for expectations and metrics, and evidence for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import msgspec

from dogwatch.probes.certificates import certificate_facts
from dogwatch.probes.engine.addresses import ip_hash
from dogwatch.probes.probe import EVIDENCE_BYTES, Evidence, Phases, ProbeResult
from dogwatch.probes.progress import clock_of

if TYPE_CHECKING:
    from dogwatch.probes.engine.addresses import Address
    from dogwatch.probes.http.connecting import ConnectingAttempt
    from dogwatch.probes.http.plan import HttpPlan
    from dogwatch.probes.http.request import Hop
    from dogwatch.probes.http.response import Head

_HEAVY = frozenset(
    {
        "body",
        "json",
        "headers",
        "header_list",
        "phases",
        "tls_subject",
        "tls_issuer",
        "tls_names",
        "tls_serial",
        "tls_fingerprint",
    }
)
_CHARSET = re.compile(r"charset=\"?([A-Za-z0-9_.:\-]{1,40})", re.IGNORECASE)
_MASKED_HEADERS = frozenset({"set-cookie", "authorization", "proxy-authorization", "cookie"})


def build(attempt: ConnectingAttempt, now_s: float) -> ProbeResult:
    """Return the result of an attempt that has ended, well or not."""
    head, body, hop = attempt.head, attempt.body, attempt.hop
    phases = Phases(attempt.resolve_s, attempt.connect_s, attempt.tls_s, attempt.first_byte_s, attempt.transfer_s)
    plan = attempt.plan
    duration_s = now_s - attempt.launched_s
    failure = attempt.failure
    known = plan.facts
    if known is None or known[0] is not hop or known[1] != attempt.address:
        known = plan.facts = hop, attempt.address, _facts(hop, attempt.address)
    values: dict[str, Any] = {
        "duration_s": duration_s,
        "redirects": attempt.redirects,
        "reused": attempt.reused,
        **known[2],
    }
    if head is not None:
        values["status"] = status = head.status
        values["http_version"] = head.version
        if "last-modified" in head.headers and (modified_s := parse_date(head.headers["last-modified"])):
            values["last_modified_s"] = modified_s
        if body is not None:
            values["content_length"] = body.length
            values["body_bytes"] = body.decoded
        if failure is None and (plan.particular or status not in plan.accept_status):
            failure = judge(plan, status, hop.tls, head.version)
    if hop.tls and attempt.chain:
        values.update(chain_values(attempt.chain, clock_of(attempt.attempt).now_s()))
        values["tls_resumed"] = attempt.resumed
        values["tls_version"] = attempt.tls_version
        if attempt.tls_cipher and "tls_cipher" in attempt.attempt.wants:
            values["tls_cipher"] = attempt.tls_cipher
    wants = attempt.attempt.wants
    if wants and not wants.isdisjoint(_HEAVY):
        _heavy(values, wants, phases, attempt.chain, head, body.kept if body is not None else b"")
    reason, message = failure or ("", "")
    evidence = None
    if head is not None:
        evidence = partial(
            evidence_of, plan.secrets, head, body.kept if body is not None else bytes(attempt.buffer[:EVIDENCE_BYTES])
        )
    elif attempt.buffer:
        evidence = partial(evidence_of, plan.secrets, None, bytes(attempt.buffer[:EVIDENCE_BYTES]))
    return ProbeResult(
        success=failure is None,
        duration_s=duration_s,
        reason=reason,
        message=message,
        phases=phases,
        values=values,
        evidence=evidence,
    )


def _facts(hop: Hop, address: Address | None) -> dict[str, Any]:
    """Return what does not change while the same address answers the same request."""
    facts: dict[str, Any] = {"tls": hop.tls, "final_url": hop.url}
    if address is not None:
        facts["ip"] = address[1]
        facts["ip_version"] = 6 if ":" in address[1] else 4
        facts["ip_hash"] = ip_hash(address)
    return facts


def judge(plan: HttpPlan, status: int, tls: bool, version: float) -> tuple[str, str] | None:
    """Return (reason, message) of why a complete answer is not what the probe demands, None if it is."""
    if status not in plan.accept_status:
        return "status", f"HTTP status {status}"
    probe = plan.probe
    if probe.fail_if_tls and tls:
        return "mismatch", "the answer came over TLS"
    if probe.fail_if_not_tls and not tls:
        return "mismatch", "the answer did not come over TLS"
    if probe.accept_versions and version not in accepted_versions(probe.accept_versions):
        return "mismatch", f"HTTP version {version:g}"
    return None


@lru_cache(maxsize=64)
def accepted_versions(names: tuple[str, ...]) -> frozenset[float]:
    """Return 1.1 for `HTTP/1.1`, `1.1`…"""
    return frozenset(float(name.upper().removeprefix("HTTP/")) for name in names)


@lru_cache(maxsize=2048)
def _chain_facts(chain: tuple[bytes, ...]) -> float:
    expiries = []
    for der in chain:
        try:
            expiries.append(certificate_facts(der).not_after_s)
        except ValueError:
            continue
    return min(expiries, default=0.0)


def chain_values(chain: tuple[bytes, ...], now_s: float) -> dict[str, Any]:
    """Return the expiry of a chain: the earliest of its certificates. now_s: wall clock."""
    expires_s = _chain_facts(chain)
    if not expires_s:
        return {}
    return {"tls_expires_s": expires_s, "tls_days_left": (expires_s - now_s) / 86400}


def _heavy(
    values: dict[str, Any],
    wants: frozenset[str],
    phases: Phases,
    chain: tuple[bytes, ...],
    head: Head | None,
    body: bytes | bytearray,
) -> None:
    """Add what costs something and only some expectations read."""
    if "phases" in wants:
        values["phases"] = {
            "resolve": phases.resolve_s,
            "connect": phases.connect_s,
            "tls": phases.tls_s,
            "first_byte": phases.first_byte_s,
            "transfer": phases.transfer_s,
        }
    if head is not None:
        if "headers" in wants:
            values["headers"] = head.headers
        if "header_list" in wants:
            values["header_list"] = header_list(head.raw)
        if "body" in wants:
            values["body"] = body_text(head.headers, body)
        if "json" in wants:
            try:
                values["json"] = msgspec.json.decode(body)
            except (msgspec.DecodeError, RecursionError):
                values["json"] = None
    if chain and any(name.startswith("tls_") for name in wants):
        values.update(leaf_values(chain))


def header_list(raw: bytes) -> dict[str, list[str]]:
    """Return every value of every header, names in lower case; `headers` has them joined."""
    found: dict[str, list[str]] = {}
    for line in raw.decode("latin-1").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def leaf_values(chain: tuple[bytes, ...]) -> dict[str, Any]:
    """Return what the peer's own certificate says."""
    try:
        facts = certificate_facts(chain[0])
    except ValueError:
        return {}
    return {
        "tls_subject": facts.subject,
        "tls_issuer": facts.issuer,
        "tls_names": list(facts.names),
        "tls_serial": facts.serial,
        "tls_fingerprint": facts.fingerprint,
    }


def body_text(headers: Mapping[str, str], body: bytes | bytearray) -> str:
    """Return a body as text, by the charset the server named, else UTF-8; what is not text becomes U+FFFD."""
    return decode_text(charset_of(headers), body)


def charset_of(headers: Mapping[str, str]) -> str:
    """Return the charset that the server named, else utf-8."""
    content_type = headers.get("content-type", "")
    return _charset(content_type[:200]) if content_type else "utf-8"


def decode_text(charset: str, body: bytes | bytearray) -> str:
    try:
        return body.decode(charset, "replace")
    except (LookupError, UnicodeError, ValueError):
        return body.decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _charset(content_type: str) -> str:
    match = _CHARSET.search(content_type)
    return match[1] if match else "utf-8"


@lru_cache(maxsize=1024)
def parse_date(text: str) -> float:
    """Return an HTTP date as seconds since 1970 UTC, 0 for none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def evidence_of(secrets: tuple[str, ...], head: Head | None, body: bytes | bytearray) -> Evidence:
    """Return what the target said, bounded, with every secret of ours blanked."""
    headers: list[tuple[str, str]] = []
    size = 0
    truncated = False
    lines = head.raw.decode("latin-1").split("\n") if head is not None else []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        name, _, value = ("", "", line) if number == 0 else line.partition(":")
        value = "***" if name.lower() in _MASKED_HEADERS else blank(value.strip(), secrets)
        size += len(name) + len(value)
        if size > EVIDENCE_BYTES // 2:
            truncated = True
            break
        headers.append((name, value))
    text = blank(body_text(head.headers if head is not None else {}, body[:EVIDENCE_BYTES]), secrets)
    room = EVIDENCE_BYTES - min(size, EVIDENCE_BYTES // 2)
    if len(raw := text.encode()) > room:
        truncated = True
        text = raw[:room].decode("utf-8", "ignore")
    return Evidence(headers=tuple(headers), body=text, truncated=truncated or len(body) >= EVIDENCE_BYTES)


def blank(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "***")
    return text
