"""What conditions of rules say of targets now: signals in, answers out. It reads no clock and does no I/O.

All that it holds follows from signals, so that it is filled again after a restart from what history keeps.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.core.values import Signal, Value
from dogwatch.expressions.formula import ConditionFailure
from dogwatch.rules.decider import Truth
from dogwatch.rules.spec import Rule
from dogwatch.rules.when import When
from dogwatch.rules.windows import Window

_EVIDENCE_CHARS = 500


class Seen(msgspec.Struct, kw_only=True):
    """What is known of one target. rules: those that look at it; of these, wide: those over it alone, narrow: others.
    Both are one list for all targets that they are the same of. windows: by name of the value and length. changed:
    the values that the newest signal changed. fresh: its rules have not seen a signal yet. met: the newest signal is
    the first of all.
    """

    source: str
    target: str
    labels: Mapping[str, str]
    rules: Sequence[Rule]
    wide: Sequence[Rule] = ()
    narrow: Sequence[Rule] = ()
    newest: dict[str, Value]
    windows: dict[tuple[str, float], Window]
    changed: set[str] = msgspec.field(default_factory=set)
    fresh: bool = True
    met: bool = False


class Answer(msgspec.Struct, frozen=True):
    """evidence: the condition with the values that it read, where it holds."""

    truth: Truth
    evidence: str = ""


_UNKNOWN = Answer(Truth.UNKNOWN)


def judge(when: When, values: Mapping[str, Any]) -> Answer:
    """Return what a condition says of these values of its variables; those without one are left out."""
    try:
        if not when.condition.test(values):
            return Answer(Truth.NO)
        return Answer(Truth.YES, when.condition.holds(values)[:_EVIDENCE_CHARS])
    except ConditionFailure:
        # A value that is not there, or a number that cannot be divided by: nothing is known.
        return _UNKNOWN


class Gauge:
    """Values of targets, newest and over time, as far as some rule reads them."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rule for rule in rules if rule.spec.enabled)
        self.seen: dict[tuple[str, str], Seen] = {}
        # Value → (length, whether ranked) of each window over it.
        self._windows: dict[str, dict[float, bool]] = {}
        self._read: set[str] = set()
        # Rules by their source and one of the labels that they ask for: a thousand rules over ten thousand targets
        # are ten million pairs, of which few meet.
        self._places: dict[tuple[str, tuple[str, str] | None], list[int]] = {}
        for at, rule in enumerate(self.rules):
            self._places.setdefault((rule.source, next(iter(rule.spec.match.items()), None)), []).append(at)
        # How many rules one target has at most that are over it alone.
        self.widest = 0
        self._sized = self._biggest = 0
        # What tells of others → those of whom rules read that: (source, name) → their keys.
        self._readers: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        # Targets that the same rules look at share one list of them.
        self._lists: dict[tuple[int, ...], tuple[Sequence[Rule], Sequence[Rule], Sequence[Rule]]] = {}
        for rule in self.rules:
            for when in rule.whens:
                self._read.update(when.newest.values())
                for over in when.over.values():
                    lengths = self._windows.setdefault(over.path, {})
                    lengths[over.length_s] = lengths.get(over.length_s, False) or over.function == "quantile"

    @property
    def longest_s(self) -> float:
        """How far back signals must go for every window to be full."""
        return max((length for lengths in self._windows.values() for length in lengths), default=0.0)

    @property
    def dropped(self) -> int:
        return sum(window.dropped for seen in self.seen.values() for window in seen.windows.values())

    def take(self, signal: Signal) -> Seen:
        """Take a signal in, and return its target."""
        key = (signal.source, signal.target)
        seen = self.seen.get(key)
        if seen is None or seen.labels != signal.labels:
            seen = self._know(signal, seen)
        newest, read = seen.newest, self._read
        # All is new where it is the first signal that its rules see.
        changed = set(signal.values) if seen.fresh else set()
        seen.met, seen.fresh = seen.fresh, False
        for name, value in signal.values.items():
            if name in read and (name not in newest or newest[name] != value):
                newest[name] = value
                changed.add(name)
            for length_s, ranked in self._windows.get(name, {}).items():
                window = seen.windows.get((name, length_s))
                if window is None:
                    window = seen.windows[name, length_s] = Window(length_s, ranked=ranked)
                window.add(signal.time_s, _number(value))
        seen.changed = changed
        return seen

    def know(self, source: str, target: str, labels: Mapping[str, str], now_s: float) -> None:
        """Know of a target that may have said nothing yet, so that `absent` can speak of it."""
        if (source, target) not in self.seen:
            self._know(Signal(source=source, target=target, time_s=now_s, values={}, labels=labels), None)

    def _know(self, signal: Signal, before: Seen | None) -> Seen:
        places = [(signal.source, item) for item in (None, *signal.labels.items())]
        near = sorted(at for place in places for at in self._places.get(place, ()))
        taken = tuple(
            at for at in near if self.rules[at].takes(signal.source, signal.target, signal.labels)
        )  # fmt: skip
        if taken not in self._lists:
            every = [self.rules[at] for at in taken]
            alone = [rule for rule in every if rule.alone and not rule.spec.by]
            self._lists[taken] = every, alone, [rule for rule in every if not rule.alone or rule.spec.by]
        rules, wide, narrow = self._lists[taken]
        seen = Seen(
            source=signal.source,
            target=signal.target,
            labels=signal.labels,
            rules=rules,
            wide=wide,
            narrow=narrow,
            newest=before.newest if before else {},
            windows=before.windows if before else {},
        )
        self.seen[signal.source, signal.target] = seen
        self.widest = max(self.widest, len(wide))
        for rule in narrow:
            if not rule.alone:
                self._read_by(rule, seen)
        return seen

    def biggest(self) -> int:
        """Return how many pairs the most have of targets and the rules over these alone, where both are the same."""
        if self._sized != len(self.seen):
            sizes: dict[int, int] = {}
            for seen in self.seen.values():
                sizes[id(seen.wide)] = sizes.get(id(seen.wide), 0) + len(seen.wide)
            self._sized, self._biggest = len(self.seen), max(sizes.values(), default=0)
        return self._biggest

    def _read_by(self, rule: Rule, seen: Seen) -> None:
        key, host = (seen.source, seen.target), seen.labels.get("host", "")
        for path in rule.paths:
            source = path.partition(".")[0]
            if source == "alert":
                self._readers.setdefault((source, seen.target), {})[key] = None
            if source != seen.source and host:
                self._readers.setdefault((source, host), {})[key] = None

    def readers(self, source: str, target: str) -> Iterable[Seen]:
        """Return those of whom rules read what is told of something else."""
        keys = self._readers.get((source, target))
        if not keys:
            return ()
        found = (self.seen.get(key) for key in keys if key != (source, target))
        return [seen for seen in found if seen is not None]

    def forget(self, keep: Iterable[tuple[str, str]]) -> None:
        """Forget every target but these."""
        kept = set(keep)
        self.seen = {key: seen for key, seen in self.seen.items() if key in kept}

    def answer(self, rule: Rule, seen: Seen, now_s: float, *, firing: bool) -> Answer:
        """Return whether the rule's condition holds. firing: its alert is out: `resolve` says whether it still is."""
        if firing and rule.resolve is not None:
            ends = self._ask(rule.resolve, seen, now_s)
            opposite = {Truth.YES: Truth.NO, Truth.NO: Truth.YES, Truth.UNKNOWN: Truth.UNKNOWN}
            return Answer(opposite[ends.truth])
        return self._ask(rule.when, seen, now_s)

    def _ask(self, when: When, seen: Seen, now_s: float) -> Answer:
        return judge(when, self._values(when, seen, now_s))

    def _values(self, when: When, seen: Seen, now_s: float) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for variable, path in when.newest.items():
            if path.startswith("alert."):
                values[variable] = self._alert(path, seen)
                continue
            value = self._of(path, seen).newest.get(path) if path else None
            if value is not None:
                values[variable] = value
        for variable, over in when.over.items():
            window = self._of(over.path, seen).windows.get((over.path, over.length_s))
            if window is None:
                if over.function == "absent":
                    values[variable] = True
                elif over.function == "count":
                    values[variable] = 0
                continue
            window.move(now_s)
            value = over.answer(window)
            if value is not None:
                values[variable] = value
        return values

    def _alert(self, path: str, seen: Seen) -> bool:
        """Return whether others have an alert out about a target, or about the host that its label `host` names."""
        about = (seen.target, seen.labels.get("host", ""))
        return any(self.seen.get(("alert", name), _NOBODY).newest.get(path) for name in about)

    def _of(self, path: str, seen: Seen) -> Seen:
        """Return whose value it is: a probe reads values of the host that its label `host` names."""
        if seen.source == "probe" and path.startswith("host."):
            return self.seen.get(("host", seen.labels.get("host", "")), _NOBODY)
        return seen


_NOBODY = Seen(source="", target="", labels={}, rules=(), newest={}, windows={})


def _number(value: Value) -> float:
    if isinstance(value, str):
        # Only count, absent and changes look at texts: any number that differs where texts differ will do.
        return float(zlib.crc32(value.encode()))
    return float("nan") if value is None else float(value)
