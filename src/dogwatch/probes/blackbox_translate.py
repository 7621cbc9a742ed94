"""From a blackbox_exporter module and a target to one of our probes, and the checks that it has beyond that."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.core.component import Registry
from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.adhoc import build_probe
from dogwatch.probes.blackbox_modules import (
    TLS_VERSIONS,
    HeaderMatch,
    HttpModule,
    Module,
    QueryStep,
    RecordRules,
    TlsConfig,
    cel_string,
    parse_limit,
    websocket_dialogue,
)
from dogwatch.probes.probe import Probe, ProbeResult
from dogwatch.rules.conditions import Condition, ConditionFailure, compile_condition

# blackbox_exporter knows no limit by default; we never read without one.
BODY_LIMIT = 64 * 1024 * 1024
_CHAIN_WANTS = frozenset(("tls_subject", "tls_issuer", "tls_names", "tls_serial", "tls_fingerprint"))


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must hold beside what the probe itself demands.

    fails_if: the outcome of the condition that is a failure. kind: regex or cel. renamed: whether the condition's
    `body` is the decoded JSON. missing: whether a header that is not there lets the check pass.
    """

    condition: Condition
    fails_if: bool
    kind: str
    message: str
    renamed: bool = False
    missing: bool = False

    def complaint(self, values: Mapping[str, Any]) -> str:
        """Return why it does not hold, or ""."""
        if self.renamed:
            if values.get("json") is None:
                return "the body is not JSON"
            values = {"body": values["json"]}
        try:
            return self.message if self.condition.test(values) is self.fails_if else ""
        except ConditionFailure as failure:
            return "" if self.missing else f"{self.message}: {failure}"


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """A probe ready to run. wants: what the checks and metrics read."""

    probe: Probe
    checks: tuple[Check, ...] = ()
    wants: frozenset[str] = frozenset()


def translate(registry: Registry[Probe], module: Module, target: str, hostname: str = "") -> Translated:
    """Return the probe that a module means for a target. hostname: asked for instead of the target's own name.

    Raises: ConfigError for a target or option that cannot be.
    """
    kind, options = _PROBERS[module.prober](module, target, hostname)
    probe = build_probe(registry, kind, options)
    checks = _http_checks(module.http) if module.prober == "http" else ()
    wants: set[str] = set()
    for check in checks:
        wants |= {"json"} if check.renamed else check.condition.names
    return Translated(probe=probe, checks=checks, wants=frozenset(wants) | (_CHAIN_WANTS & probe.variables.keys()))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(f"cannot read: {error}", file=path)]) from None


def host_of(target: str) -> str:
    """Return the host of `host:port`, `[::1]:80` or a bare host."""
    if target.startswith("["):
        return target[1:].partition("]")[0]
    return target.rpartition(":")[0] if target.count(":") == 1 else target


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _ip_version(options: Any, target: str) -> dict[str, Any]:
    """Return `ip_version` for kinds that have no fall-back: the preferred one where it is the only one allowed, or
    is not what a resolver would prefer anyway."""
    if _is_address(host_of(target)):
        return {}
    version = 4 if options.preferred_ip_protocol == "ip4" else 6
    return {"ip_version": version} if version == 4 or not options.ip_protocol_fallback else {}


def tls_options(config: TlsConfig, hostname: str = "") -> dict[str, Any]:
    """Return a tls_config as our kinds have it."""
    options: dict[str, Any] = {"verify": not config.insecure_skip_verify}
    for name in ("ca_file", "cert_file", "key_file"):
        if getattr(config, name):
            options[name] = getattr(config, name)
    if config.server_name or hostname:
        options["server_name"] = config.server_name or hostname
    for name in ("min_version", "max_version"):
        text = getattr(config, name)
        if text:
            options[name] = TLS_VERSIONS[text]
    return options


