"""What blackbox_exporter shows for each prober: the same names, those that are always there with zero included."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from dogwatch.core.metrics import Family, series
from dogwatch.probes.metrics import DURATION, HTTP_PHASES, LOOKUP, PHASES, SUCCESS, numbers, phase_values
from dogwatch.probes.probe import Phases, Probe, ProbeResult

# Go's zero time as blackbox_exporter prints it where no chain was verified.
_NO_CHAIN_S = -62_135_596_800.0
_IP = {
    "probe_ip_addr_hash": "Specifies the hash of IP address. It's useful to detect if the IP address changes.",
    "probe_ip_protocol": "Specifies whether probe ip protocol is IP4 or IP6",
}
_REGEX = {"probe_failed_due_to_regex": "Indicates if probe failed due to regex"}
_BYTES = {"probe_failed_due_to_bytes": "Indicates if probe failed due to bytes"}
_EXPIRY = ("probe_ssl_earliest_cert_expiry", "Returns last SSL chain expiry in unixtime")
# By prober: what is always there, name → help. Zero where the probe says nothing else.
_ALWAYS: Mapping[str, Mapping[str, str]] = {
    "http": {
        **_IP,
        **_REGEX,
        "probe_http_content_length": "Length of http content response",
        "probe_http_redirects": "The number of redirects",
        "probe_http_ssl": "Indicates if SSL was used for the final redirect",
        "probe_http_status_code": "Response HTTP status code",
        "probe_http_uncompressed_body_length": "Length of uncompressed response body",
        "probe_http_version": "Returns the version of HTTP of the probe response",
    },
    "tcp": {**_IP, **_REGEX, **_BYTES},
    "icmp": _IP,
    "dns": {
        **_IP,
        "probe_dns_additional_rrs": "Returns number of entries in the additional resource record list",
        "probe_dns_answer_rrs": "Returns number of entries in the answer resource record list",
        "probe_dns_authority_rrs": "Returns number of entries in the authority resource record list",
        "probe_dns_query_succeeded": "Displays whether or not the query was executed successfully",
    },
    "grpc": {
        **_IP,
        "probe_grpc_ssl": "Indicates if SSL was used for the connection",
        "probe_grpc_status_code": "Response gRPC status code",
    },
    "websocket": {
        **_IP,
        "probe_websocket_connection_upgraded": "Indicates if the websocket connection was successfully upgraded",
        "probe_websocket_failed_due_to_regex": "Indicates if probe failed due to regex",
        "probe_websocket_status_code": "Response HTTP status code",
    },
    "unix": {**_REGEX, **_BYTES},
}
# By prober: what is there once the probe has a value for it.
_SOMETIMES: Mapping[str, frozenset[str]] = {
    "http": frozenset(("probe_http_last_modified_timestamp_seconds",)),
    "icmp": frozenset(("probe_icmp_reply_hop_limit",)),
    "dns": frozenset(("probe_dns_serial",)),
}
_CIPHER = "Returns the TLS cipher negotiated during handshake"
_BULK = re.compile(r"AES|CHACHA|CAMELLIA|ARIA")
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_SERVING = ("NOT_SERVING", "SERVICE_UNKNOWN", "SERVING", "UNKNOWN")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One answered /probe request.

    success: every check of the module included. by_regex, by_cel: what failed it. verified: the chain was checked.
    follows: redirects are followed. host: of the target, which may be an address. resolves: false if a proxy
    does it.
    """

    prober: str
    probe: Probe
    result: ProbeResult
    success: bool
    by_regex: bool = False
    by_cel: bool = False
    has_cel: bool = False
    verified: bool = True
    follows: bool = True
    host: str = ""
    resolves: bool = True


