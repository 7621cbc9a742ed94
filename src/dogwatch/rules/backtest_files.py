"""A backtest over a file of recorded signals, and the labels of the outages in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dogwatch.core.units import parse_duration
from dogwatch.errors import UsageError
from dogwatch.rules.backtest import Outage, Progress, Rehearsal, Span
from dogwatch.rules.backtest_store import rehearsal_of
from dogwatch.rules.desk import Setting
from dogwatch.rules.recording import Recording
from dogwatch.rules.rehearsal.run import Run, cut
from dogwatch.rules.spec import Rule
from dogwatch.store.raw import RawResults


def rehearse_file(
    recording: Recording, setting: Setting, rules: Iterable[Rule], *, progress: Callable[[float], None] | None = None
) -> Rehearsal:
    """Return what rules would have done with a file. Raises: PermanentError where it is damaged."""
    head = recording.head
    run = Run(setting, rules, head.targets)
    span = Span(since_s=head.since_s, until_s=head.until_s)
    alive = head.alive or [(head.since_s, head.until_s)]
    for piece in recording.pieces():
        if recording.firings:
            run.others.know(recording.firings)
            recording.firings = []
        chunk = cut(piece.begin_s, piece.end_s, alive)
        run.begin(chunk, piece.samples.items())
        known = {one.target: one for one in piece.results}
        # Also those that said nothing: time passes for them, too.
        run.take(chunk, (known.get(node.name) or RawResults(target=node.name) for node in head.targets))
        run.close(chunk)
        if progress is not None:
            progress((piece.end_s - head.since_s) / max(head.until_s - head.since_s, 1e-9))
    return rehearsal_of(run, span, Progress())


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outage as it is written in a file. from, to: times with an offset. within: found so soon at the latest."""

    name: str
    from_: Any = msgspec.field(name="from")
    to: Any
    targets: tuple[str, ...] = ("*",)
    rules: tuple[str, ...] = ()
    within: str | None = None


class Labels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    outages: list[Label]


def read_labels(path: Path) -> list[Outage]:
    """Return the outages of a file of labels. Raises: UsageError naming what is wrong in it."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
    try:
        found = msgspec.convert(content, Labels)
        return [_outage(one) for one in found.outages]
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{path}: {error}", hint="outages: [{name, from, to, targets, within}]") from None


def _outage(label: Label) -> Outage:
    since_s, until_s = _time(label.from_, label.name), _time(label.to, label.name)
    if until_s <= since_s:
        raise ValueError(f"'{label.name}' ends before it begins")
    return Outage(
        name=label.name,
        since_s=since_s,
        until_s=until_s,
        targets=label.targets,
        rules=label.rules,
        within=parse_duration(label.within) if label.within is not None else None,
    )


def _time(value: Any, name: str) -> float:
    # YAML makes times of what looks like one; without an offset it takes them for UTC, and so does this.
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, str):
        found = datetime.fromisoformat(value)
    elif isinstance(value, int | float):
        return float(value)
    else:
        raise ValueError(f"'{name}' has no time; write 2026-01-05T03:10:00+00:00")
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return found.timestamp()
