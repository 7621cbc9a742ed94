"""blackbox_exporter's own module format: read strictly, so that nothing in it is silently ignored.

Source: blackbox_exporter's CONFIGURATION.md, 0.23 to 0.27.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from dogwatch.config.section import Fault, Section
from dogwatch.core.component import nearest
from dogwatch.rules.conditions import ConditionError, compile_condition

_DURATION_UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+)(ms|[ywdhms])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_FILE_KEY = "file"


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """tls_config."""

    insecure_skip_verify: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    min_version: str = ""
    max_version: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""


class BasicAuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """basic_auth."""

    username: str = ""
    username_file: str = ""
    password: str = ""
    password_file: str = ""


class AuthorizationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """authorization."""

    type: str = "Bearer"
    credentials: str = ""
    credentials_file: str = ""


class HeaderMatch(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of fail_if_header_matches."""

    header: str
    regexp: str
    allow_missing: bool = False


class HttpModule(msgspec.Struct, frozen=True, kw_only=True):
    """The http prober's options."""

    valid_status_codes: tuple[int, ...] = ()
    valid_http_versions: tuple[str, ...] = ()
    preferred_ip_protocol: str = "ip6"
    ip_protocol_fallback: bool = True
    no_follow_redirects: bool | None = None
    follow_redirects: bool = True
    fail_if_ssl: bool = False
    fail_if_not_ssl: bool = False
    method: str = "GET"
    headers: Mapping[str, str] = {}
    fail_if_body_matches_regexp: tuple[str, ...] = ()
    fail_if_body_not_matches_regexp: tuple[str, ...] = ()
    fail_if_body_json_matches_cel: str = ""
    fail_if_body_json_not_matches_cel: str = ""
    fail_if_header_matches: tuple[HeaderMatch, ...] = ()
    fail_if_header_not_matches: tuple[HeaderMatch, ...] = ()
    body: str = ""
    body_file: str = ""
    tls_config: TlsConfig = TlsConfig()
    basic_auth: BasicAuthConfig | None = None
    authorization: AuthorizationConfig | None = None
    bearer_token: str = ""
    bearer_token_file: str = ""
    proxy_url: str = ""
    no_proxy: str = ""
    proxy_from_environment: bool = False
    proxy_connect_header: Mapping[str, Any] = {}
    skip_resolve_phase_with_proxy: bool = False
    oauth2: Mapping[str, Any] | None = None
    enable_http2: bool | None = None
    enable_http3: bool = False
    compression: str = ""
    body_size_limit: str | int = 0
    http_headers: Mapping[str, Any] = {}


class QueryStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of query_response."""

    expect: str = ""
    send: str = ""
    starttls: bool = False
    labels: tuple[Mapping[str, str], ...] = ()


class TcpModule(msgspec.Struct, frozen=True, kw_only=True):
    """The tcp prober's options."""

    preferred_ip_protocol: str = "ip6"
    ip_protocol_fallback: bool = True
    source_ip_address: str = ""
    query_response: tuple[QueryStep, ...] = ()
    tls: bool = False
    tls_config: TlsConfig = TlsConfig()


class RecordRules(msgspec.Struct, frozen=True, kw_only=True):
    """validate_answer_rrs and its like."""

    fail_if_matches_regexp: tuple[str, ...] = ()
    fail_if_all_match_regexp: tuple[str, ...] = ()
    fail_if_not_matches_regexp: tuple[str, ...] = ()
    fail_if_none_matches_regexp: tuple[str, ...] = ()


class DnsModule(msgspec.Struct, frozen=True, kw_only=True):
    """The dns prober's options."""

    preferred_ip_protocol: str = "ip6"
    ip_protocol_fallback: bool = True
    dns_over_tls: bool = False
    tls_config: TlsConfig = TlsConfig()
    source_ip_address: str = ""
    transport_protocol: str = "udp"
    query_class: str = "IN"
    query_name: str = ""
    query_type: str = "ANY"
    recursion_desired: bool = True
    valid_rcodes: tuple[str, ...] = ()
    validate_answer_rrs: RecordRules = RecordRules()
    validate_authority_rrs: RecordRules = RecordRules()
    validate_additional_rrs: RecordRules = RecordRules()


