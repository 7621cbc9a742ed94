"""Turns what a person types after `probe run` into a kind and its options."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

import msgspec

from dogwatch.core.component import Registry, nearest
from dogwatch.errors import UsageError
from dogwatch.probes.probe import Probe

_PASSWORD = re.compile(r"(://[^/?#:@]*):[^/?#]*@")


class AdHoc(msgspec.Struct, frozen=True):
    """A probe to run once. options: as they would stand in the configuration. typed: by dotted name, as typed."""

    text: str
    kind: str
    options: Mapping[str, object]
    typed: Mapping[str, str] = {}

    @property
    def shown(self) -> str:
        """The text without the password of a URL: results are kept in logs and tickets."""
        return _PASSWORD.sub(r"\1:***@", self.text)


def is_ad_hoc(text: str) -> bool:
    """Return whether the text names a target itself (a URL, `kind://…`, `host:port`), not one that is configured."""
    if "://" in text or _is_v6(text):
        return True
    host, colon, port = text.rpartition(":")
    return bool(colon and host and port.isdigit())


def parse(text: str, registry: Registry[Probe]) -> AdHoc:
    """Return the probe for `https://…`, `tcp://db:5432`, `icmp://host`, `dns://server/name?type=MX`, `host:port`…

    What follows `?` in other than URL kinds sets options.
    Raises: UsageError.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        if _is_v6(text):
            raise UsageError(f"'{text}' says no port", hint=f"write [{text}]:443, or icmp://[{text}]")
        scheme, rest = "tcp", text
    known = _schemes(registry)
    kind = known.get(scheme.lower())
    if kind is None:
        raise UsageError(f"'{text}': unknown kind of target '{scheme}'", hint=nearest(scheme, sorted(known)))
    component = registry.get(kind)
    if not component.short or kind == "heartbeat":
        raise UsageError(f"'{text}': a {kind} probe cannot be run from here", hint="configure it instead")
    if not rest:
        raise UsageError(f"'{text}' names nothing to ask", hint=f"write it as {scheme}://address")
    if component.short == "url":
        return AdHoc(text, kind, {"url": text})
    if kind == "exec":
        return AdHoc(text, kind, {"args": _words(text, rest)})
    plain, _, query = rest.partition("?")
    split = _SPLIT.get(kind)
    options = split(scheme.lower(), plain) if split else {component.short: plain.rstrip("/")}
    return AdHoc(text, kind, options, dict(parse_qsl(query, keep_blank_values=True)))


def _is_v6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True


def _words(text: str, rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise UsageError(f"'{text}' is not a command line: {error}", hint="quote it: 'exec://date +%s'") from None


def _dns(_scheme: str, plain: str) -> dict[str, object]:
    """`server/name`, or `name` alone, which the system's own server is asked for."""
    server, slash, name = plain.strip("/").partition("/")
    return {"name": name, "server": server} if slash else {"name": server}


def _grpc(scheme: str, plain: str) -> dict[str, object]:
    """`host:port/service`; grpcs has TLS."""
    host, _, service = plain.rstrip("/").partition("/")
    options: dict[str, object] = {"host": host}
    if service:
        options["service"] = service
    if scheme == "grpcs":
        options["tls"] = {}
    return options


_SPLIT: Mapping[str, Callable[[str, str], dict[str, object]]] = {"dns": _dns, "grpc": _grpc}


def _schemes(registry: Registry[Probe]) -> dict[str, str]:
    return {scheme: component.kind for component in registry for scheme in (component.kind, *component.schemes)}