def families(outcome: Outcome, timeout_s: float = 0.0) -> list[Family]:
    """Return the families in the order of their names, as blackbox_exporter does."""
    prober, result = outcome.prober, outcome.result
    found: dict[str, tuple[str, list[tuple[str, float]]]] = {}

    def put(name: str, text: str, value: float) -> None:
        found[name] = (text, [(name, value)])

    always = _always(outcome)
    for name, text in always.items():
        put(name, text, 0.0)
    if prober == "grpc":
        found["probe_grpc_healthcheck_response"] = ("Response HealthCheck response", _serving(result.values))
    values = {**result.values, **_address(outcome), **_as_they_count(outcome)}
    allowed = always.keys() | _SOMETIMES.get(prober, frozenset())
    for name, text, value in numbers(outcome.probe, values):
        if name in allowed and name != _EXPIRY[0]:
            put(name, always.get(name, text), value)
    if "probe_ip_addr_hash" in allowed:
        put("probe_ip_addr_hash", _IP["probe_ip_addr_hash"], float(values.get("ip_hash", 0.0)))
    if prober == "websocket":
        put(
            "probe_websocket_connection_upgraded",
            _ALWAYS[prober]["probe_websocket_connection_upgraded"],
            float(values.get("upgraded", False)),
        )
        put(
            "probe_websocket_failed_due_to_regex",
            _REGEX["probe_failed_due_to_regex"],
            float(values.get("failed_regex", False)),
        )
    if outcome.by_regex:
        put("probe_failed_due_to_regex", _REGEX["probe_failed_due_to_regex"], 1.0)
    if outcome.has_cel:
        put(
            "probe_failed_due_to_cel",
            "Indicates if probe failed due to CEL expression not matching",
            float(outcome.by_cel),
        )
    found.update(_phases(outcome))
    found.update(_captured(outcome))
    found.update(_certificate(outcome))
    put(SUCCESS[0], SUCCESS[1], float(outcome.success))
    put(DURATION[0], DURATION[1], result.duration_s)
    put("probe_timeout_seconds", "Returns how long the probe timeout is in seconds", timeout_s)
    if prober != "unix" and outcome.resolves:
        put(LOOKUP[0], LOOKUP[1], (result.phases or Phases()).resolve_s)
    return [Family(name, "gauge", text, rows) for name, (text, rows) in sorted(found.items())]


def _always(outcome: Outcome) -> Mapping[str, str]:
    """Return what is there even without a value; of a dialogue only once there was a connection for it."""
    always = _ALWAYS[outcome.prober]
    if not outcome.resolves:
        return {name: text for name, text in always.items() if name not in _IP}
    if outcome.prober not in ("tcp", "unix") or outcome.result.success or "failed_regex" in outcome.result.values:
        return always
    return {name: text for name, text in always.items() if name not in _REGEX and name not in _BYTES}


def _address(outcome: Outcome) -> dict[str, float]:
    """Return what can be said of the address where the kind did not: FNV-1a over its bytes."""
    values = outcome.result.values
    if "ip_hash" in values:
        return {}
    try:
        address = ipaddress.ip_address(str(values.get("ip", outcome.host)).partition("%")[0])
    except ValueError:
        return {}
    hashed = 0x811C9DC5
    for byte in address.packed:
        hashed = ((hashed ^ byte) * 0x01000193) & 0xFFFFFFFF
    return {"ip_hash": float(hashed), "ip_version": float(address.version)}


def _as_they_count(outcome: Outcome) -> dict[str, Any]:
    """Return the values that blackbox_exporter counts in its own way."""
    values, counted = outcome.result.values, {}
    if not outcome.follows and values.get("status") in _REDIRECTS:
        counted["redirects"] = 1  # the one that was not followed
    if outcome.result.reason == "timeout" and "failed_regex" in values:
        counted["failed_regex"] = False
    if outcome.prober == "http" and "status" not in values:
        counted["tls"] = False  # only an answer tells
    if outcome.prober == "grpc" and "grpc_status" not in values:
        # DEADLINE_EXCEEDED, else UNAVAILABLE: what a gRPC client says of a server that gave no status.
        counted["grpc_status"] = 4 if outcome.result.reason == "timeout" else 14
    return counted