class IcmpModule(msgspec.Struct, frozen=True, kw_only=True):
    """The icmp prober's options."""

    preferred_ip_protocol: str = "ip6"
    ip_protocol_fallback: bool = True
    source_ip_address: str = ""
    payload_size: int = 0
    dont_fragment: bool = False
    ttl: int = 64


class GrpcModule(msgspec.Struct, frozen=True, kw_only=True):
    """The grpc prober's options."""

    service: str = ""
    preferred_ip_protocol: str = "ip6"
    ip_protocol_fallback: bool = True
    tls: bool = False
    tls_config: TlsConfig = TlsConfig()
    metadata: Mapping[str, Any] = {}


class WebsocketModule(msgspec.Struct, frozen=True, kw_only=True):
    """The websocket prober's options."""

    headers: Mapping[str, str] = {}
    query_response: tuple[QueryStep, ...] = ()
    tls_config: TlsConfig = TlsConfig()


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One module. timeout_s: 0 for none of its own."""

    name: str
    prober: str
    timeout_s: float = 0.0
    http: HttpModule = HttpModule()
    tcp: TcpModule = TcpModule()
    dns: DnsModule = DnsModule()
    icmp: IcmpModule = IcmpModule()
    grpc: GrpcModule = GrpcModule()
    websocket: WebsocketModule = WebsocketModule()


TLS_VERSIONS = {"TLS10": "1.0", "TLS11": "1.1", "TLS12": "1.2", "TLS13": "1.3"}
PROBERS: Mapping[str, type[msgspec.Struct]] = {
    "http": HttpModule,
    "tcp": TcpModule,
    "dns": DnsModule,
    "icmp": IcmpModule,
    "grpc": GrpcModule,
    "websocket": WebsocketModule,
}
_NESTED: Mapping[str, type[msgspec.Struct]] = {
    "tls_config": TlsConfig,
    "basic_auth": BasicAuthConfig,
    "authorization": AuthorizationConfig,
    "validate_answer_rrs": RecordRules,
    "validate_authority_rrs": RecordRules,
    "validate_additional_rrs": RecordRules,
    "fail_if_header_matches": HeaderMatch,
    "fail_if_header_not_matches": HeaderMatch,
    "query_response": QueryStep,
}
# Options that would change what the probe does, and that we cannot do: an error, never ignored.
_UNSUPPORTED: Mapping[str, Sequence[str]] = {
    "http": (
        "oauth2",
        "proxy_from_environment",
        "proxy_connect_header",
        "no_proxy",
        "http_headers",
    ),
    "grpc": ("metadata",),
}
Place = tuple[str | int, ...]


def parse_prometheus_duration(text: str) -> float:
    """Return seconds for `1m30s`, `500ms`, `0`.

    Raises: ValueError.
    """
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"'{text}' is not a duration; write it as 5s or 1m30s")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def parse_limit(value: str | int) -> int:
    """Return bytes for `10MB` (which blackbox_exporter takes for 10 × 1024²).

    Raises: ValueError.
    """
    match = _SIZE.fullmatch(str(value))
    if not match:
        raise ValueError(f"'{value}' is not a size; write it as 10MB")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def read_module(name: str, value: Any) -> tuple[Module | None, list[Fault]]:
    """Return a module, or every mistake in it; paths are below the module."""
    faults: list[Fault] = []
    if not isinstance(value, Mapping):
        return None, [Fault((), "a module is a mapping with a prober")]
    prober = value.get("prober")
    if prober == "unix":
        return None, [Fault(("prober",), "the unix prober is not supported", "use an exec probe")]
    if prober not in PROBERS:
        hint = nearest(str(prober), list(PROBERS)) if prober else "one of " + ", ".join(PROBERS)
        return None, [Fault(("prober",), f"unknown prober '{prober}'" if prober else "the prober is missing", hint)]
    known = {"prober", "timeout", *PROBERS}
    faults += [Fault((key,), "unknown option", nearest(str(key), list(known))) for key in value if key not in known]
    fields: dict[str, Any] = {"name": name, "prober": prober}
    try:
        fields["timeout_s"] = parse_prometheus_duration(str(value.get("timeout", "0")))
    except ValueError as error:
        faults.append(Fault(("timeout",), str(error)))
    for key, kind in PROBERS.items():
        options = value.get(key)
        if options is None:
            continue
        found = list(_unknown(options, kind, (key,)))
        try:
            fields[key] = msgspec.convert(options, kind, strict=False)
        except msgspec.ValidationError as error:
            found.append(_fault_of(error, key))
        else:
            found += _cannot(key, fields[key])
        faults += found
    return (None, faults) if faults else (Module(**fields), [])


def _unknown(value: Any, kind: type[msgspec.Struct], path: Place) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        return
    known = [field.name for field in msgspec.structs.fields(kind)]
    for key, inner in value.items():
        if key not in known:
            yield Fault((*path, str(key)), "unknown option", nearest(str(key), known))
        elif key in _NESTED:
            items = enumerate(inner) if isinstance(inner, list) else [(None, inner)]
            for at, item in items:
                yield from _unknown(item, _NESTED[key], (*path, key) if at is None else (*path, key, at))


def _fault_of(error: msgspec.ValidationError, key: str) -> Fault:
    message, _, where = str(error).partition(" - at `$")
    parts = re.findall(r"\.(\w+)|\[(\d+)\]", where.rstrip("`"))
    return Fault((key, *(name or int(number) for name, number in parts)), message)


def _cannot(prober: str, options: Any) -> Iterator[Fault]:
    """Yield what cannot be done, and expressions that are wrong."""
    default = type(options)()
    for name in _UNSUPPORTED.get(prober, ()):
        if getattr(options, name) != getattr(default, name):
            yield Fault((prober, name), "is not supported")
    tls = getattr(options, "tls_config", None)
    if tls is not None:
        yield from _tls_faults(prober, tls)
    if getattr(options, "preferred_ip_protocol", "ip4") not in ("ip4", "ip6", ""):
        yield Fault((prober, "preferred_ip_protocol"), "wants ip4 or ip6")
    if isinstance(options, HttpModule):
        yield from _http_faults(options)
    if isinstance(options, DnsModule) and not options.query_name:
        yield Fault((prober, "query_name"), "the name to ask for is missing")
    if isinstance(options, DnsModule) and options.query_class != "IN":
        yield Fault((prober, "query_class"), "only class IN is supported")
    if isinstance(options, TcpModule) and options.tls and any(step.starttls for step in options.query_response):
        yield Fault((prober, "tls"), "TLS from the first byte and starttls exclude each other")
    if isinstance(options, WebsocketModule) and websocket_dialogue(options.query_response) is None:
        yield Fault((prober, "query_response"), "only one text to send and one to expect after it are supported")
    for at, step in enumerate(getattr(options, "query_response", ())):
        if step.labels:
            yield Fault((prober, "query_response", at, "labels"), "is not supported")
        yield from _regex_fault(step.expect, (prober, "query_response", at, "expect"))


def _tls_faults(prober: str, tls: TlsConfig) -> Iterator[Fault]:
    if tls.ca or tls.cert or tls.key:
        yield Fault((prober, "tls_config"), "certificates in the file itself are not supported", "use ca_file")
    for name in ("min_version", "max_version"):
        version = getattr(tls, name)
        if version and version not in TLS_VERSIONS:
            yield Fault((prober, "tls_config", name), f"unknown TLS version '{version}'", ", ".join(TLS_VERSIONS))


def websocket_dialogue(steps: Sequence[QueryStep]) -> dict[str, str] | None:
    """Return a dialogue as our websocket kind has it: send one text, expect one; None for any other."""
    texts = [(name, text) for step in steps for name, text in (("expect", step.expect), ("send", step.send)) if text]
    if [name for name, _text in texts] not in ([], ["send"], ["expect"], ["send", "expect"]):
        return None
    if any(step.starttls for step in steps):
        return None
    return {("expect_message" if name == "expect" else "send"): text for name, text in texts}


def _http_faults(options: HttpModule) -> Iterator[Fault]:
    for name in ("fail_if_body_matches_regexp", "fail_if_body_not_matches_regexp"):
        for at, pattern in enumerate(getattr(options, name)):
            yield from _regex_fault(pattern, ("http", name, at))
    for name in ("fail_if_header_matches", "fail_if_header_not_matches"):
        for at, rule in enumerate(getattr(options, name)):
            yield from _regex_fault(rule.regexp, ("http", name, at, "regexp"))
    for name in ("fail_if_body_json_matches_cel", "fail_if_body_json_not_matches_cel"):
        text = getattr(options, name)
        if text:
            try:
                compile_condition(text, {"body": "dyn"})
            except ConditionError as error:
                yield Fault(("http", name), str(error), error.hint)
    try:
        parse_limit(options.body_size_limit)
    except ValueError as error:
        yield Fault(("http", "body_size_limit"), str(error))
    if options.compression not in ("", "none", "identity", "gzip", "deflate", "br"):
        yield Fault(("http", "compression"), "wants gzip, deflate, br or identity")
    credentials = [options.basic_auth, options.authorization, options.bearer_token or options.bearer_token_file]
    if sum(map(bool, credentials)) > 1:
        yield Fault(("http",), "at most one of basic_auth, authorization and bearer_token may be given")


def _regex_fault(pattern: str, path: Place) -> Iterator[Fault]:
    try:
        compile_condition(f"text.matches({cel_string(pattern)})", {"text": "string"})
    except ConditionError as error:
        yield Fault(path, str(error))


def cel_string(text: str) -> str:
    """Return a text as a CEL string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def inline_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the modules that are written in the section itself."""
    return {name: one for name, one in value.items() if name != _FILE_KEY or isinstance(one, Mapping)}


def check_modules(value: Mapping[str, Any]) -> Iterator[Fault]:
    """Find every mistake in the modules, inline ones and those of files."""
    # Imported here: it reads modules by this module.
    from dogwatch.probes.blackbox_files import file_faults

    yield from file_faults(value.get(_FILE_KEY))
    for name, one in inline_of(value).items():
        _module, faults = read_module(str(name), one)
        for fault in faults:
            yield Fault((name, *fault.path), fault.message, fault.hint)


MODULES: Section[dict[str, Any]] = Section(
    key="modules",
    type=dict[str, Any],
    doc="blackbox_exporter's modules for /probe: inline in its own format, or `file:` with the path of its file.",
    default=dict,
    check=check_modules,
    includes=(_FILE_KEY,),
)

_DEFAULTS = """
http_2xx: {prober: http}
http_post_2xx: {prober: http, http: {method: POST}}
tcp_connect: {prober: tcp}
pop3s_banner:
  prober: tcp
  tcp: {query_response: [{expect: "^+OK"}], tls: true, tls_config: {insecure_skip_verify: false}}
