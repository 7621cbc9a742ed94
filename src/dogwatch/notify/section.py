"""The `notify:` section: names of destinations, each with a channel and how patiently it is tried."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Seconds
from dogwatch.notify.channel import Channel
from dogwatch.notify.channels import CHANNELS
from dogwatch.notify.templates import TemplateError, compile_template
from dogwatch.words import Language

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_NAME = re.compile(r"[\w.@-]{1,100}")


class Patience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a message is tried before it is a dead letter.

    attempts: that fail because of the message itself; while a destination is down nothing is counted. max_age: in any
    case no longer than this. base: the wait before the first retry is a random time up to this, and doubles. cap: the
    longest wait.
    """

    attempts: Count = 16
    max_age: Seconds = 86400.0
    base: Seconds = 2.0
    cap: Seconds = 3600.0


class SendRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many messages are sent; more wait. max: in any period. per: its length."""

    max: Count
    per: Seconds


class Destination(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where messages go: one key names the channel, `slack: {webhook: …}`.

    concurrency: messages on their way at the same time; 1 keeps their order. timeout: of one attempt. retry: how long
    a message is tried. rate: how many in a period. title, text: Jinja templates in place of the message's own.
    language: in which Dogwatch's own sentences are said; what people and programs wrote stays as it is.
    queue: messages that may wait; of more, the oldest become dead letters. keep: how long what was delivered stays in
    the list. keep_dead: and what was not.
    """

    channel: Channel
    concurrency: Annotated[int, Meta(ge=1, le=100)] = 1
    timeout: Seconds = 10.0
    retry: Patience = Patience()
    rate: SendRate | None = None
    title: str | None = None
    text: str | None = None
    language: Language = "en"
    queue: Count = 10_000
    keep: Seconds = 7 * 86400.0
    keep_dead: Seconds = 30 * 86400.0


def check(destinations: dict[str, Destination]) -> Iterator[Fault]:
    for name, destination in destinations.items():
        if not _NAME.fullmatch(name):
            yield Fault((name,), "a name is at most 100 letters, digits and . @ _ -")
        for path, message, hint in destination.channel.faults():
            yield Fault((name, destination.channel.kind, *path), message, hint)
        yield from _times(name, destination)
        for field in ("title", "text"):
            template = getattr(destination, field)
            if template is None:
                continue
            if not destination.channel.texts:
                yield Fault((name, field), f"a {destination.channel.kind} has no {field}; it sends the data itself")
                continue
            try:
                compile_template(template)
            except TemplateError as error:
                yield Fault((name, field), f"is not a template: {error}")
            except ImportError:
                yield Fault((name, field), "templates need Jinja", "install dogwatch[server]")


def _times(name: str, destination: Destination) -> Iterator[Fault]:
    if not 0 < destination.timeout <= 300:
        yield Fault((name, "timeout"), "must be more than nothing and at most 5m")
    if not destination.retry.base > 0:
        yield Fault((name, "retry", "base"), "must be more than nothing")
    if destination.retry.cap < destination.retry.base:
        yield Fault((name, "retry", "cap"), "is less than base")
    if destination.rate is not None and not destination.rate.per > 0:
        yield Fault((name, "rate", "per"), "must be more than nothing")


NOTIFY: Section[dict[str, Destination]] = Section(
    key="notify",
    type=dict[str, Destination],
    doc="Where messages go: names of destinations, each with a channel.",
    default=dict,
    families={Channel: CHANNELS},
    check=check,
)