def _http(module: Module, target: str, hostname: str) -> tuple[str, dict[str, Any]]:
    http = module.http
    url = target if target.startswith(("http://", "https://")) else f"http://{target}"
    headers = dict(http.headers)
    if hostname and not any(name.lower() == "host" for name in headers):
        headers["Host"] = hostname
    host_header = next((value for name, value in headers.items() if name.lower() == "host"), "")
    options: dict[str, Any] = {
        "url": url,
        "method": http.method or "GET",
        "headers": headers,
        "body": _read(http.body_file) if http.body_file else http.body,
        "follow_redirects": http.follow_redirects if http.no_follow_redirects is None else not http.no_follow_redirects,
        "fail_if_tls": http.fail_if_ssl,
        "fail_if_not_tls": http.fail_if_not_ssl,
        # The certificate is checked for the name that is asked for, as blackbox_exporter does.
        "tls": tls_options(http.tls_config, host_header.partition(":")[0]),
        # Every probe does a full handshake, so that the certificate is seen each time.
        "full_handshake_every": "0s",
        "proxy": http.proxy_url,
        # One byte more than the limit tells that there was more; see `over_limit`.
        "body_limit": f"{parse_limit(http.body_size_limit) + 1 if parse_limit(http.body_size_limit) else BODY_LIMIT}B",
        "body_over": "truncate",
        "compression": http.compression if http.compression not in ("", "identity") else "none",
        "accept_versions": [version.removesuffix(".0") for version in http.valid_http_versions],
    }
    if http.valid_status_codes:
        options["status"] = list(http.valid_status_codes)
    if http.enable_http3 or http.enable_http2:
        options["http_version"] = "3" if http.enable_http3 else "2"
    host = url.partition("//")[2].partition("/")[0].rpartition("@")[2]
    if not _is_address(host_of(host)):
        options["ip_version"] = "4" if http.preferred_ip_protocol == "ip4" else "6"
        options["ip_fallback"] = http.ip_protocol_fallback
    options.update(_credentials(http, headers))
    return "http", options


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


def _credentials(http: HttpModule, headers: dict[str, str]) -> dict[str, Any]:
    if http.basic_auth is not None:
        basic = http.basic_auth
        username = _read(basic.username_file) if basic.username_file else basic.username
        password = _read(basic.password_file) if basic.password_file else basic.password
        return {"basic_auth": {"username": username, "password": password}}
    if http.authorization is not None:
        given = http.authorization
        credentials = _read(given.credentials_file) if given.credentials_file else given.credentials
        headers["Authorization"] = f"{given.type or 'Bearer'} {credentials}"
        return {}
    token = _read(http.bearer_token_file) if http.bearer_token_file else http.bearer_token
    return {"bearer": token} if token else {}


def _http_checks(http: HttpModule) -> tuple[Check, ...]:
    checks = [_header_check(rule, fails_if=True) for rule in http.fail_if_header_matches]
    checks += [_header_check(rule, fails_if=False) for rule in http.fail_if_header_not_matches]
    for patterns, fails_if, words in (
        (http.fail_if_body_matches_regexp, True, "the body matches"),
        (http.fail_if_body_not_matches_regexp, False, "the body does not match"),
    ):
        for pattern in patterns:
            condition = compile_condition(f"body.matches({cel_string(pattern)})", {"body": "string"})
            checks.append(Check(condition=condition, fails_if=fails_if, kind="regex", message=f"{words} '{pattern}'"))
    for text, fails_if, words in (
        (http.fail_if_body_json_matches_cel, True, "the body's JSON matches"),
        (http.fail_if_body_json_not_matches_cel, False, "the body's JSON does not match"),
    ):
        if text:
            condition = compile_condition(text, {"body": "dyn"})
            message = f"{words} '{text}'"
            checks.append(Check(condition=condition, fails_if=fails_if, kind="cel", message=message, renamed=True))
    return tuple(checks)


def _header_check(rule: HeaderMatch, *, fails_if: bool) -> Check:
    name = cel_string(rule.header.lower())
    condition = compile_condition(f"headers[{name}].matches({cel_string(rule.regexp)})", {"headers": "map"})
    words = "matches" if fails_if else "does not match"
    message = f"header {rule.header} {words} '{rule.regexp}'"
    return Check(condition=condition, fails_if=fails_if, kind="regex", message=message, missing=rule.allow_missing)


