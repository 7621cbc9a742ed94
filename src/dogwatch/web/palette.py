"""What the command palette finds: things by their names, of those that the one who asks may see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated

import msgspec
from litestar import get
from litestar.params import QueryParameter

from dogwatch.engine.values import RunFilter
from dogwatch.web.api.schedules import seen_schedules
from dogwatch.web.context import Ctx, WebContext
from dogwatch.web.contributions import Pages
from dogwatch.web.permissions import KNOWN
from dogwatch.web.view import segment_of

_OF_EACH = 8
_RUNS_LOOKED_AT = 200
Text = Annotated[str, QueryParameter(max_length=200)]


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """kind: in a word, for people. note: what tells it from others of its name."""

    kind: str
    name: str
    path: str
    note: str = ""


def best(names: Iterable[str], words: list[str], limit: int = _OF_EACH) -> list[str]:
    """Return the names that hold every word: those that begin with the first one before the others."""
    found = [name for name in names if all(word in name.lower() for word in words)]
    first = words[0] if words else ""
    return sorted(found, key=lambda name: (not name.lower().startswith(first), len(name), name))[:limit]


def _named(ctx: WebContext, words: list[str]) -> Iterator[Hit]:
    services = ctx.services
    if ctx.may("probe"):
        for name in best((one.name for one in ctx.targets()), words):
            yield Hit(kind=ctx.words.say("target"), name=name, path=f"/targets/{segment_of(name)}")
    if ctx.may("job"):
        for name in best((one.name for one in services.runs.jobs()), words):
            yield Hit(kind=ctx.words.say("job"), name=name, path=f"/jobs/{segment_of(name)}")
    if ctx.may("schedule") and services.schedules is not None:
        for name in best(seen_schedules(ctx), words):
            yield Hit(kind=ctx.words.say("schedule"), name=name, path=f"/schedules/{segment_of(name)}")
    if ctx.may("host"):
        for name in best((one.name for one in services.hosts.hosts()), words):
            yield Hit(kind=ctx.words.say("host"), name=name, path=f"/hosts/{segment_of(name)}")


async def _incidents(ctx: WebContext, words: list[str]) -> list[Hit]:
    """Return incidents by their number, cause or words, those that are open first."""
    if ctx.services.incidents is None or not ctx.may("incident"):
        return []
    page = await ctx.services.incidents.find(limit=_RUNS_LOOKED_AT)
    sees = ctx.rights.filter("incident")
    found = [
        one
        for one in page.items
        if sees(one.labels)
        and all(word in f"#{one.number} {one.root} {one.summary} {one.state}".lower() for word in words)
    ]
    found.sort(key=lambda one: one.ended_s is not None)
    return [
        Hit(
            kind=ctx.words.say("incident"),
            name=f"#{one.number} {one.root}",
            note=ctx.words.word(one.state),
            path=f"/incidents/{one.number}",
        )
        for one in found[:_OF_EACH]
    ]


async def _runs(ctx: WebContext, words: list[str]) -> list[Hit]:
    """Return runs by a beginning of their id, or by their job, the newest first."""
    if not ctx.may("run"):
        return []
    page = await ctx.services.runs.find(RunFilter(limit=_RUNS_LOOKED_AT))
    hits = (
        Hit(
            kind=ctx.words.say("run"),
            name=run.run_id,
            note=f"{run.job} {ctx.words.word(run.state)}",
            path=f"/runs/{segment_of(run.run_id)}",
        )
        for run in page.items
        if all(word in f"{run.run_id} {run.job} {run.state}".lower() for word in words)
    )
    return list(islice(hits, _OF_EACH))


@get("/fragments/palette", opt=KNOWN, include_in_schema=False)
async def palette_fragment(ctx: Ctx, q: Text = "") -> list[Hit]:
    words = q.lower().split()
    return [*_named(ctx, words), *await _incidents(ctx, words), *await _runs(ctx, words)] if words else []


PALETTE = Pages(handlers=(palette_fragment,))
