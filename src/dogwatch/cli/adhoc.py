"""Turns what a person types after `probe run` into a kind and its options."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import msgspec

from dogwatch.core.component import Registry, nearest
from dogwatch.errors import UsageError
from dogwatch.probes.probe import Probe


class AdHoc(msgspec.Struct, frozen=True):
    """A probe to run once. options: as they would stand in the configuration."""

    text: str
    kind: str
    options: Mapping[str, object]


def is_ad_hoc(text: str) -> bool:
    """Return whether the text names a target itself (a URL, `kind://…`, `host:port`), not one that is configured."""
    if "://" in text:
        return True
    host, colon, port = text.rpartition(":")
    return bool(colon and host and port.isdigit())


def parse(text: str, registry: Registry[Probe]) -> AdHoc:
    """Return the probe for `https://…`, `tcp://db:5432`, `icmp://host`, `dns://server/name?type=MX`, `host:port`.

    What follows `?` in other than URL kinds sets options.
    Raises: UsageError.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "tcp", text
    kind = _schemes(registry).get(scheme)
    if kind is None:
        raise UsageError(
            f"'{text}': unknown kind of target '{scheme}'", hint=nearest(scheme, sorted(_schemes(registry)))
        )
    component = registry.get(kind)
    if not component.short:
        raise UsageError(f"'{text}': a {kind} probe cannot be written in one line", hint="configure it instead")
    if component.short == "url":
        return AdHoc(text, kind, {"url": text})
    parts = urlsplit(f"x://{rest}")
    plain = rest.partition("?")[0].rstrip("/")
    options: dict[str, object] = {component.short: plain}
    if kind == "dns" and parts.path.strip("/"):
        options = {component.short: parts.path.strip("/"), "server": parts.netloc}
    options.update(parse_qsl(parts.query))
    return AdHoc(text, kind, options)


def _schemes(registry: Registry[Probe]) -> dict[str, str]:
    return {scheme: component.kind for component in registry for scheme in (component.kind, *component.schemes)}
