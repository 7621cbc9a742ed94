"""Whether enough places say that a target is down. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dogwatch.rules.decider import Truth
from dogwatch.rules.quorum.spec import Quorum

_UP = ("up", "degraded")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a place says of a target. status: as probes have it. since_s: since when."""

    status: str
    reason: str = ""
    since_s: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a place said last. received_s: when, by the clock of whoever heard it."""

    views: Mapping[str, View]
    received_s: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """truth: YES: it is down. down, up, unknown: places that say so; who is silent, or does not know, is unknown."""

    truth: Truth
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reason: str = ""
    since_s: float = 0.0


def judge(quorum: Quorum, reports: Mapping[str, Report], now_s: float, *, silent_s: float) -> Verdict:
    """Return what the places say together. As long as those that are unknown could make it up, nothing is known."""
    down: dict[str, View] = {}
    up: list[str] = []
    unknown: list[str] = []
    for name in quorum.locations:
        report = reports.get(name)
        # A clock that was set back makes nobody young again.
        heard = report is not None and -silent_s < now_s - report.received_s <= silent_s
        view = report.views.get(quorum.target) if report is not None and heard else None
        if view is not None and view.status == "down":
            down[name] = view
        elif view is not None and view.status in _UP:
            up.append(name)
        else:
            unknown.append(name)
    if len(down) >= quorum.down:
        truth = Truth.YES
    else:
        truth = Truth.UNKNOWN if len(down) + len(unknown) >= quorum.down else Truth.NO
    said = "; ".join(f"{name}: {view.reason or 'down'}" for name, view in sorted(down.items()))
    silent = f"; nothing known from {', '.join(sorted(unknown))}" if unknown else ""
    # Down since the last of those that were needed said so.
    times = sorted(view.since_s for view in down.values())
    return Verdict(
        truth=truth,
        down=tuple(sorted(down)),
        up=tuple(sorted(up)),
        unknown=tuple(sorted(unknown)),
        reason=f"{len(down)} of {len(quorum.locations)} places say that it is down ({said}){silent}" if down else "",
        since_s=times[quorum.down - 1] if len(times) >= quorum.down else now_s,
    )
