"""What templates are given: rows, groups, host tiles, the present trouble; and the templates themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec

from dogwatch.config.status import ReloadRecord
from dogwatch.core.units import format_size
from dogwatch.core.values import Status
from dogwatch.hosts.view import CollectorView
from dogwatch.probes.view import TargetView
from dogwatch.rules.incident import RANK, Incident
from dogwatch.rules.reasons import reason_of
from dogwatch.rules.spec import DOWN_RULE
from dogwatch.store.database import MOST_COUNTED
from dogwatch.store.protocol import Availability
from dogwatch.web import bars, hostview, listing
from dogwatch.web.api.incidents import as_seen, seen_counts
from dogwatch.web.assets import Assets
from dogwatch.web.badges import percent
from dogwatch.web.context import AVAILABILITY_PERIODS, WebContext
from dogwatch.web.run_view import icon_of, shown_state
from dogwatch.words import LANGUAGES, SOURCE, Phrase, Words, lasting, spelled, words

if TYPE_CHECKING:
    import jinja2

GROUP_ROWS = 50
_ROWS_AT_FIRST = 120
# Of a watch of thousands the first page is a way in, not a list.
_ROWS_OF_MANY = 60
_MANY = 5000
_GROUPS_SHOWN = 100
_WRONG_SHOWN = 12
_PHASES = (
    ("resolve", Phrase("Look up")),
    ("connect", Phrase("Connect")),
    ("tls", "TLS"),
    ("first_byte", Phrase("First byte")),
    ("transfer", Phrase("Transfer")),
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One target on the board. key: its element's id, of characters that ids may have. next_at_s: of its next attempt,
    wall clock.
    """

    view: TargetView
    key: str
    next_at_s: float | None
    bars: bars.Bars
    availability: dict[str, Availability]


class GroupPart(msgspec.Struct, frozen=True, kw_only=True):
    """A group and those of its rows that are shown. cursor: of the next rows, "" at the end."""

    name: str
    counts: Mapping[str, int]
    status: str
    total: int
    rows: Sequence[Row]
    cursor: str
    q: str
    lazy: bool = False

    @property
    def key(self) -> str:
        return key(self.name)

    @property
    def more(self) -> str:
        """Return the address of the next rows."""
        return "/fragments/group?" + urlencode({"group": self.name, "q": self.q, "cursor": self.cursor})


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """total: targets there are; matching: those the filter lets through. earlier, later: groups on other pages."""

    groups: Sequence[GroupPart]
    total: int
    matching: int
    start: int
    earlier: int | None
    later: int | None


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """What is the matter now. unknown: targets of which it is soon known. wrong: targets that no incident tells of.
    reload: the newest reload, if it failed. messages: of incidents, by number: what the target at fault said last.
    """

    counts: Mapping[str, int]
    total: int
    unknown: int
    wrong: Sequence[TargetView]
    wrong_more: int
    reload: ReloadRecord | None
    store_trouble: str
    findings: Sequence[FindingText]
    collectors: Sequence[tuple[str, CollectorView]]
    incidents: Sequence[Incident] = ()
    incidents_more: int = 0
    messages: Mapping[int, str] = {}

    @property
    def verdict(self) -> tuple[str, str, str]:
        """Return the whole in a tone, a status for the icon, and a few words."""
        up, down, degraded = (self.counts[status] for status in ("up", "down", "degraded"))
        if down:
            return "bad", "down", Phrase("{0} down", count(down))
        if degraded:
            return "warn", "degraded", Phrase("{0} degraded", count(degraded))
        # A few new ones among many that are well do not make the whole unknown.
        if self.unknown and self.unknown * 10 >= up:
            done = Phrase("First checks: {0} of {1} are well", count(up), count(up + self.unknown))
            return "wait", "pending", done if up else Phrase("First checks are under way")
        if up:
            return "good", "up", Phrase("All is well")
        return "wait", "pending", Phrase("Nothing is known yet")


class FindingText(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of the self-watch in words; evidence: one line each."""

    symptom: str
    cause: str
    since_s: float
    evidence: Sequence[str]


def count(number: int) -> str:
    """Return a number with narrow spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def in_all(total: int) -> Phrase:
    """Return how many a list holds on all its pages, as far as the database counts."""
    return Phrase("{0} or more in all", count(total)) if total >= MOST_COUNTED else Phrase("{0} in all", count(total))


def segment_of(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="", errors="replace")


def key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]


