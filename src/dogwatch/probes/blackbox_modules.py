"""blackbox_exporter's modules, and the `modules` section: nothing in them is silently ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from dogwatch.config.section import Fault, Section
from dogwatch.core.component import nearest
from dogwatch.probes.blackbox_format import PROBERS, Module, ModuleOptions
from dogwatch.probes.blackbox_reader import Place, Reader, parse_go_duration
from dogwatch.probes.blackbox_rules import faults_of

__all__ = ["MODULES", "Module", "Place", "check_modules", "default_modules", "inline_of", "read_module"]

_FILE_KEY = "file"


def read_module(name: str, value: Any) -> tuple[Module | None, list[Fault]]:
    """Return a module, or every mistake in it; paths are below the module."""
    if not isinstance(value, Mapping):
        return None, [Fault((), "a module is a mapping with a prober")]
    prober = value.get("prober") or ""
    faults: list[Fault] = []
    if prober not in PROBERS:
        hint = nearest(str(prober), list(PROBERS)) if prober else "one of " + ", ".join(PROBERS)
        faults = [Fault(("prober",), f"unknown prober '{prober}'" if prober else "the prober is missing", hint)]
    reader = Reader()
    options: ModuleOptions = reader.struct(ModuleOptions, value, ())
    faults += reader.faults
    if not faults:
        # Rules between options make sense only once every option is what it should be.
        faults += faults_of(options)
        if isinstance(value.get("dns"), Mapping) and not options.dns.query_name:
            faults.append(Fault(("dns", "query_name"), "the name to ask for is missing"))
    if faults:
        return None, faults
    written = {field: getattr(options, field) for field in ModuleOptions.__struct_fields__}
    return Module(name=name, timeout_s=max(0.0, parse_go_duration(options.timeout)), **written), []


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
http_2xx: {prober: http, http: {preferred_ip_protocol: ip4}}
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
ssh_banner_extract:
  prober: tcp
  timeout: 5s
  tcp:
    query_response:
    - expect: "^SSH-2.0-([^ -]+)(?: (.*))?$"
      labels: [{name: ssh_version, value: "${1}"}, {name: ssh_comments, value: "${2}"}]
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
websocket: {prober: websocket}
http_3xx:
  prober: http
  http: {preferred_ip_protocol: ip4, enable_http3: true, enable_http2: false, valid_http_versions: [HTTP/3.0]}
postgresql:
  prober: tcp
  tcp: {query_response: [{send: !!binary AAAACATSFi8=}, {expect_bytes: S}, {starttls: true}]}
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
