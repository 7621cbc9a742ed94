"""What an attempt measured, as a person wants to read it: in words, with units, without what only programs use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

from dogwatch.core.units import format_size
from dogwatch.probes.view import TargetView
from dogwatch.web.api.models import Plain, plain
from dogwatch.words import Phrase, lasting

# Told elsewhere on the page, or meant for programs.
_HIDDEN = frozenset(
    {
        "body",
        "duration_s",
        "ip_hash",
        "ip_version",
        "resolve_s",
        "connect_s",
        "setup_s",
        "tls_expires_s",
        "late",
        "tls",
        "new",
        "truncated",
        "failed_check",
    }
)
# Worth a line only when they are not what they are nearly always.
_USUAL: Mapping[str, Plain] = {
    "redirects": 0,
    "failed_regex": False,
    "errors": "",
    "running": False,
    "query_succeeded": True,
    "tls_verified": True,
    "authentic": False,
    "authoritative": False,
}
_LABELS = {
    "status": "HTTP status",
    "http_status": "HTTP status",
    "http_version": "HTTP version",
    "ip": "Address",
    "final_url": "Ended at",
    "redirects": "Redirects followed",
    "content_length": "Length announced",
    "body_bytes": "Body",
    "last_modified_s": "Last modified",
    "reused": "Connection reused",
    "tls_version": "TLS version",
    "tls_resumed": "TLS session resumed",
    "tls_days_left": "Certificate valid for",
    "tls_subject": "Certificate of",
    "tls_issuer": "Issued by",
    "tls_serial": "Serial number",
    "tls_cipher": "Cipher",
    "tls_alpn": "Protocol agreed (ALPN)",
    "tls_verified": "Certificate verified",
    "exit_status": "Exit status",
    "rtt_min_s": "Fastest answer",
    "rtt_avg_s": "Mean answer",
    "rtt_max_s": "Slowest answer",
    "loss_ratio": "Lost",
    "hop_limit": "Hop limit",
    "rcode": "Answer code",
    "answer_rrs": "Answer records",
    "authority_rrs": "Authority records",
    "additional_rrs": "Additional records",
    "ttl_min_s": "Lowest TTL",
    "serial": "Zone serial",
    "query_s": "Query",
    "lookup_s": "Lookup",
    "age_s": "Last call ago",
    "due_in_s": "Due in",
    "last_duration_s": "Ran for",
    "running_for_s": "Running for",
    "pings": "Calls",
    "signal": "Last call said",
    "grpc_status": "gRPC status",
    "grpc_message": "gRPC message",
    "serving_status": "Serving status",
    "check_s": "Check",
    "ping_s": "Ping",
    "close_code": "Close code",
    "subprotocol": "Subprotocol",
    "failed_regex": "Forbidden text found",
    "errors": "Error output",
}
_PLACES = {name: place for place, name in enumerate(_LABELS)}
# No separators in these: they name something, and are not an amount.
_NAMES = frozenset({"status", "http_status", "exit_status", "grpc_status", "close_code", "serial"})
_SIZES = frozenset({"content_length"})


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One line. time_s: a moment, shown in the viewer's zone, instead of text. long: text that wants room."""

    label: str
    text: str = ""
    time_s: float | None = None
    long: bool = False


def measured(view: TargetView) -> list[Measured]:
    """Return what the last attempt of a target measured, the telling first."""
    return [line for _name, line in sorted(_lines(view), key=lambda one: _PLACES.get(one[0], len(_PLACES)))]


def _lines(view: TargetView) -> Iterator[tuple[str, Measured]]:
    values = plain(view.values)
    for name, value in values.items():
        if name in _HIDDEN or value is None or value == "" or _is_usual(name, value):
            continue
        if name == "final_url" and value == view.address:
            continue
        if name == "content_length" and (value == values.get("body_bytes") or _number(value) < 0):
            continue
        if name == "last_modified_s" or name.endswith("_at_s"):
            yield name, Measured(label=label(name), time_s=_number(value))
            continue
        text = shown(name, value)
        yield name, Measured(label=label(name), text=text, long="\n" in text or len(text) > 80)


def _is_usual(name: str, value: Plain) -> bool:
    return name in _USUAL and value == _USUAL[name] and isinstance(value, bool) == isinstance(_USUAL[name], bool)


def label(name: str) -> str:
    """Return a value's name for people; one that a plugin brought loses its unit and its underscores."""
    known = _LABELS.get(name)
    if known is not None:
        return known
    for unit in ("_bytes", "_ratio", "_s"):
        name = name.removesuffix(unit)
    return (name[:1].upper() + name[1:]).replace("_", " ")


def _number(value: Plain) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def shown(name: str, value: Plain) -> str:
    """Return a value with its unit, which its name tells; a Phrase where that is a word."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    if name in _NAMES:
        return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"
    if name in _SIZES or name.endswith("_bytes"):
        return format_size(value)
    if name.endswith("_ratio"):
        return f"{value * 100:.3g} %"
    if name == "tls_days_left":
        return _days(value)
    if name == "http_version":
        return f"{value:.1f}" if value < 2 else f"{value:g}"
    if name.endswith("_s"):
        return lasting(value) if abs(value) >= 1 else f"{value * 1000:.3g} ms"
    return grouped(value)


def _days(days: float) -> str:
    if abs(days) < 2:
        return Phrase("{0} hours", f"{days * 24:.0f}")
    return Phrase("{0} days", f"{days:.0f}")


def grouped(value: float) -> str:
    """Return an amount with narrow spaces between thousands."""
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return text.replace(",", "\u202f")