async def rows(ctx: WebContext, views: Sequence[TargetView], slots: int = 0) -> list[Row]:
    slots = slots or ctx.options.bars
    names = [one.name for one in views]
    recent = await ctx.services.store.recent(names, limit=slots) if names else {}
    now_s = ctx.services.clock.now_s()
    periods = {period: await ctx.availability(names, period) for period in AVAILABILITY_PERIODS}
    return [
        Row(
            view=one,
            key=key(one.name),
            next_at_s=None if one.next_s is None else now_s + one.next_s,
            bars=bars.draw(recent.get(one.name, ()), slots),
            availability={period: found[one.name] for period, found in periods.items() if one.name in found},
        )
        for one in views
    ]


async def board(ctx: WebContext, wanted: listing.Filter, q: str, start: int) -> Board:
    """Return the groups with rows for the first of them; further rows are fetched when they are asked for."""
    summary = ctx.summary()
    views: Sequence[TargetView] = summary.views
    matching = [one for one in views if wanted.matches(one)] if wanted else views
    groups = listing.grouped(matching) if wanted else list(summary.groups.values())
    left = _ROWS_OF_MANY if len(matching) >= _MANY else _ROWS_AT_FIRST
    plan: list[tuple[listing.Group, Sequence[TargetView], str]] = []
    for group in groups[start : start + _GROUPS_SHOWN]:
        chosen, cursor = listing.page(group.views, cursor="", limit=min(GROUP_ROWS, left)) if left > 0 else ((), "")
        left -= len(chosen)
        plan.append((group, chosen, cursor))
    drawn = {row.view.name: row for row in await rows(ctx, [one for _group, chosen, _c in plan for one in chosen])}
    later = start + _GROUPS_SHOWN
    return Board(
        groups=[
            GroupPart(
                name=group.name,
                counts=group.counts,
                status=group.status,
                total=len(group.views),
                rows=[drawn[one.name] for one in chosen],
                cursor=cursor,
                q=q,
                lazy=not chosen,
            )
            for group, chosen, cursor in plan
        ],
        total=len(views),
        matching=len(matching),
        start=start,
        earlier=max(0, start - _GROUPS_SHOWN) if start else None,
        later=later if later < len(groups) else None,
    )


def now(ctx: WebContext) -> Now:
    services = ctx.services
    summary = ctx.summary()
    history = services.reload.history()
    failed = history[0] if history and history[0].outcome == "failed" else None
    opened = open_incidents(ctx)
    told = _told_by(ctx, opened)
    wrong = [one for one in summary.wrong if one.name not in told] if told else summary.wrong
    views = {one.name: one for one in summary.wrong} if opened else {}
    return Now(
        messages={
            one.number: views[one.root].last_message
            for one in opened[:_WRONG_SHOWN]
            if one.rule == DOWN_RULE and one.root in views
        },
        incidents=opened[:_WRONG_SHOWN],
        incidents_more=max(0, len(opened) - _WRONG_SHOWN),
        counts=summary.counts,
        total=len(summary.views),
        unknown=summary.unknown,
        wrong=wrong[:_WRONG_SHOWN],
        wrong_more=max(0, len(wrong) - _WRONG_SHOWN),
        reload=failed,
        store_trouble=services.store.trouble,
        findings=[finding_text(one) for one in services.findings()],
        collectors=[(host.name, one) for host in services.hosts.hosts() for one in host.collectors if not one.ok],
    )


def open_incidents(ctx: WebContext) -> list[Incident]:
    """Return the incidents that are seen and not over: those that nobody has taken first, the worst of them first."""
    if ctx.services.incidents is None or not ctx.may("incident"):
        return []
    sees = ctx.rights.filter("incident")
    counts = seen_counts(ctx)
    found = [as_seen(one, counts) for one in ctx.services.incidents.state.incidents.values() if sees(one.labels)]
    return sorted(found, key=lambda one: (bool(one.acked_by), -RANK[one.severity], -one.number))


def _told_by(ctx: WebContext, incidents: Sequence[Incident]) -> frozenset[str]:
    """Return the targets that open incidents tell of, as cause or symptom: nobody needs to read of them twice."""
    if not incidents or ctx.services.incidents is None:
        return frozenset()
    numbers, sees = {one.number for one in incidents}, ctx.rights.filter("incident")
    found = [one.alert for one in ctx.services.incidents.state.alerts.values() if one.incident in numbers]
    return frozenset(name for alert in found if sees(alert.labels) for name in alert.targets)


def finding_text(finding: Mapping[str, object]) -> FindingText:
    """Return a finding, which arrives as plain mappings, in words."""
    facts = finding.get("evidence")
    since_s = finding.get("since_s")
    return FindingText(
        symptom=str(finding.get("symptom") or finding.get("key") or "Dogwatch found something about itself"),
        cause=str(finding.get("cause") or ""),
        since_s=since_s if isinstance(since_s, int | float) else 0.0,
        evidence=[_fact(one) for one in facts] if isinstance(facts, Sequence) and not isinstance(facts, str) else (),
    )


