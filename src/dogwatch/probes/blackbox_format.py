"""blackbox_exporter's module format as structs: one field per option, with the defaults of the newest release.

Source: blackbox_exporter's CONFIGURATION.md, 0.28. What a field's text must be is said by a marker in its annotation
(`Regex`, `Cel`…), which blackbox_reader checks; rules between fields are in blackbox_rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

Regex = Annotated[str, "regex"]
Cel = Annotated[str, "cel"]
GoDuration = Annotated[str, "duration"]
Size = Annotated[str, "size"]
TlsVersionName = Annotated[str, "tls version"]
Url = Annotated[str, "url"]


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """tls_config. The `_ref` options name a secret manager, which only other Prometheus programs have."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_ref: str = ""
    cert_ref: str = ""
    key_ref: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False
    min_version: TlsVersionName = ""
    max_version: TlsVersionName = ""


class BasicAuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """basic_auth."""

    username: str = ""
    username_file: str = ""
    username_ref: str = ""
    password: str = ""
    password_file: str = ""
    password_ref: str = ""


class AuthorizationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """authorization."""

    type: str = "Bearer"
    credentials: str = ""
    credentials_file: str = ""
    credentials_ref: str = ""


class HeaderValues(msgspec.Struct, frozen=True, kw_only=True):
    """One header of http_headers. files: their content, read for each probe."""

    values: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class ProxyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the way to a server, for targets and for the token endpoint."""

    proxy_url: Url | None = None
    no_proxy: str = ""
    proxy_from_environment: bool = False
    proxy_connect_header: Mapping[str, tuple[str, ...]] = {}


class Oauth2Config(ProxyOptions, frozen=True, kw_only=True):
    """oauth2: a token got with the client's own credentials, or with a signed assertion (RFC 7523)."""

    client_id: str = ""
    client_secret: str = ""
    client_secret_file: str = ""
    client_secret_ref: str = ""
    client_certificate_key_id: str = ""
    client_certificate_key: str = ""
    client_certificate_key_file: str = ""
    client_certificate_key_ref: str = ""
    grant_type: str = ""
    signature_algorithm: str = ""
    iss: str = ""
    audience: str = ""
    claims: Mapping[str, Any] = {}
    scopes: tuple[str, ...] = ()
    token_url: str = ""
    endpoint_params: Mapping[str, str] = {}
    tls_config: TlsConfig = TlsConfig()


class ClientConfig(ProxyOptions, frozen=True, kw_only=True):
    """The HTTP client's options, which http modules have beside their own and websocket modules in http_config.

    enable_http2: on unless it is false; docs/blackbox.md says when HTTP/2 is spoken.
    """

    basic_auth: BasicAuthConfig | None = None
    authorization: AuthorizationConfig | None = None
    oauth2: Oauth2Config | None = None
    bearer_token: str = ""
    bearer_token_file: str = ""
    tls_config: TlsConfig = TlsConfig()
    follow_redirects: bool = True
    enable_http2: bool | None = None
    http_headers: Mapping[str, HeaderValues] = {}


