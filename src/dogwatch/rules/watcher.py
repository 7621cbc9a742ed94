"""All rules over all signals: which alerts begin and end. It reads no clock and does no I/O.

Time is what signals and ticks say. Ticks come every TICK_S on a grid: live rules, plans and backtests share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from dogwatch.core.values import Signal
from dogwatch.notify.message import Severity
from dogwatch.rules.board import Board
from dogwatch.rules.decider import Edge, Held, Truth, step
from dogwatch.rules.gauge import Answer, Gauge, Seen
from dogwatch.rules.reasons import reason_of
from dogwatch.rules.spec import DOWN_RULE, Rule

TICK_S = 5.0
Key = tuple[str, str]
_MEMBERS_SHOWN = 5
# From so many pairs of rule and target on, tables are worth it.
MANY = 10_000
_MANY_RULES = 20
_WORTH = 2_000
# After a longer gap nothing was seen: time that nobody watched is not made up for.
_MOST_TICKS = 100


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that holds. rule, group: what it is of. targets: that it is about. since_s: of the condition. version: of
    the rule's text. outside: somebody else raised it, and says when it is over.
    """

    rule: str
    group: str
    targets: tuple[str, ...]
    since_s: float
    severity: Severity
    labels: Mapping[str, str] = {}
    reason: str = ""
    summary: str = ""
    notify: tuple[str, ...] = ()
    escalation: str = ""
    version: str = ""
    outside: bool = False

    @property
    def key(self) -> Key:
        return (self.rule, self.group)


class Became(msgspec.Struct, frozen=True, kw_only=True):
    """A target that somebody waits for was well."""

    time_s: float
    target: str