def _serving(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    name = "probe_grpc_healthcheck_response"
    seen = str(values.get("serving_status", values.get("status", "")))
    return [(series(name, {"serving_status": status}), float(status == seen)) for status in _SERVING]


def _phases(outcome: Outcome) -> dict[str, tuple[str, list[tuple[str, float]]]]:
    result, prober = outcome.result, outcome.prober
    phases = result.phases or Phases()
    if prober == "http":
        name, text = HTTP_PHASES
        times: dict[str, float] = dict(zip(PHASES, phase_values(phases), strict=True))
        if "ip" not in result.values:
            times = {"resolve": phases.resolve_s}
        if not outcome.resolves:
            times.pop("resolve")
    elif prober == "dns":
        name, text = "probe_dns_duration_seconds", "Duration of DNS request by phase"
        request_s = phases.first_byte_s + phases.transfer_s
        times = {"resolve": phases.resolve_s, "connect": phases.connect_s, "request": request_s}
        times["request"] = float(result.values.get("query_s", request_s))
    elif prober == "icmp":
        name, text = "probe_icmp_duration_seconds", "Duration of icmp request by phase"
        rtt_s = float(result.values.get("rtt_avg_s", phases.first_byte_s))
        setup_s = float(result.values.get("setup_s", phases.connect_s))
        times = {"resolve": phases.resolve_s, "setup": setup_s, "rtt": rtt_s}
    elif prober == "grpc":
        name, text = "probe_grpc_duration_seconds", "Duration of gRPC request by phase"
        times = {"resolve": phases.resolve_s, "check": max(0.0, result.duration_s - phases.resolve_s)}
    elif prober == "websocket":
        name, text = "probe_websocket_duration_seconds", "Duration of websocket request by phase"
        times = {"resolve": phases.resolve_s, "processing": phases.tls_s + phases.first_byte_s}
        if "connect_s" in result.values:
            times["connect"] = phases.connect_s
        if "dialogue_s" in result.values:
            times["transfer"] = float(result.values["dialogue_s"])
    else:
        return {}
    return {name: (text, [(series(name, {"phase": phase}), value) for phase, value in sorted(times.items())])}


def _captured(outcome: Outcome) -> dict[str, tuple[str, list[tuple[str, float]]]]:
    captured = outcome.result.values.get("captured")
    name = "probe_expect_info"
    return {name: ("Explicit content matched", [(series(name, captured), 1.0)])} if captured else {}


def _certificate(outcome: Outcome) -> dict[str, tuple[str, list[tuple[str, float]]]]:
    """Return what is only there once a certificate was seen."""
    values = outcome.result.values
    expires_s = values.get("tls_expires_s", values.get("tls_expiry_s"))
    # A certificate that was refused is not shown.
    refused = outcome.result.reason in ("certificate", "tls")
    if expires_s is None or refused or outcome.prober not in ("http", "tcp", "grpc", "unix"):
        return {}
    names = [name for name in values.get("tls_names", ()) if not _is_address(name)]
    serial = str(values.get("tls_serial", "")).replace(":", "").lower()
    labels = {
        "fingerprint_sha256": str(values.get("tls_fingerprint", "")).replace(":", "").lower(),
        "issuer": str(values.get("tls_issuer", "")),
        "serialnumber": serial if len(serial) % 2 == 0 else f"0{serial}",
        "subject": str(values.get("tls_subject", "")),
        "subjectalternative": ",".join(names),
    }
    until_s = float(values.get("tls_chain_expiry_s") or expires_s) if outcome.verified else _NO_CHAIN_S
    shown = str(values.get("tls_version", "")).replace("TLSv", "TLS ")
    chain, version = "probe_ssl_last_chain_info", "probe_tls_version_info"
    found = {
        _EXPIRY[0]: (_EXPIRY[1], [(_EXPIRY[0], float(expires_s))]),
        chain: ("Contains SSL leaf certificate information", [(series(chain, labels), 1.0)]),
        version: (
            "Returns the TLS version used or NaN when unknown",
            [(series(version, {"version": shown}), 1.0)],
        ),
    }
    if outcome.prober != "grpc":
        until = "probe_ssl_last_chain_expiry_timestamp_seconds"
        found[until] = ("Returns last SSL chain expiry in timestamp", [(until, until_s)])
    if values.get("tls_cipher"):
        name = "probe_tls_cipher_info"
        found[name] = (_CIPHER, [(series(name, {"cipher": cipher_name(str(values["tls_cipher"]))}), 1.0)])
    return found


def cipher_name(text: str) -> str:
    """Return the registered (IANA) name of a cipher suite that OpenSSL calls something shorter."""
    if text.startswith("TLS_"):
        return text
    parts = text.split("-")
    at = next((at for at, part in enumerate(parts) if _BULK.match(part)), 0)
    exchange = "_".join(parts[:at]) or "RSA"
    bulk = [re.sub(r"^(AES|CAMELLIA|ARIA)(\d+)$", r"\1_\2", part) for part in parts[at:]]
    if bulk[:1] == ["CHACHA20"]:
        bulk = ["CHACHA20", "POLY1305", "SHA256"]
    elif not {"GCM", "CCM", "CCM8"} & set(bulk):
        bulk.insert(len(bulk) - 1, "CBC")
    return f"TLS_{exchange}_WITH_{'_'.join(bulk)}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
