"""What is told to whoever sees only a part costs no more than what is told: no outputs read, no list walked per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, ValuesView
from types import SimpleNamespace
from typing import Any, cast

from dogwatch.access.actor import Actor
from dogwatch.fleet.book.values import FleetRunRow, Key, RunState
from dogwatch.rules.incident import Incident, State, Tracked
from dogwatch.rules.watcher import Alert
from dogwatch.web.api.fleet import seen_runs
from dogwatch.web.api.incidents import as_seen, seen_counts
from dogwatch.web.context import WebContext
from dogwatch.web.view import open_incidents

SHOP = {"team": "shop"}


class Rights:
    """Stands for those of somebody who sees one team's things."""

    def restricted(self, _noun: str) -> bool:
        return True

    def filter(self, _noun: str, _verb: str = "read") -> Any:
        return lambda labels: labels.get("team") == "shop"


class Book:
    """Stands for the book of fleet runs; it has nothing that reads what hosts said."""

    async def labels(self, keys: Sequence[Key]) -> dict[Key, list[Mapping[str, str]]]:
        return {key: [SHOP, {"team": "pay"}] for key in keys}

    async def states(self, _key: Key) -> list[tuple[str, str, Mapping[str, str]]]:
        return [("web1", "succeeded", SHOP), ("web2", "succeeded", SHOP), ("pay1", "non-zero exit", {"team": "pay"})]


class Alerts(dict[Any, Tracked]):
    """Counts how often somebody walks through them."""

    walked = 0

    def values(self) -> ValuesView[Tracked]:  # type: ignore[override]
        self.walked += 1
        return super().values()

    def items(self) -> Any:
        self.walked += 1
        return super().items()

    def __iter__(self) -> Iterator[Any]:
        self.walked += 1
        return super().__iter__()


def context(**services: Any) -> WebContext:
    found = SimpleNamespace(rights=Rights(), services=SimpleNamespace(**services), may=lambda *_words: True)
    return cast("WebContext", found)


async def test_a_mixed_run_is_counted_without_what_hosts_said() -> None:
    row = FleetRunRow(
        key=Key("r1", "hosts"),
        state=RunState.FAILED,
        reason="pay1 failed",
        what="uptime",
        targets="all",
        orders={},
        sealed=None,
        actor=Actor(kind="user", name="ada"),
        retry_of="",
        attempt=1,
        hosts=3,
        created_s=1.0,
        ended_s=2.0,
        counts={"succeeded": 2, "non-zero exit": 1},
    )
    ctx = context(fleet=SimpleNamespace(book=Book()))
    (seen,) = await seen_runs(ctx, [row])
    assert (seen.hosts, seen.counts, seen.targets, seen.reason) == (2, {"succeeded": 2}, "web[1-2]", "")


def incident(number: int, **more: Any) -> Incident:
    return Incident(
        number=number,
        root=f"web{number}",
        rule="down",
        summary="",
        severity="error",
        labels=SHOP,
        opened_s=1.0,
        began_s=1.0,
        **more,
    )


def tracked(number: int, team: str, *, dismissed: bool = False) -> Tracked:
    group = f"{team}{number}{dismissed}"
    alert = Alert(rule="down", group=group, targets=(group,), since_s=1.0, severity="error", labels={"team": team})
    return Tracked(alert=alert, fired_s=1.0, due_s=1.0, incident=number, dismissed=dismissed)


def test_incidents_are_counted_once_a_list() -> None:
    numbers = range(1, 31)
    held = [tracked(number, team) for number in numbers for team in ("shop", "pay")]
    held += [tracked(1, "shop", dismissed=True), tracked(0, "shop")]
    alerts = Alerts({one.alert.key: one for one in held})
    state = State(alerts=alerts, incidents={number: incident(number, explains=2) for number in numbers})
    ctx = context(incidents=SimpleNamespace(state=state))
    assert [one.explains for one in open_incidents(ctx)] == [1] * 30
    assert alerts.walked == 1
    # What is over tells no number of others, either.
    assert as_seen(incident(99, ended_s=3.0, explains=7), seen_counts(ctx)).explains == 0
    assert as_seen(incident(99, explains=7), None).explains == 7