class AlertEdge(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that began (fired) or ended."""

    time_s: float
    fired: bool
    alert: Alert


class Watcher:
    """Keeps the rules' states. held: of rules by (name, group); out: the alerts that are out, by the same; awaited:
    targets of which it tells each time that they are well.
    """

    def __init__(self, rules: Sequence[Rule], *, down_severity: Severity = "error", many: int = MANY) -> None:
        """many: from so many pairs of rule and target on, tables say whom to ask."""
        self.gauge = Gauge(rules)
        self.held: dict[Key, Held] = {}
        self.out: dict[Key, Alert] = {}
        self.awaited: frozenset[str] = frozenset()
        # Targets whose thresholds alone mean nothing: several places decide together.
        self.shared: frozenset[str] = frozenset()
        self._down_severity = down_severity
        # Of grouped rules: what each member last said.
        self._members: dict[Key, dict[str, Answer]] = {}
        self._ticked_s: float | None = None
        self._board = Board()
        self._many = many
        # What was heard, by the list of rules over it, while a batch is taken.
        self._waits: dict[int, list[tuple[Seen, Signal]]] | None = None
        self._tables = tables_for(len(self.gauge.rules), many)

    def know(self, source: str, target: str, labels: Mapping[str, str], now_s: float) -> None:
        """Know of a target that may have said nothing yet: `absent` can speak of it, and its group waits for it."""
        self.gauge.know(source, target, labels, now_s)
        seen = self.gauge.seen[source, target]
        for rule in seen.rules:
            if rule.spec.by:
                members = self._members.setdefault((rule.name, rule.group(target, labels)), {})
                # Over time nothing can be said before windows are filled.
                said = Answer(Truth.UNKNOWN) if rule.over else self.gauge.answer(rule, seen, now_s, firing=False)
                members.setdefault(target, said)

    def know_alerts(self, now_s: float) -> None:
        """Know of what alerts of others are about, as far as rules over these hold: these are asked from now on."""
        names = {rule.name for rule in self.gauge.rules if rule.source == "alert"}
        for key, alert in self.out.items():
            if key[0] in names:
                self.know("alert", alert.targets[0], alert.labels, now_s)

    def take(self, signal: Signal) -> Iterator[AlertEdge | Became]:
        """Take a signal and return what begins and ends by it."""
        return self.hear((signal,))

    def hear(self, signals: Sequence[Signal]) -> Iterator[AlertEdge | Became]:
        """Take all that was told at one time: rules are asked when all of it is in, so that its order is no matter."""
        time_s = signals[-1].time_s
        asks: dict[Key, tuple[Rule, Seen]] = {}
        for signal in signals:
            seen = self.gauge.take(signal)
            if "probe.status" in signal.values:
                yield from self._thresholds(signal)
                if signal.target in self.awaited and signal.values["probe.status"] in ("up", "degraded"):
                    yield Became(time_s=signal.time_s, target=signal.target)
            concerned = self._concerned(seen, signal)
            if len(signals) == 1:
                if concerned:
                    yield from self._ask_all(concerned, time_s)
                return
            for rule, about in concerned:
                asks[rule.name, about.target] = (rule, about)
        yield from self._ask_all(asks.values(), time_s)

    def hear_many(self, batch: Sequence[Sequence[Signal]]) -> list[tuple[float, list[AlertEdge | Became]]]:
        """Take what was told at several times one after the other, between two ticks, of each target once: where many
        rules look at many targets, those that may hold are found for all of them at once.
        """
        tables = self._tables if sum(map(len, batch)) * self.gauge.widest >= self._many else None
        if tables is None:
            return [(signals[-1].time_s, list(self.hear(signals))) for signals in batch]
        found: dict[float, list[AlertEdge | Became]] = {}
        told: dict[int, list[tuple[Seen, Signal]]] = {}
        self._waits = told
        try:
            for signals in batch:
                found[signals[-1].time_s] = list(self.hear(signals))
        finally:
            self._waits = None
        held = self._held_by()
        for some in told.values():
            for rule, seen, time_s in tables.asks(some, held):
                found[time_s] += self._ask_all([(rule, seen)], time_s)
        return list(found.items())

    def _held_by(self) -> dict[str, list[str]]:
        """Return which rules hold, or hold for long enough, by target or group."""
        found: dict[str, list[str]] = {}
        for rule, group in self.held:
            found.setdefault(group, []).append(rule)
        return found

    def _concerned(self, seen: Seen, signal: Signal) -> list[tuple[Rule, Seen]]:
        """Return the rules that read something of what a signal told, and of whom they are asked."""
        changed, values, held, target = seen.changed, signal.values, self.held, seen.target
        rules = seen.rules
        if self._waits is not None:
            rules = seen.narrow
            if seen.wide:
                self._waits.setdefault(id(seen.wide), []).append((seen, signal))
        # A rule that does not hold, and reads nothing that is another value now, says what it said.
        found = [
            (rule, seen)
            for rule in rules
            if rule.plain is None
            or not rule.plain.isdisjoint(changed)
            or (held and (rule.name, target if not rule.spec.by else rule.group(target, seen.labels)) in held)
        ]
        # Whoever tells of itself for the first time is there from now on: `absent` can speak of it.
        if "probe.success" not in values and not (seen.met and seen.source == "host"):
            found = [(rule, seen) for rule, seen in found if not rule.paths.isdisjoint(values)]
        found += [
            (rule, reader)
            for reader in self.gauge.readers(signal.source, target)
            for rule in reader.narrow
            if not rule.alone and not rule.paths.isdisjoint(values)
        ]
        return found

    def tick(self, now_s: float) -> Iterator[AlertEdge]:
        """Let time pass: conditions over time change without a signal, and so does how long they hold."""
        asks: list[tuple[Rule, Seen]] = []
        wide: dict[int, list[Seen]] = {}
        many = self._tables is not None and self.gauge.biggest() >= self._many
        for seen in self.gauge.seen.values():
            if many and seen.wide:
                wide.setdefault(id(seen.wide), []).append(seen)
            rules = seen.narrow if many else seen.rules
            asks += [(rule, seen) for rule in rules if rule.over or self._holds(rule, seen)]
        if wide and self._tables is not None:
            held = self._held_by()
            for some in wide.values():
                asks += self._tables.ticked(some, held, now_s)
        yield from self._ask_all(asks, now_s)

    def due(self, until_s: float) -> Iterator[float]:
        """Return the ticks on the grid up to a time that have not been; of a long gap the last only."""
        place = until_s // TICK_S * TICK_S
        if self._ticked_s is None or place < self._ticked_s:
            self._ticked_s = place
            return
        first = self._ticked_s + TICK_S
        if place - first > _MOST_TICKS * TICK_S:
            first = place
        while first <= place:
            self._ticked_s = first
            yield first
            first += TICK_S

    def is_due(self, until_s: float) -> bool:
        """Return whether there is a tick up to a time that has not been."""
        return self._ticked_s is None or until_s // TICK_S * TICK_S != self._ticked_s

    def tell(self, alert: Alert, *, firing: bool, now_s: float) -> tuple[list[AlertEdge], list[Signal]]:
        """Take what somebody else says of an alert of theirs. Returns what begins or ends by it, and what rules that
        read alerts are to hear.
        """
        edges = []
        if firing and alert.key not in self.out:
            self.out[alert.key] = alert
            edges.append(AlertEdge(time_s=now_s, fired=True, alert=alert))
        elif not firing and alert.key in self.out:
            edges.append(self._end(alert.key, now_s))
        told = [
            self._board.tell(target, *alert.key, alert.labels, firing=firing, now_s=now_s) for target in alert.targets
        ]
        return edges, [signal for signal in told if signal is not None]

    def forget(self, keep: Sequence[Key], now_s: float) -> Iterator[AlertEdge]:
        """End the alerts of targets and rules that are no more. keep: (source, target) of those that are."""
        self.gauge.forget(keep)
        names = {target for _source, target in keep}
        rules = {rule.name: rule for rule in self.gauge.rules}
        for key, alert in sorted(self.out.items(), key=lambda item: item[0]):
            if alert.outside:
                continue  # whoever raised it says when it is over
            if key[0] in rules and rules[key[0]].source == "alert":
                continue  # what it is about is known to others
            if not any(target in names for target in alert.targets) or (key[0] != DOWN_RULE and key[0] not in rules):
                self.held.pop(key, None)
                yield self._end(key, now_s)
        for key, members in self._members.items():
            self._members[key] = {name: answer for name, answer in members.items() if name in names}

    def _holds(self, rule: Rule, seen: Seen) -> bool:
        return (rule.name, rule.group(seen.target, seen.labels)) in self.held

    def _ask_all(self, asks: Iterable[tuple[Rule, Seen]], now_s: float) -> Iterator[AlertEdge]:
        """Ask rules of targets; groups once, when all their members that are asked have answered."""
        groups: dict[Key, tuple[Rule, Seen]] = {}
        for rule, seen in asks:
            key = (rule.name, rule.group(seen.target, seen.labels) if rule.spec.by else seen.target)
            held = self.held.get(key)
            answer = self.gauge.answer(rule, seen, now_s, firing=held is not None and held.firing)
            if rule.spec.by:
                self._members.setdefault(key, {})[seen.target] = answer
                groups[key] = (rule, seen)
            elif held is not None or answer.truth is Truth.YES:
                yield from self._follow(rule, key, seen, (answer, (seen.target,)), now_s)
        for key, (rule, seen) in groups.items():
            for edge in self._follow(rule, key, seen, together(rule, self._members[key]), now_s):
                yield edge
                if rule.resolve is not None:
                    # What is asked from now on is another question: all members answer it, not one after the other.
                    self._turn(rule, key, now_s, firing=edge.fired)

    def _follow(
        self, rule: Rule, key: Key, seen: Seen, said: tuple[Answer, tuple[str, ...]], now_s: float
    ) -> Iterator[AlertEdge]:
        """Let the decider have an answer, and return what follows."""
        answer, targets = said
        after, edge = step(rule.spec, self.held.get(key), answer.truth, now_s)
        if after is None:
            self.held.pop(key, None)
        else:
            self.held[key] = after
        if edge is Edge.FIRED and after is not None:
            alert = alert_of(rule, key, seen.labels, targets, answer, after)
            self.out[key] = alert
            yield AlertEdge(time_s=now_s, fired=True, alert=alert)
        elif edge is Edge.RESOLVED and key in self.out:
            yield self._end(key, now_s)

    def _turn(self, rule: Rule, key: Key, now_s: float, *, firing: bool) -> None:
        members = self._members[key]
        for name in members:
            seen = self.gauge.seen.get((rule.source, name))
            if seen is not None:
                members[name] = self.gauge.answer(rule, seen, now_s, firing=firing)

    def _end(self, key: Key, now_s: float) -> AlertEdge:
        return AlertEdge(time_s=now_s, fired=False, alert=self.out.pop(key))

    def _thresholds(self, signal: Signal) -> Iterator[AlertEdge]:
        """The failure thresholds of probes are rules, too: what they decided comes as the status."""
        status = signal.values.get("probe.status")
        if status is None:
            return
        key = (DOWN_RULE, signal.target)
        if status == "down" and key not in self.out and signal.target not in self.shared:
            reason = str(signal.values.get("probe.reason") or "")
            self.out[key] = alert = down_alert(
                signal.target, signal.time_s, signal.labels, reason, severity=self._down_severity
            )
            yield AlertEdge(time_s=signal.time_s, fired=True, alert=alert)
        elif status in UP_AGAIN and key in self.out:
            yield self._end(key, signal.time_s)


# What ends the alert of a probe's threshold. Maintenance and pending say nothing of the target.
UP_AGAIN = ("up", "degraded", "paused")


def down_alert(
    target: str, time_s: float, labels: Mapping[str, str], reason: str, *, severity: Severity = "error"
) -> Alert:
    """Return the alert of a probe whose threshold says that its target is down."""
    return Alert(
        rule=DOWN_RULE,
        group=target,
        targets=(target,),
        since_s=time_s,
        severity=severity,
        labels=dict(labels),
        reason=reason,
        summary=f"{target} is down" + (f": {reason_of(reason)}" if reason else ""),
    )


class Tables:
    """Tables of rules by targets, made when they are first wanted."""

    def __init__(self, worth: int) -> None:
        """worth: the fewest pairs of rule and target that a table is made for."""
        self._worth = worth
        self._known: dict[tuple[int, bool], Any] = {}

    def _table(self, rules: Sequence[Rule], *, over: bool) -> Any:
        # What it computes with is heavy, and not needed where rules are few.
        from dogwatch.rules.many import Table

        key = (id(rules), over)
        if key not in self._known:
            self._known[key] = Table(rules, over=over)
        return self._known[key]

    def asks(
        self, told: Sequence[tuple[Seen, Signal]], held: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Rule, Seen, float]]:
        """Return the rules that are to be asked after signals: those that may hold now, and those that did."""
        rules = told[0][0].wide
        names = {rule.name: rule for rule in rules} if held else {}
        if len(told) * len(rules) < self._worth:
            pairs = [
                (at, rule)
                for at, (seen, _signal) in enumerate(told)
                for rule in rules
                # As for single targets: what reads nothing that is another value now says what it said.
                if rule.plain is None
                or not rule.plain.isdisjoint(seen.changed)
                or rule.name in held.get(seen.target, ())
            ]
        else:
            times = [signal.time_s for _seen, signal in told]
            pairs = list(self._table(rules, over=False).holding([seen for seen, _signal in told], times))
            pairs += self._missed(pairs, [seen for seen, _signal in told], names, held)
        for at, rule in pairs:
            seen, signal = told[at]
            part = "probe.success" not in signal.values and not (seen.met and seen.source == "host")
            if not (part and rule.paths.isdisjoint(signal.values)):
                yield rule, seen, signal.time_s

    def _missed(
        self,
        pairs: Sequence[tuple[int, Rule]],
        some: Sequence[Seen],
        names: Mapping[str, Rule],
        held: Mapping[str, Sequence[str]],
    ) -> list[tuple[int, Rule]]:
        """Return the rules that did hold, and are asked whether they still do."""
        if not held:
            return []
        known = {(at, rule.name) for at, rule in pairs}
        return [
            (at, names[name])
            for at, seen in enumerate(some)
            for name in held.get(seen.target, ())
            if name in names and (at, name) not in known
        ]

    def ticked(
        self, some: Sequence[Seen], held: Mapping[str, Sequence[str]], now_s: float
    ) -> Iterator[tuple[Rule, Seen]]:
        """Return the rules that are to be asked at a tick."""
        rules = some[0].wide
        names = {rule.name: rule for rule in rules} if held else {}
        pairs: list[tuple[int, Rule]] = []
        if any(rule.over for rule in rules):
            if len(some) * len(rules) < self._worth:
                pairs = [(at, rule) for at in range(len(some)) for rule in rules if rule.over]
            else:
                pairs = list(self._table(rules, over=True).holding(some, [now_s] * len(some)))
        pairs += self._missed(pairs, some, names, held)
        return ((rule, some[at]) for at, rule in pairs)


def tables_for(rules: int, many: int) -> Tables | None:
    """Return tables where so many rules may be worth it, and what they compute with is there."""
    if (many and rules < _MANY_RULES) or find_spec("numpy") is None:
        return None
    return Tables(_WORTH if many else 0)


def together(rule: Rule, members: Mapping[str, Answer]) -> tuple[Answer, tuple[str, ...]]:
    """Return what the members of a group say together, and which of them hold."""
    known = sum(answer.truth is not Truth.UNKNOWN for answer in members.values())
    yes = sorted(name for name, answer in members.items() if answer.truth is Truth.YES)
    wanted = rule.wanted(known)
    if len(yes) >= wanted:
        shown = ", ".join(yes[:_MEMBERS_SHOWN]) + (f" and {len(yes) - _MEMBERS_SHOWN} more" * (len(yes) > 5))
        return Answer(Truth.YES, f"{len(yes)} of {known} hold ({shown}): {members[yes[0]].evidence}"), tuple(yes)
    # As long as those of which nothing is known could still make it up, nothing is known of all.
    if len(yes) + len(members) - known >= wanted and known < len(members):
        return Answer(Truth.UNKNOWN), tuple(yes)
    return Answer(Truth.NO), tuple(yes)


def alert_of(
    rule: Rule, key: Key, labels: Mapping[str, str], targets: tuple[str, ...], answer: Answer, held: Held
) -> Alert:
    """Return the alert of a rule that holds. labels: of the target that it was asked of last."""
    spec = rule.spec
    own = {name: labels.get(name, "") for name in spec.by} if spec.by else dict(labels)
    about = key[1]
    return Alert(
        rule=spec.name,
        group=key[1],
        targets=targets,
        since_s=held.since_s,
        severity=spec.severity,
        labels={**own, **spec.labels},
        reason=answer.evidence,
        summary=spec.summary or f"{spec.name}: {about}",
        notify=spec.notify,
        escalation=spec.escalation,
        version=rule.version,
    )
