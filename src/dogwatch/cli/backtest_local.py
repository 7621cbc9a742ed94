"""Backtests of `dogwatch backtest --signals`: in this process, without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.errors import UsageError
from dogwatch.features import INCIDENTS, RULES
from dogwatch.rules.backtest import Outage, Progress, Rehearsal, compare, find_outages
from dogwatch.rules.backtest_desk import Backtest, Wanted
from dogwatch.rules.backtest_files import read_labels, rehearse_file
from dogwatch.rules.desk import Setting
from dogwatch.rules.escalation import Policy
from dogwatch.rules.maintenance import MAINTENANCE, Calendar, build_maintenance
from dogwatch.rules.recording import Recording
from dogwatch.rules.spec import Rule, compile_rule
from dogwatch.rules.topology import Node, Topology
from dogwatch.web.api.backtests import BacktestState, state_out


class Tried(msgspec.Struct, frozen=True):
    """Rules, and how incidents are made of them."""

    rules: list[Rule]
    policy: Policy
    calendar: Calendar

    @classmethod
    def read(cls, configuration: Any) -> Tried:
        zones = shared_zones()
        return cls(
            [compile_rule(spec) for spec in configuration.get(RULES)],
            Policy(configuration.get(INCIDENTS)),
            Calendar([build_maintenance(spec, zones) for spec in configuration.get(MAINTENANCE)]),
        )

    def setting(self, nodes: Sequence[Node]) -> Setting:
        return Setting(policy=self.policy, topology=Topology(nodes), calendar=self.calendar)


def states(
    files: Sequence[str], labels: Sequence[str], tried: Sequence[Tried], progress: Callable[[float], None]
) -> Iterator[tuple[str, BacktestState]]:
    """Yield what each file leads to. Raises: UsageError, PermanentError."""
    given = [outage for label in labels for outage in read_labels(Path(label))]
    for name in files:
        beside = Path(name).with_suffix(".yaml")
        beside_it = beside.exists() and beside != Path(name)
        outages = read_labels(beside) if beside_it and not labels else given
        rehearsals = [_rehearsed(name, one, progress) for one in tried]
        yield name, state_out(_backtest(rehearsals, outages))


def _rehearsed(name: str, tried: Tried, progress: Callable[[float], None]) -> Rehearsal:
    try:
        with Path(name).open("rb") as stream:
            recording = Recording(stream, name)
            return rehearse_file(recording, tried.setting(recording.head.targets), tried.rules, progress=progress)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None


def _backtest(found: Sequence[Rehearsal], outages: Sequence[Outage]) -> Backtest:
    first, second = found[0], found[1] if len(found) > 1 else None
    # What lies outside of the file can be found by nobody.
    inside = [one for one in outages if one.since_s < first.until_s and one.until_s > first.since_s]
    return Backtest(
        backtest_id="",
        wanted=Wanted(since_s=first.until_s - first.since_s),
        progress=Progress(share=1.0, signals=first.signals),
        touched_s=0.0,
        state="done",
        first=first,
        second=second,
        difference=compare(first, second) if second is not None else None,
        found=find_outages(first, inside),
        found_second=find_outages(second, inside) if second is not None else (),
    )
