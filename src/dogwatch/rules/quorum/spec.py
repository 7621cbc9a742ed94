"""The `locations` section: what this place is called, to whom it reports, and what several decide together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Seconds, Secret
from dogwatch.notify.message import Severity

MAX_LOCATIONS = 100


class Center(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where this place reports to.

    url: of the other Dogwatch. token: of a user there who may do `location:create`; "" where the certificate stands for
    one (`access.certificates` there). ca_file: further trust. cert_file, key_file: our own certificate and its key; ""
    where the certificate's file holds it.
    """

    url: str
    token: Secret = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Quorum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target that several places watch under one name.

    target: its name. locations: those that are asked, this one by its own name. down: how many of them must say that it
    is down. severity, labels: of its incident.
    """

    target: str
    locations: tuple[str, ...]
    down: Annotated[int, Meta(ge=1, le=MAX_LOCATIONS)]
    severity: Severity = "critical"
    labels: Mapping[str, str] = {}


class Locations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This place among others.

    name: of this place. report_to: who is told what it sees. targets: names with * and ? that are told of; none for
    all. every: how often. silent: how long a place may say nothing until what it said is not believed any more. quorum:
    targets that are down when enough places say so.
    """

    name: str = ""
    report_to: tuple[Center, ...] = ()
    targets: tuple[str, ...] = ()
    every: Seconds = 10.0
    silent: Seconds = 60.0
    quorum: tuple[Quorum, ...] = ()


def check(options: Locations) -> Iterator[Fault]:
    if (options.report_to or options.quorum) and not options.name.strip():
        yield Fault(("name",), "is empty: others could not tell whose view it is")
    if not 1 <= options.every <= 3600:
        yield Fault(("every",), "must be from 1s to 1h")
    if options.silent < 2 * options.every:
        yield Fault(("silent",), "must be at least twice every: one late report would be silence")
    for at, center in enumerate(options.report_to):
        parts = urlsplit(center.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield Fault(("report_to", at, "url"), "is not an http or https address")
        if not center.token and not center.cert_file:
            yield Fault(("report_to", at, "token"), "is empty, and there is no certificate")
        if center.key_file and not center.cert_file:
            yield Fault(("report_to", at, "key_file"), "means nothing without 'cert_file'")
    seen: set[str] = set()
    for at, one in enumerate(options.quorum):
        if one.target in seen:
            yield Fault(("quorum", at, "target"), f"'{one.target}' is decided twice")
        seen.add(one.target)
        if len(set(one.locations)) != len(one.locations) or len(one.locations) > MAX_LOCATIONS:
            yield Fault(("quorum", at, "locations"), "names a place twice, or too many")
        if one.down > len(one.locations):
            yield Fault(("quorum", at, "down"), f"is more than its {len(one.locations)} locations")


LOCATIONS: Section[Locations] = Section(
    key="locations",
    type=Locations,
    doc="This place among others that watch the same, and what they decide together.",
    default=Locations,
    check=check,
)