def _dialogue(steps: tuple[QueryStep, ...]) -> list[dict[str, Any]]:
    found = []
    for step in steps:
        one: dict[str, Any] = {}
        if step.expect:
            one["expect"] = step.expect
        if step.send:
            # Groups are filled in only beside the expect that found them.
            one["send"] = step.send if step.expect else step.send.replace("$", "$$")
        if step.starttls:
            one["starttls"] = True
        found.append(one)
    return [one for one in found if one]


def _tcp(module: Module, target: str, hostname: str) -> tuple[str, dict[str, Any]]:
    tcp = module.tcp
    options: dict[str, Any] = {"host": target, **_ip_version(tcp, target)}
    if tcp.source_ip_address:
        options["source"] = tcp.source_ip_address
    dialogue = _dialogue(tcp.query_response)
    if dialogue:
        options["dialogue"] = dialogue
    if tcp.tls or any(step.starttls for step in tcp.query_response):
        options["tls"] = tls_options(tcp.tls_config, hostname)
    return "tcp", options


def _records(rules: RecordRules) -> dict[str, Any]:
    return {
        "fail_if_matches": rules.fail_if_matches_regexp,
        "fail_if_all_match": rules.fail_if_all_match_regexp,
        "fail_if_not_matches": rules.fail_if_not_matches_regexp,
        "fail_if_none_matches": rules.fail_if_none_matches_regexp,
    }


def _dns(module: Module, target: str, hostname: str) -> tuple[str, dict[str, Any]]:
    dns = module.dns
    options: dict[str, Any] = {
        "name": dns.query_name,
        "type": dns.query_type,
        "server": target,
        "transport": "tls" if dns.dns_over_tls else dns.transport_protocol or "udp",
        "recursion": dns.recursion_desired,
        "edns_payload": 0,
        "rcode": dns.valid_rcodes or ("NOERROR",),
        "answer": _records(dns.validate_answer_rrs),
        "authority": _records(dns.validate_authority_rrs),
        "additional": _records(dns.validate_additional_rrs),
        **_ip_version(dns, target),
    }
    if dns.source_ip_address:
        options["source"] = dns.source_ip_address
    if dns.dns_over_tls:
        options["tls"] = tls_options(dns.tls_config, hostname)
    return "dns", options


def _icmp(module: Module, target: str, _hostname: str) -> tuple[str, dict[str, Any]]:
    icmp = module.icmp
    options: dict[str, Any] = {"host": target, "ttl": icmp.ttl, **_ip_version(icmp, target)}
    if icmp.payload_size:
        options["payload"] = f"{icmp.payload_size}B"
    if icmp.dont_fragment:
        options["dont_fragment"] = True
    if icmp.source_ip_address:
        options["source"] = icmp.source_ip_address
    return "icmp", options


def _grpc(module: Module, target: str, hostname: str) -> tuple[str, dict[str, Any]]:
    grpc = module.grpc
    options: dict[str, Any] = {"host": target, "service": grpc.service, **_ip_version(grpc, target)}
    if grpc.tls:
        options["tls"] = tls_options(grpc.tls_config, hostname)
    return "grpc", options


def _websocket(module: Module, target: str, _hostname: str) -> tuple[str, dict[str, Any]]:
    dialogue = websocket_dialogue(module.websocket.query_response) or {}
    options: dict[str, Any] = {"url": target, "headers": dict(module.websocket.headers), **dialogue}
    if target.startswith("wss:"):
        options["tls"] = tls_options(module.websocket.tls_config)
    return "websocket", options


_PROBERS: Mapping[str, Callable[[Module, str, str], tuple[str, dict[str, Any]]]] = {
    "http": _http,
    "tcp": _tcp,
    "dns": _dns,
    "icmp": _icmp,
    "grpc": _grpc,
    "websocket": _websocket,
}
