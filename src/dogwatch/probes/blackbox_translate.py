"""From a blackbox_exporter module and a target to one of our probes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dogwatch.core.component import Registry
from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.adhoc import build_probe
from dogwatch.probes.blackbox_checks import Check, is_address, tls_options
from dogwatch.probes.blackbox_format import Module, QueryStep, RecordRules
from dogwatch.probes.blackbox_http import body_of, http_checks, http_options
from dogwatch.probes.blackbox_reader import parse_limit
from dogwatch.probes.blackbox_records import CLASSES, TYPES
from dogwatch.probes.blackbox_secrets import MemoryFile, MemoryFiles, authorization_of, basic_of, header_of
from dogwatch.probes.http.request import basic
from dogwatch.probes.probe import Probe, ProbeResult

_CHAIN_WANTS = frozenset(("tls_subject", "tls_issuer", "tls_names", "tls_serial", "tls_fingerprint", "tls_cipher"))
_ENDS_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):\d+")


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """A probe ready to run. wants: what the checks and metrics read. held: files in memory that the probe names."""

    probe: Probe
    checks: tuple[Check, ...] = ()
    wants: frozenset[str] = frozenset()
    held: tuple[MemoryFile, ...] = ()


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is translated. hostname: asked for instead of the target's own name."""

    module: Module
    target: str
    hostname: str
    memory: MemoryFiles
    held: list[MemoryFile]


def translate(
    registry: Registry[Probe], module: Module, target: str, hostname: str = "", memory: MemoryFiles | None = None
) -> Translated:
    """Return the probe that a module means for a target. hostname: asked for instead of the target's own name.

    Raises: ConfigError for a target or option that cannot be.
    """
    request = _Request(module=module, target=target, hostname=hostname, memory=memory or MemoryFiles(), held=[])
    kind, options = _PROBERS[module.prober](request)
    probe = build_probe(registry, kind, options)
    checks: tuple[Check, ...] = ()
    if module.prober == "http":
        # Not among the options, which are text: a body may be any bytes.
        probe = msgspec.structs.replace(probe, body=body_of(module.http))
        checks = http_checks(module.http)
    wants = frozenset(name for check in checks for name in check.wants) | (_CHAIN_WANTS & probe.variables.keys())
    return Translated(probe=probe, checks=checks, wants=wants, held=tuple(request.held))


def host_of(target: str) -> str:
    """Return the host of `host:port`, `[::1]:80` or a bare host."""
    if target.startswith("["):
        return target[1:].partition("]")[0]
    return target.rpartition(":")[0] if target.count(":") == 1 else target


def _ip_version(options: Any, target: str) -> dict[str, Any]:
    """Return which version of IP is asked for, and whether the other one will do."""
    if is_address(host_of(target)):
        return {}
    version = 6 if options.preferred_ip_protocol in ("", "ip6") else 4
    return {"ip_version": version, "ip_fallback": options.ip_protocol_fallback}


def _source(address: str) -> dict[str, str]:
    if address and not is_address(address):
        raise ConfigError([Problem(f"the source '{address}' is not an IP address")])
    return {"source": address} if address else {}


def _http(request: _Request) -> tuple[str, dict[str, Any]]:
    return "http", http_options(request.module.http, request.target, request.hostname, request.memory, request.held)


def over_limit(module: Module, result: ProbeResult) -> ProbeResult:
    """Return a result whose body was cut at the module's limit as the failure that it is."""
    limit = parse_limit(module.http.body_size_limit) if module.prober == "http" else 0
    if not limit or result.values.get("body_bytes", 0) <= limit:
        return result
    return msgspec.structs.replace(
        result,
        success=False,
        reason="too_large",
        message=f"the body is larger than {limit} bytes",
        values={**result.values, "body_bytes": limit},
    )


def has_cel(module: Module) -> bool:
    """Return whether a module's answer is judged by an expression over its JSON."""
    http = module.http
    expressions = (http.fail_if_body_json_matches_cel, http.fail_if_body_json_not_matches_cel)
    return module.prober == "http" and any(text is not None for text in expressions)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_text(text: str) -> bool:
    return all(char.isprintable() or char in "\r\n\t" for char in text)


def _dialogue(steps: tuple[QueryStep, ...]) -> list[dict[str, Any]]:
    found = []
    for step in steps:
        one: dict[str, Any] = {}
        if step.expect is not None:
            one["expect"] = step.expect
            one["capture"] = {label.name: label.value for label in step.labels}
        if step.expect_bytes:
            one["expect_hex"] = _raw(step.expect_bytes).hex()
        if step.send and not _is_text(step.send):
            if step.expect is not None and "$" in step.send:
                raise ConfigError([Problem("groups cannot be filled into bytes that are no text")])
            one["send_hex"] = (_raw(step.send) + b"\n").hex()
        elif step.send:
            # Groups are filled in only beside the expect that found them.
            one["send"] = step.send if step.expect is not None else step.send.replace("$", "$$")
        if step.starttls:
            one["starttls"] = True
        found.append(one)
    return [one for one in found if one]


def _conversation(options: Any, request: _Request, hostname: str = "") -> dict[str, Any]:
    """Return what the tcp and unix kinds have in common."""
    starttls = any(step.starttls for step in options.query_response)
    if starttls and options.tls:
        raise ConfigError([Problem("TLS from the first byte and starttls exclude each other")])
    found: dict[str, Any] = {}
    if dialogue := _dialogue(options.query_response):
        found["dialogue"] = dialogue
    if options.tls or starttls:
        found["tls"] = tls_options(options.tls_config, request.memory, request.held, hostname)
    return found


