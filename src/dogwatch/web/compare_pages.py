"""The page that lays several targets and hosts over one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from dogwatch.core.units import format_size
from dogwatch.errors import UsageError
from dogwatch.store.protocol import Point
from dogwatch.web import hostview, listing
from dogwatch.web.context import PERIODS_S, Ctx, WebContext
from dogwatch.web.contributions import Pages
from dogwatch.web.permissions import may
from dogwatch.web.rendering import html_page
from dogwatch.web.view import segment_of
from dogwatch.words import Phrase

MOST = 8
_OFFERED = 500
# What of a target can be drawn, by the field of a bucket of its history.
VALUES = {
    "mean_s": Phrase("Mean"),
    "p50_s": "p50",
    "p95_s": "p95",
    "p99_s": "p99",
    "max_s": Phrase("Slowest"),
}
Of = Annotated[list[str] | None, QueryParameter(max_items=100, description="target:NAME or host:NAME")]
Text = Annotated[str, QueryParameter(max_length=500)]


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """One of those that are compared. without: the address of the page without it. of: as the address names it."""

    kind: str
    name: str
    of: str
    href: str
    without: str
    source: str
    overall: Point | None = None
    ratio: float | None = None
    figures: Sequence[str] = ()


class HostChart(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of all hosts. sources: (host, address of its series)."""

    title: str
    unit: str
    sources: Sequence[tuple[str, str]]


def _asked(of: Sequence[str], add: str) -> list[str]:
    """Return what is compared, each once; `add` is what somebody typed: a name, or `target:NAME`, `host:NAME`."""
    return list(dict.fromkeys(one.strip() for one in (*of, add) if one.strip()))


def _found(ctx: WebContext, one: str) -> tuple[str, str] | None:
    kind, _, name = one.partition(":")
    targets = {view.name for view in ctx.targets()} if ctx.may("probe") else set()
    hosts = {host.name for host in ctx.services.hosts.hosts()} if ctx.may("host") else set()
    if kind == "target" and name in targets:
        return kind, name
    if kind == "host" and name in hosts:
        return kind, name
    if one in targets:
        return "target", one
    return ("host", one) if one in hosts else None


def _address(of: Sequence[str], period: str, value: str) -> str:
    pairs = [*(("of", one) for one in of), ("range", period), ("value", value)]
    return "/compare?" + urlencode(pairs, errors="replace")


async def _target(ctx: WebContext, name: str, period: str) -> dict[str, Any]:
    available = (await ctx.availability([name], period)).get(name) if period != "1h" else None
    return {
        "href": f"/targets/{segment_of(name)}",
        "source": f"/api/v1/targets/{segment_of(name)}/history",
        "overall": await ctx.overall(name, period),
        "ratio": available.ratio if available is not None else None,
    }


def _host(ctx: WebContext, name: str) -> dict[str, Any]:
    host = ctx.services.hosts.host(name)
    share = ["–" if one is None else f"{one * 100:.0f} %" for one in (host.cpu_ratio, host.memory_used_ratio)]
    load = "–" if host.load1 is None else f"{host.load1:.2f}"
    rates = [
        "–" if one is None else f"{format_size(one)}/s"
        for one in (host.network_receive_bytes_per_s, host.network_transmit_bytes_per_s)
    ]
    return {
        "href": f"/hosts/{segment_of(name)}",
        "source": f"/api/v1/hosts/{segment_of(name)}/series",
        "figures": [*share, load, *rates],
    }


async def _values(ctx: WebContext, of: Sequence[str], add: str, period: str, value: str) -> dict[str, Any]:
    if period not in PERIODS_S or value not in VALUES:
        raise UsageError(f"range is one of {', '.join(PERIODS_S)}, value one of {', '.join(VALUES)}")
    found = {one: _found(ctx, one) for one in _asked(of, add)}
    unknown = [one for one, pair in found.items() if pair is None]
    pairs = list(dict.fromkeys(pair for pair in found.values() if pair is not None))[:MOST]
    names = [f"{kind}:{name}" for kind, name in pairs]
    chosen = [
        Chosen(
            kind=kind,
            name=name,
            of=f"{kind}:{name}",
            without=_address([one for one in names if one != f"{kind}:{name}"], period, value),
            **(await _target(ctx, name, period) if kind == "target" else _host(ctx, name)),
        )
        for kind, name in pairs
    ]
    targets, hosts = ([one for one in chosen if one.kind == kind] for kind in ("target", "host"))
    return {
        "chosen": chosen,
        "targets": targets,
        "hosts": hosts,
        "unknown": unknown,
        "full": len(pairs) >= MOST,
        "most": MOST,
        "period": period,
        "value": value,
        "values": VALUES,
        "again": urlencode([("of", one) for one in names] + [("value", value)], errors="replace"),
        "sources": [(one.name, one.source) for one in targets],
        "charts": [
            HostChart(
                title=title,
                unit=unit,
                sources=[(one.name, f"{one.source}?metric={metric}") for one in hosts],
            )
            for title, metric, unit in hostview.COMPARED
        ]
        if hosts
        else (),
    }


@get("/compare", opt=may("probe"), include_in_schema=False)
async def compare_page(
    ctx: Ctx,
    of: Of = None,
    add: Text = "",
    range_: Annotated[str, QueryParameter(name="range", max_length=10)] = "24h",
    value: Annotated[str, QueryParameter(max_length=10)] = "mean_s",
) -> Response[bytes]:
    mistake = ""
    try:
        values = await _values(ctx, of or (), add, range_, value)
    except UsageError as error:
        mistake = str(error)
        values = await _values(ctx, of or (), add, "24h", "mean_s")
    offered = [f"target:{view.name}" for view in listing.troubled(ctx.targets())[:50]] if ctx.may("probe") else []
    offered += [f"target:{view.name}" for view in ctx.targets()[:_OFFERED]] if ctx.may("probe") else []
    offered += [f"host:{host.name}" for host in ctx.services.hosts.hosts()[:_OFFERED]] if ctx.may("host") else []
    taken = {one.of for one in values["chosen"]}
    values["offered"] = [one for one in dict.fromkeys(offered) if one not in taken]
    values["mistake"] = mistake
    return html_page(ctx, "compare.html", values, here="/")


@get("/fragments/compare", opt=may("probe"), include_in_schema=False)
async def compare_fragment(
    ctx: Ctx,
    of: Of = None,
    range_: Annotated[str, QueryParameter(name="range", max_length=10)] = "24h",
    value: Annotated[str, QueryParameter(max_length=10)] = "mean_s",
) -> Response[bytes]:
    return html_page(ctx, "compare_now.html", await _values(ctx, of or (), "", range_, value))


COMPARE = Pages(handlers=(compare_page, compare_fragment))
