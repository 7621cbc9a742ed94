"""The availability report: each target, each group, and all of it. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from dogwatch.store.protocol import Availability
from dogwatch.words import SOURCE, Phrase, words

# What begins a formula.
_FORMULAS = frozenset("=+-@|%\uff1d\uff0b\uff0d\uff20")
_COLUMNS = (
    Phrase("kind"),
    Phrase("name"),
    Phrase("group"),
    Phrase("availability_ratio"),
    Phrase("outages"),
    Phrase("down_s"),
    Phrase("mean_repair_s"),
    Phrase("up_s"),
    Phrase("degraded_s"),
    Phrase("maintenance_s"),
    Phrase("paused_s"),
    Phrase("unknown_s"),
)  # fmt: skip


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A target, a group or the whole. Seconds in each status; of a group the sums of its targets.

    ratio: up and degraded ÷ (those and down); planned work counts for nobody. mean_repair_s: None without an outage.
    """

    name: str
    group: str = ""
    targets: int = 1
    ratio: float | None
    outages: int
    up_s: float
    degraded_s: float
    down_s: float
    maintenance_s: float
    paused_s: float
    unknown_s: float
    mean_repair_s: float | None


class AvailabilityReport(msgspec.Struct, frozen=True, kw_only=True):
    """targets: the worst first. groups: by name; what is in none is in the group ""."""

    since_s: float
    until_s: float
    whole: Line
    groups: Sequence[Line]
    targets: Sequence[Line]


def availability_report(
    rows: Sequence[Availability], groups: Mapping[str, str], *, since_s: float, until_s: float
) -> AvailabilityReport:
    """Return the report of rows. groups: target → its group."""
    members: dict[str, list[Availability]] = {}
    for row in rows:
        members.setdefault(groups.get(row.target, ""), []).append(row)
    targets = [_line(row.target, [row], groups.get(row.target, "")) for row in rows]
    targets.sort(key=lambda line: (1.0 if line.ratio is None else line.ratio, -line.down_s, line.name))
    return AvailabilityReport(
        since_s=since_s,
        until_s=until_s,
        whole=_line("", rows),
        groups=[_line(name, members[name]) for name in sorted(members)],
        targets=targets,
    )


def _line(name: str, rows: Sequence[Availability], group: str = "") -> Line:
    good = sum(row.up_s + row.degraded_s for row in rows)
    down_s = sum(row.down_s for row in rows)
    outages = sum(row.incidents for row in rows)
    return Line(
        name=name,
        group=group,
        targets=len(rows),
        ratio=good / (good + down_s) if good + down_s > 0 else None,
        outages=outages,
        up_s=sum(row.up_s for row in rows),
        degraded_s=sum(row.degraded_s for row in rows),
        down_s=down_s,
        maintenance_s=sum(row.maintenance_s for row in rows),
        paused_s=sum(row.paused_s for row in rows),
        unknown_s=sum(row.unknown_s for row in rows),
        mean_repair_s=down_s / outages if outages else None,
    )


def csv_of(report: AvailabilityReport, language: str = SOURCE) -> str:
    """Return the report for a spreadsheet: times in seconds, the ratio from 0 to 1. language: of its head."""
    out = io.StringIO()
    writer = csv.writer(out)
    spoken = words(language)
    writer.writerow([spoken.said(column) for column in _COLUMNS])
    for kind, lines in (("all", [report.whole]), ("group", report.groups), ("target", report.targets)):
        writer.writerows(_cells(spoken.word(kind), lines))
    return out.getvalue()


def _cells(kind: str, lines: Iterable[Line]) -> Iterable[Sequence[object]]:
    for line in lines:
        yield (
            kind,
            _plain(line.name),
            _plain(line.group),
            "" if line.ratio is None else f"{line.ratio:.6f}",
            line.outages,
            round(line.down_s, 1),
            "" if line.mean_repair_s is None else round(line.mean_repair_s, 1),
            round(line.up_s, 1),
            round(line.degraded_s, 1),
            round(line.maintenance_s, 1),
            round(line.paused_s, 1),
            round(line.unknown_s, 1),
        )


def _plain(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula, also after the space that some leave out, and in the
    wide forms that some read as the narrow ones.
    """
    return f"'{text}" if text.lstrip()[:1] in _FORMULAS or text[:1].isspace() else text