def _tcp(request: _Request) -> tuple[str, dict[str, Any]]:
    tcp, target = request.module.tcp, request.target
    return "tcp", {
        "host": target,
        **_ip_version(tcp, target),
        **_source(tcp.source_ip_address),
        **_conversation(tcp, request, request.hostname),
    }


def _unix(request: _Request) -> tuple[str, dict[str, Any]]:
    return "unix", {"path": request.target, **_conversation(request.module.unix, request)}


def _records(rules: RecordRules) -> dict[str, Any]:
    """Return rules in our terms.

    There, `fail_if_all_match` fails unless all match, and one match of any expression satisfies `fail_if_none_matches`.
    """
    none = "|".join(f"(?:{text})" for text in rules.fail_if_none_matches_regexp)
    return {
        "fail_if_matches": rules.fail_if_matches_regexp,
        "fail_if_not_matches": (*rules.fail_if_not_matches_regexp, *rules.fail_if_all_match_regexp),
        "fail_if_none_matches": (none,) if rules.fail_if_none_matches_regexp else (),
        "min_records": int(bool(rules.fail_if_not_matches_regexp or rules.fail_if_none_matches_regexp)),
        "tabs": True,
    }


def _dns(request: _Request) -> tuple[str, dict[str, Any]]:
    dns, target = request.module.dns, request.target
    transport = dns.transport_protocol or "udp"
    if transport not in ("udp", "tcp"):
        raise ConfigError([Problem(f"unknown transport '{transport}'", hint="udp or tcp")])
    if dns.dns_over_tls and transport != "tcp":
        raise ConfigError([Problem("DNS over TLS wants transport_protocol: tcp")])
    options: dict[str, Any] = {
        "name": dns.query_name or ".",
        "type": f"TYPE{TYPES[dns.query_type or 'ANY']}",
        "class_": f"CLASS{CLASSES[dns.query_class or 'IN']}",
        "server": target,
        "transport": "tls" if dns.dns_over_tls else transport,
        "recursion": dns.recursion_desired,
        "edns_payload": 0,
        "rcode": dns.valid_rcodes or ("NOERROR",),
        "answer": _records(dns.validate_answer_rrs),
        "authority": _records(dns.validate_authority_rrs),
        "additional": _records(dns.validate_additional_rrs),
        **_ip_version(dns, target),
        **_source(dns.source_ip_address),
    }
    if dns.dns_over_tls:
        options["tls"] = tls_options(dns.tls_config, request.memory, request.held)
    return "dns", options


def _icmp(request: _Request) -> tuple[str, dict[str, Any]]:
    icmp, target = request.module.icmp, request.target
    options: dict[str, Any] = {"host": target, "ttl": icmp.ttl or 64, **_ip_version(icmp, target)}
    if icmp.payload_size:
        options["payload"] = f"{icmp.payload_size}B"
    if icmp.dont_fragment:
        options["dont_fragment"] = True
    return "icmp", options | _source(icmp.source_ip_address)


def _grpc(request: _Request) -> tuple[str, dict[str, Any]]:
    grpc = request.module.grpc
    target = re.sub(r"^https?://", "", request.target).partition("/")[0]
    if not _ENDS_WITH_PORT.fullmatch(target):
        target += ":443" if grpc.tls else ":80"
    options: dict[str, Any] = {"host": target, "service": grpc.service, **_ip_version(grpc, target)}
    options["metadata_lists"] = {name.lower(): list(values) for name, values in grpc.metadata.items()}
    if grpc.tls:
        options["tls"] = tls_options(grpc.tls_config, request.memory, request.held)
    return "grpc", options


def _websocket(request: _Request) -> tuple[str, dict[str, Any]]:
    websocket, target = request.module.websocket, request.target
    client = websocket.http_config
    headers = {name: header_of(values) for name, values in websocket.headers.items()}
    given = {name.lower() for name in headers}
    if client.basic_auth is not None and "authorization" not in given:
        headers["Authorization"] = basic(":".join(basic_of(client.basic_auth)))
    elif "authorization" not in given and (authorization := authorization_of(client)):
        headers["Authorization"] = authorization
    host = urlsplit(target).netloc.rpartition("@")[2]
    options: dict[str, Any] = {"url": target, "headers": headers, **_ip_version(websocket, host)}
    steps = [_websocket_step(step) for step in websocket.query_response]
    options["dialogue"] = [step for step in steps if step]
    if target.startswith("wss:"):
        options["tls"] = tls_options(client.tls_config, request.memory, request.held)
    return "websocket", options


def _websocket_step(step: QueryStep) -> dict[str, Any]:
    one: dict[str, Any] = {}
    if step.expect is not None:
        one["expect"] = step.expect
    if step.send:
        one["send"] = step.send if step.expect is not None else step.send.replace("$", "$$")
    return one


_PROBERS: Mapping[str, Callable[[_Request], tuple[str, dict[str, Any]]]] = {
    "http": _http,
    "tcp": _tcp,
    "dns": _dns,
    "icmp": _icmp,
    "grpc": _grpc,
    "unix": _unix,
    "websocket": _websocket,
}