grpc: {prober: grpc, grpc: {tls: true, preferred_ip_protocol: ip4}}
grpc_plain: {prober: grpc, grpc: {tls: false, service: service1}}
ssh_banner:
  prober: tcp
  tcp: {query_response: [{expect: "^SSH-2.0-"}, {send: SSH-2.0-blackbox-ssh-check}]}
irc_banner:
  prober: tcp
  tcp:
    query_response:
    - {send: NICK prober}
    - {send: "USER prober prober prober :prober"}
    - {expect: "PING :([^ ]+)", send: "PONG ${1}"}
    - {expect: "^:[^ ]+ 001"}
icmp: {prober: icmp}
icmp_ttl5: {prober: icmp, timeout: 5s, icmp: {ttl: 5}}
dns_udp: {prober: dns, dns: {query_name: prometheus.io, query_type: A}}
dns_tcp: {prober: dns, dns: {transport_protocol: tcp, query_name: prometheus.io, query_type: A}}
"""


def default_modules() -> dict[str, Module]:
    """Return the modules of blackbox_exporter's example file, which are there without being configured."""
    found = {}
    for name, value in yaml.load(_DEFAULTS, Loader=yaml.CSafeLoader).items():
        module, faults = read_module(name, value)
        if module is None:
            raise ValueError(f"{name}: {faults}")
        found[name] = module
    return found
