"""The `hooks:` section: endpoints that others call, and the jobs they start."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dogwatch.config.section import Fault, Section
from dogwatch.core.units import Bytes, Expression, Seconds
from dogwatch.expressions.conditions import ConditionError, compile_condition
from dogwatch.expressions.formula import compile_formula
from dogwatch.webhooks.scheme import Scheme
from dogwatch.webhooks.schemes import SCHEMES

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST = 64 * 1024 * 1024
# What filters, parameters and dedupe read.
VARIABLES: Mapping[str, str] = {
    "payload": "dyn",
    "headers": "map",
    "query": "map",
    "event": "string",
    "text": "string",
    "remote": "string",
}


class HookRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many deliveries are taken; more are answered 429. max: in any period. per: its length."""

    max: Count
    per: Seconds


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address `/hooks/<name>` that starts a job; one key names the signature, `github: {secrets: […]}`.

    name: the end of its address. job: which. alerts: in place of a job, alertmanager or falco, whose alerts open and
    resolve incidents. filter: a condition over payload, headers, query, event, text and remote;
    what does not hold is kept as ignored. parameters: of the run, name → CEL over the same. dedupe: CEL for what the
    sender calls a delivery, in place of its own header. tolerance: how far a signed timestamp may be off. remember: how
    long ids and signatures are known again. max_size: of a body. rate: how many in a period. allowed: networks that may
    call, `192.0.2.0/24`; empty for all. labels: of the runs. priority: of the runs; absent for the job's own. paused:
    answer 503, so that senders try again later. keep, keep_max: how long and how many deliveries are kept.
    """

    name: str
    job: str = ""
    alerts: Literal["", "alertmanager", "falco"] = ""
    scheme: Scheme
    filter: Expression | None = None
    parameters: Mapping[str, Expression] = {}
    dedupe: Expression | None = None
    tolerance: Seconds = 300.0
    remember: Seconds = 7 * 86400.0
    max_size: Bytes = 1024 * 1024
    rate: HookRate | None = None
    allowed: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    priority: int | None = None
    paused: bool = False
    keep: Seconds = 30 * 86400.0
    keep_max: Count = 1000


def check(endpoints: Sequence[Endpoint]) -> Iterator[Fault]:
    names: dict[str, int] = {}
    for at, endpoint in enumerate(endpoints):
        if not _NAME.fullmatch(endpoint.name):
            yield Fault((at, "name"), "a name is at most 100 letters, digits and . _ -; it is part of the address")
        if endpoint.name in names:
            yield Fault((at, "name"), f"'{endpoint.name}' is used twice, first by hooks[{names[endpoint.name]}]")
        names.setdefault(endpoint.name, at)
        if not endpoint.job.strip() and not endpoint.alerts:
            yield Fault((at, "job"), "names no job", "or write alerts: alertmanager, where it is told of alerts")
        if endpoint.job and endpoint.alerts:
            yield Fault((at, "alerts"), "stands beside job", "write two endpoints")
        if endpoint.alerts and endpoint.parameters:
            yield Fault((at, "parameters"), "are of a job, and alerts start none")
        for path, message, hint in endpoint.scheme.faults():
            yield Fault((at, endpoint.scheme.kind, *path), message, hint)
        yield from _expressions(at, endpoint)
        yield from _limits(at, endpoint)


def _expressions(at: int, endpoint: Endpoint) -> Iterator[Fault]:
    if endpoint.filter is not None:
        try:
            compile_condition(endpoint.filter, VARIABLES)
        except ConditionError as error:
            yield Fault((at, "filter"), _told(error), error.hint)
    values = [(("parameters", name), text) for name, text in endpoint.parameters.items()]
    if endpoint.dedupe is not None:
        values.append((("dedupe",), endpoint.dedupe))  # type: ignore[arg-type]
    for path, text in values:
        try:
            compile_formula(text, VARIABLES)
        except ConditionError as error:
            yield Fault((at, *path), _told(error), error.hint)


def _told(error: ConditionError) -> str:
    return f"{error} (at character {error.position + 1})" if error.position else str(error)


def _limits(at: int, endpoint: Endpoint) -> Iterator[Fault]:
    if not 1 <= endpoint.max_size <= _LARGEST:
        yield Fault((at, "max_size"), "must be from 1 byte to 64MiB")
    if not 1 <= endpoint.tolerance <= 86400:
        yield Fault((at, "tolerance"), "must be from 1s to 1d")
    if endpoint.remember < 2 * endpoint.tolerance:
        yield Fault((at, "remember"), "must be at least twice the tolerance")
    if endpoint.rate is not None and not endpoint.rate.per > 0:
        yield Fault((at, "rate", "per"), "must be more than nothing")
    for index, network in enumerate(endpoint.allowed):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield Fault((at, "allowed", index), f"is not a network: {error}")


HOOKS: Section[list[Endpoint]] = Section(
    key="hooks",
    type=list[Endpoint],
    doc="Addresses that others call, /hooks/<name>: how they sign, what is let through, which job it starts.",
    default=list,
    families={Scheme: SCHEMES},
    check=check,
)