class HeaderMatch(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of fail_if_header_matches."""

    header: str = ""
    regexp: Regex = ""
    allow_missing: bool = False


class HttpModule(ClientConfig, frozen=True, kw_only=True):
    """The http prober's options."""

    valid_status_codes: tuple[int, ...] = ()
    valid_http_versions: tuple[str, ...] = ()
    preferred_ip_protocol: str = ""
    ip_protocol_fallback: bool = True
    skip_resolve_phase_with_proxy: bool = False
    no_follow_redirects: bool | None = None
    fail_if_ssl: bool = False
    fail_if_not_ssl: bool = False
    method: str = ""
    headers: Mapping[str, str] = {}
    fail_if_body_matches_regexp: tuple[Regex, ...] = ()
    fail_if_body_not_matches_regexp: tuple[Regex, ...] = ()
    fail_if_body_json_matches_cel: Cel | None = None
    fail_if_body_json_not_matches_cel: Cel | None = None
    fail_if_header_matches: tuple[HeaderMatch, ...] = ()
    fail_if_header_not_matches: tuple[HeaderMatch, ...] = ()
    body: str = ""
    body_file: str = ""
    compression: str = ""
    body_size_limit: Size = "0"
    enable_http3: bool = False


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A label of probe_expect_info. value: may hold groups of the match, `${1}`."""

    name: str = ""
    value: str = ""


class QueryStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of query_response. Bytes that are no UTF-8 are surrogates, as os.fsdecode has them."""

    expect: Regex | None = None
    expect_bytes: str = ""
    labels: tuple[Label, ...] = ()
    send: str = ""
    starttls: bool = False


class UnixModule(msgspec.Struct, frozen=True, kw_only=True):
    """The unix prober's options."""

    query_response: tuple[QueryStep, ...] = ()
    tls: bool = False
    tls_config: TlsConfig = TlsConfig()


class TcpModule(UnixModule, frozen=True, kw_only=True):
    """The tcp prober's options."""

    preferred_ip_protocol: str = ""
    ip_protocol_fallback: bool = True
    source_ip_address: str = ""


class RecordRules(msgspec.Struct, frozen=True, kw_only=True):
    """validate_answer_rrs and its like; expressions that are wrong fail the probe, not the file."""

    fail_if_matches_regexp: tuple[str, ...] = ()
    fail_if_all_match_regexp: tuple[str, ...] = ()
    fail_if_not_matches_regexp: tuple[str, ...] = ()
    fail_if_none_matches_regexp: tuple[str, ...] = ()


class DnsModule(msgspec.Struct, frozen=True, kw_only=True):
    """The dns prober's options."""

    preferred_ip_protocol: str = ""
    ip_protocol_fallback: bool = True
    dns_over_tls: bool = False
    tls_config: TlsConfig = TlsConfig()
    source_ip_address: str = ""
    transport_protocol: str = ""
    query_class: str = ""
    query_name: str = ""
    query_type: str = ""
    recursion_desired: bool = True
    valid_rcodes: tuple[str, ...] = ()
    validate_answer_rrs: RecordRules = RecordRules()
    validate_authority_rrs: RecordRules = RecordRules()
    validate_additional_rrs: RecordRules = RecordRules()


class IcmpModule(msgspec.Struct, frozen=True, kw_only=True):
    """The icmp prober's options."""

    preferred_ip_protocol: str = ""
    ip_protocol_fallback: bool = True
    source_ip_address: str = ""
    payload_size: int = 0
    dont_fragment: bool = False
    ttl: int = 64


class GrpcModule(msgspec.Struct, frozen=True, kw_only=True):
    """The grpc prober's options."""

    service: str = ""
    preferred_ip_protocol: str = ""
    ip_protocol_fallback: bool = True
    tls: bool = False
    tls_config: TlsConfig = TlsConfig()
    metadata: Mapping[str, tuple[str, ...]] = {}


class WebsocketModule(msgspec.Struct, frozen=True, kw_only=True):
    """The websocket prober's options. headers: a plain text stands for one value, as the project's example has it."""

    http_config: ClientConfig = ClientConfig()
    headers: Mapping[str, HeaderValues] = {}
    query_response: tuple[QueryStep, ...] = ()
    preferred_ip_protocol: str = ""
    ip_protocol_fallback: bool = True


class ModuleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A module as it is written."""

    prober: str = ""
    timeout: GoDuration = "0"
    http: HttpModule = HttpModule()
    tcp: TcpModule = TcpModule()
    icmp: IcmpModule = IcmpModule()
    dns: DnsModule = DnsModule()
    grpc: GrpcModule = GrpcModule()
    unix: UnixModule = UnixModule()
    websocket: WebsocketModule = WebsocketModule()


class Module(ModuleOptions, frozen=True, kw_only=True):
    """One module. timeout_s: 0 for none of its own."""

    name: str
    timeout_s: float = 0.0


PROBERS = ("http", "tcp", "icmp", "dns", "grpc", "unix", "websocket")
