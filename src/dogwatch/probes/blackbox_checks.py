"""Checks of an http module beside what the probe demands, and what the probers' translations share."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dogwatch.expressions.conditions import ConditionFailure, compile_condition
from dogwatch.probes.blackbox_format import HeaderMatch, TlsConfig
from dogwatch.probes.blackbox_reader import TLS_VERSIONS
from dogwatch.probes.blackbox_secrets import MemoryFile, MemoryFiles, either
from dogwatch.probes.patterns import matches

Verdict = Callable[[Mapping[str, Any]], str]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must hold. kind: regex, cel or body. wants: the values it reads. complaint: why not, or ""."""

    kind: str
    wants: frozenset[str]
    complaint: Verdict


def header_check(rule: HeaderMatch, *, fails_if: bool) -> Check:
    """Return the check of a header: of several of one name, one that matches is enough."""
    name = rule.header.lower()

    def complaint(values: Mapping[str, Any]) -> str:
        found = values.get("header_list", {}).get(name, ())
        if not found:
            return "" if rule.allow_missing else f"header {rule.header} is missing"
        if any(matches(rule.regexp, value) for value in found) is not fails_if:
            return ""
        return f"header {rule.header} {'matches' if fails_if else 'does not match'} '{rule.regexp}'"

    return Check(kind="regex", wants=frozenset(("header_list",)), complaint=complaint)


def body_check(expression: str, *, fails_if: bool) -> Check:
    def complaint(values: Mapping[str, Any]) -> str:
        if matches(expression, values.get("body", "")) is not fails_if:
            return ""
        return f"the body {'matches' if fails_if else 'does not match'} '{expression}'"

    return Check(kind="regex", wants=frozenset(("body",)), complaint=complaint)


def cel_check(text: str, *, fails_if: bool) -> Check:
    condition = compile_condition(text, {"body": "dyn"})

    def complaint(values: Mapping[str, Any]) -> str:
        if "json" not in values or values["json"] is None:
            return "the body is not JSON"
        try:
            if condition.test({"body": values["json"]}) is not fails_if:
                return ""
        except ConditionFailure as failure:
            return str(failure)
        return f"the body's JSON {'matches' if fails_if else 'does not match'} '{text}'"

    return Check(kind="cel", wants=frozenset(("json",)), complaint=complaint)


def compression_check(wanted: str) -> Check:
    def complaint(values: Mapping[str, Any]) -> str:
        got = values.get("headers", {}).get("content-encoding", "").strip().lower().removeprefix("x-")
        return "" if got == wanted else f"the body is not compressed with {wanted}"

    return Check(kind="body", wants=frozenset(("headers",)), complaint=complaint)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def tls_options(config: TlsConfig, memory: MemoryFiles, held: list[MemoryFile], hostname: str = "") -> dict[str, Any]:
    """Return a tls_config as our kinds have it; the files in memory that it needs are added to `held`.

    Raises: ConfigError.
    """
    options: dict[str, Any] = {"verify": not config.insecure_skip_verify}
    for what in ("ca", "cert", "key"):
        text, reference = getattr(config, what), getattr(config, f"{what}_ref")
        if text or reference:
            file = memory.file(either(text, "", reference))
            held.append(file)
            options[f"{what}_file"] = file.path
        elif getattr(config, f"{what}_file"):
            options[f"{what}_file"] = getattr(config, f"{what}_file")
    if config.server_name or hostname:
        options["server_name"] = config.server_name or hostname
    for name in ("min_version", "max_version"):
        if getattr(config, name):
            options[name] = TLS_VERSIONS[getattr(config, name)]
    return options
