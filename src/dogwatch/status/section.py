"""The `status_page:` section: what anybody may see without a login. Off until it names something."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Seconds

_DAY_S = 86_400.0


class StatusGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the status page.

    title: shown above it. targets: names with * and ?. groups: of targets, as the probes name them. names: target →
    what the public calls it; default: its name. text: shown below the title.
    """

    title: str
    targets: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    names: Mapping[str, str] = {}
    text: str = ""

    def takes(self, name: str, group: str) -> bool:
        return bool(group and group in self.groups) or any(
            fnmatch.fnmatchcase(name, pattern) for pattern in self.targets
        )


class Subscriptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may ask to be told. email, webhook: the destination of `notify` whose mail server, sender and signing secrets
    are used; its own recipients get nothing of it; "" for none. most: subscribers at most.
    """

    email: str = ""
    webhook: str = ""
    most: Annotated[int, Meta(ge=1, le=100_000)] = 1000

    def destination(self, kind: str) -> str:
        return {"email": self.email, "webhook": self.webhook}.get(kind, "")


class StatusOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page at `/status` for everybody. Of targets it shows the name, the status and the availability, of incidents
    what they affect and when; comments that begin with `status:` are told in public, nothing else is.

    title: in its head. text: below it. url: where the public reaches it, `https://status.example`; needed for
    subscriptions. groups: what it shows; none: there is no page. days: of history. incidents: for how long incidents
    that are over are shown.
    """

    title: str = "Status"
    text: str = ""
    url: str = ""
    groups: tuple[StatusGroup, ...] = ()
    days: Annotated[int, Meta(ge=1, le=365)] = 90
    incidents: Seconds = 14 * _DAY_S
    subscriptions: Subscriptions = Subscriptions()


def _check(options: StatusOptions) -> Iterator[Fault]:
    for at, group in enumerate(options.groups):
        if not group.title.strip():
            yield Fault(("groups", at, "title"), "must not be empty")
        if not group.targets and not group.groups:
            yield Fault(("groups", at), "shows nothing", hint="give targets or groups")
    wanted = options.subscriptions
    if (wanted.email or wanted.webhook) and not options.url:
        yield Fault(("url",), "is needed for subscriptions", hint="their links lead there: https://status.example")
    if options.url:
        parts = urlsplit(options.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") or parts.query:
            yield Fault(("url",), f"'{options.url}' is not an address such as https://status.example")


STATUS_PAGE: Section[StatusOptions] = Section(
    key="status_page",
    type=StatusOptions,
    doc="A status page for everybody, without a login; off until it names what it shows.",
    default=StatusOptions,
    check=_check,
)
