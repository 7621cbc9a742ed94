"""Which incidents somebody wants to see: the filter that the page and the API share."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from dogwatch.access.permissions import everything
from dogwatch.rules.incident import RANK, Incident
from dogwatch.rules.part import Incidents
from dogwatch.web.context import WebContext

SHOWN = 50
_READ_AT_ONCE = 200
# Of a list with a filter so many are looked through for one page; the next page goes on from there.
_LOOKED_AT = 5000
STATES = ("active", "open", "acknowledged", "resolved", "merged", "all")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of the list, as its address has it. q: words, and `label=value`."""

    state: str = "active"
    severity: str = ""
    q: str = ""
    before: int | None = None

    def __bool__(self) -> bool:
        return self.state != "active" or bool(self.severity or self.q)

    def query(self, **changes: Any) -> str:
        one = msgspec.structs.replace(self, **changes)
        pairs = [("state", one.state), ("severity", one.severity), ("q", one.q), ("before", one.before or "")]
        return urlencode([(key, value) for key, value in pairs if value], errors="replace")

    @property
    def kept_state(self) -> str:
        """Return the state as the database looks for it, "" for all."""
        return "" if self.state == "all" else self.state

    def matches(self, one: Incident) -> bool:
        if self.severity and RANK[one.severity] < RANK[self.severity]:
            return False
        text = f"#{one.number} {one.root} {one.rule} {one.summary} {one.reason} {one.acked_by}".lower()
        labels = {f"{name}={value}".lower() for name, value in one.labels.items()}
        return all(word in labels or word in text for word in self.q.lower().split())


def asked_for(state: str, severity: str, q: str, before: int | None) -> Asked:
    """Return the filter; a word that is none of the known ones counts as not given."""
    return Asked(
        state=state if state in STATES else "active",
        severity=severity if severity in RANK else "",
        q=q,
        before=before,
    )


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A page. older: the number that the next one comes before, None at the end. total: of all pages; None behind the
    first, and where each incident has to be looked at to know it.
    """

    items: list[Incident]
    older: int | None
    total: int | None


async def seen_incidents(ctx: WebContext, incidents: Incidents, asked: Asked, limit: int = SHOWN) -> Found:
    """Return a page of the incidents that the one who asks may see."""
    sees = ctx.rights.filter("incident")
    whole = sees is everything and not (asked.severity or asked.q)
    found: list[Incident] = []
    before, looked_at, total = asked.before, 0, None
    while looked_at < _LOOKED_AT:
        at_once = limit if whole else _READ_AT_ONCE
        count = whole and asked.before is None and not looked_at
        page = await incidents.find(state=asked.kept_state, limit=at_once, before=before, count=count)
        total = page.total if page.total is not None else total
        for one in page.items:
            if sees(one.labels) and asked.matches(one):
                if len(found) == limit:
                    return Found(items=found, older=found[-1].number, total=total)
                found.append(one)
        if not page.cursor:
            return Found(items=found, older=None, total=total)
        before = int(page.cursor)
        looked_at += len(page.items)
        if len(found) == limit:
            break
    return Found(items=found, older=before, total=total)