def _fact(fact: object) -> str:
    """Return `open sockets: 12 → 480, +96 an hour`."""
    if not isinstance(fact, Mapping):
        return str(fact)
    text = str(fact.get("what", ""))
    first, last, per_hour = (fact.get(name) for name in ("first", "last", "per_hour"))
    if isinstance(first, int | float) and isinstance(last, int | float):
        text += f": {first:,.6g} → {last:,.6g}"
    elif isinstance(last, int | float):
        text += f": {last:,.6g}"
    if isinstance(per_hour, int | float):
        text += f", {per_hour:+,.3g} an hour"
    return text


def phase_parts(view: TargetView) -> list[tuple[str, str, float, float]]:
    """Return (key, name, seconds, share of all) of the last attempt's phases."""
    if view.last_phases is None:
        return []
    seconds = [(name, title, float(getattr(view.last_phases, f"{name}_s"))) for name, title in _PHASES]
    total = sum(one for _name, _title, one in seconds)
    return [(name, title, one, one / total) for name, title, one in seconds if one > 0]


def page_templates(assets: Assets) -> Mapping[str, jinja2.Environment]:
    """Return the templates of each language, each made and compiled when a page first needs it: most programs are
    looked at in one language, and many not at all, which is several megabytes.
    """
    return _Templates(assets)


class _Templates(Mapping[str, "jinja2.Environment"]):
    def __init__(self, assets: Assets) -> None:
        self._assets = assets
        self._made: dict[str, jinja2.Environment] = {}

    def __getitem__(self, language: str) -> jinja2.Environment:
        if language not in self._made:
            if language not in LANGUAGES:
                raise KeyError(language)
            self._made[language] = _templates(self._assets, words(language))
        return self._made[language]

    def __iter__(self) -> Iterator[str]:
        return iter(LANGUAGES)

    def __len__(self) -> int:
        return len(LANGUAGES)


def _templates(assets: Assets, spoken: Words) -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    from dogwatch.web.marking import SayingEnvironment

    environment = SayingEnvironment(
        find=None if spoken.language == SOURCE else spoken.find,
        loader=jinja2.PackageLoader("dogwatch.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        asset=assets.url,
        sheet=Markup(assets.sheet),  # noqa: S704 our own
        Status=Status,
        say=spoken.say,
        lang=spoken.tag,
        languages=LANGUAGES,
        language=spoken.language,
    )
    environment.filters.update(
        duration=lambda seconds: "–" if seconds is None else spoken.said(lasting(seconds)),
        period=lambda text: spoken.said(spelled(text) or text),
        reason=lambda word: spoken.said(reason_of(word)),
        latency=_latency,
        size=lambda size_bytes: "–" if size_bytes is None else format_size(size_bytes),
        fullness=lambda ratio: "full" if (ratio or 0) >= 0.95 else "high" if (ratio or 0) >= 0.85 else "fine",
        share=lambda ratio: "–" if ratio is None else f"{ratio * 100:.0f} %",
        percent=lambda one: "–" if one is None or one.ratio is None else percent(one.ratio),
        ratio=lambda one: spoken.say("no data") if one is None else percent(one),
        segment=segment_of,
        changes=changes,
        collector=lambda name: spoken.said(hostview.COLLECTORS.get(name, name)),
        resource=lambda name: hostview.RESOURCES.get(name, name),
        watched=watched,
        query=lambda text: urlencode({"q": text}, errors="replace"),
        utc=_utc,
        word=lambda status: Status(status).word,
        said=spoken.said,
        number=count,
        in_all=lambda total: spoken.said(in_all(total)),
        key=key,
        shown_state=shown_state,
        state_icon=lambda state: icon_of(str(state)),
    )
    return environment


def changes(after: Mapping[str, object] | None, before: Mapping[str, object] | None = None) -> list[tuple[str, str]]:
    """Return what an event of the audit trail says of before or after, a line each, as JSON writes it; what is empty is
    left out where it was not there before.
    """
    return [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        for name, value in (after or {}).items()
        if value not in ("", None, [], {}) or name in (before or {})
    ]


def watched(one: Availability) -> str:
    """Return how much of a period is known, where that is less than nearly all of it; or ""."""
    known_s = one.up_s + one.degraded_s + one.down_s
    return "" if known_s >= 0.9 * (one.until_s - one.since_s) else Phrase("watched for {0}", lasting(known_s))


def _latency(seconds: float | None) -> str:
    if not seconds:  # a heartbeat without a start has no duration
        return "–"
    if seconds < 0.0001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.001:
        return f"{seconds * 1000:.2g} ms"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _utc(time_s: float) -> str:
    """Return an ISO time for <time datetime>; scripts show it in the viewer's zone."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return ""
