"""From alerts to incidents and notices: a pure decider, `step(setting, state, inputs, now) -> (state, decisions)`.

It reads no clock and does no I/O; live rules, plans and backtests run this same code. The order in which inputs of
one step arrive does not matter: what explains what is looked at once all are in, and after a time to settle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.rules.causes import Causes, named
from dogwatch.rules.escalation import Policy
from dogwatch.rules.incident import (
    RANK,
    Decisions,
    Incident,
    Note,
    Notice,
    Order,
    State,
    Tracked,
    Waiting,
)
from dogwatch.rules.maintenance import Calendar, Maintenance
from dogwatch.rules.notices import condensed, line_of
from dogwatch.rules.remedy.values import NONE, Became, Remedies, Result, Say
from dogwatch.rules.throttle import send
from dogwatch.rules.topology import Topology
from dogwatch.rules.watcher import Alert, AlertEdge, Key

replace = msgspec.structs.replace


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What configuration says; it changes with a reload. freeze: windows in which no remedy acts. rehearsed: no action
    is made; each is taken to end well at once, and the signals say whether that helped.
    """

    policy: Policy
    topology: Topology
    calendar: Calendar
    remedies: Remedies = NONE
    freeze: Calendar = Calendar()
    rehearsed: bool = False


Input = AlertEdge | Order | Say | Became | Result


def step(setting: Setting, state: State, inputs: Sequence[Input], now_s: float) -> tuple[State, Decisions]:
    """Return the next state and what follows. now_s: the wall clock; it may jump.

    Orders for an incident that is not open are ignored: it may have ended on the way.
    """
    return _Step(setting, state, now_s).run(inputs)


class _Step:
    """Working copies for one step. Values that change are replaced, so that the state before stays as it was."""

    def __init__(self, setting: Setting, state: State, now_s: float) -> None:
        self.policy, self.options = setting.policy, setting.policy.options
        self.topology, self.remedies = setting.topology, setting.remedies
        self.on: tuple[Maintenance, ...] = setting.calendar.on(now_s)
        self.state = state
        self.now_s = now_s
        # A clock that is set back must not keep anything waiting.
        self.clock_s = state.clock_s + max(0.0, now_s - state.wall_s) if state.wall_s else now_s
        self.last = state.last
        self.alerts = dict(state.alerts)
        self.incidents = dict(state.incidents)
        self.silences = dict(state.silences)
        self.notes: list[Note] = []
        self.waiting: list[Waiting] = []

    def run(self, inputs: Sequence[Input]) -> tuple[State, Decisions]:
        edges = [one for one in inputs if isinstance(one, AlertEdge)]
        for edge in sorted(edges, key=lambda edge: (edge.time_s, edge.alert.key)):
            if edge.fired:
                self._fire(edge)
            else:
                self._end(edge)
        for one in inputs:
            if isinstance(one, Order):
                self._order(one)
        self._let_go()
        self._assign()
        self._close()
        self._tell()
        for one in inputs:
            if isinstance(one, Say):
                self._speak(one)
        sent, queue, notices = send(
            self.options.throttle, self.state.sent, self.state.queue, self.waiting, self.clock_s
        )
        ended = [one for one in self.incidents.values() if one.ended_s is not None]
        self._forget()
        after = State(
            last=self.last,
            clock_s=self.clock_s,
            wall_s=self.now_s,
            alerts=self.alerts,
            incidents=self.incidents,
            silences=self.silences,
            sent=sent,
            queue=queue,
            remedy=self.state.remedy,
        )
        return after, Decisions(notes=condensed(self.notes), notices=notices, ended=ended)

    def _note(self, number: int, kind: str, text: str = "", *, actor: str = "", key: Key = ("", "")) -> None:
        self.notes.append(
            Note(number=number, time_s=self.now_s, kind=kind, actor=actor, text=text, rule=key[0], target=key[1])
        )

    # Alerts.

    def _fire(self, edge: AlertEdge) -> None:
        key, flapping = edge.alert.key, self.options.flapping
        before = self.alerts.get(key)
        if before is not None and before.active:
            # It was out already (a restart told it again): nothing began.
            self.alerts[key] = replace(before, alert=edge.alert)
            return
        recent = [at for at in (before.begun if before else ()) if at > self.clock_s - flapping.within]
        begun = (*recent, self.clock_s)[-flapping.times :]
        flaps = len(begun) >= flapping.times or (before is not None and before.flapping)
        kept = before is not None and before.incident in self.incidents
        tracked = Tracked(
            alert=edge.alert,
            fired_s=edge.time_s,
            due_s=self.clock_s + (0.0 if self._at_once(edge.alert) else self.options.settle),
            cause=before.cause if before is not None and kept else "",
            incident=before.incident if before is not None and kept else 0,
            begun=begun,
            flapping=flaps,
        )
        self.alerts[key] = tracked
        if kept:
            incident = self.incidents[tracked.incident]
            self.incidents[incident.number] = replace(incident, flaps=incident.flaps + 1)

    def _at_once(self, alert: Alert) -> bool:
        """Return whether its incident opens now, for a remedy that acts: nothing above it can be its cause."""
        return self.remedies.acts(alert) and not any(self.topology.above(target) for target in alert.targets)

    def _end(self, edge: AlertEdge) -> None:
        key = edge.alert.key
        tracked = self.alerts.get(key)
        if tracked is None or not tracked.active:
            return
        after = replace(tracked, active=False, ended_s=self.clock_s, dismissed=False)
        if not tracked.flapping:
            if tracked.incident:
                self._note(tracked.incident, "ended", tracked.alert.summary, key=key)
            after = replace(after, incident=0, cause="")
        self.alerts[key] = after

    def _let_go(self) -> None:
        """End flapping alerts that have been quiet for long enough."""
        quiet_s = self.options.flapping.quiet
        for key, tracked in self.alerts.items():
            if tracked.flapping and not tracked.active and self.clock_s - (tracked.ended_s or 0.0) >= quiet_s:
                if tracked.incident:
                    self._note(tracked.incident, "ended", f"{tracked.alert.summary}: quiet again", key=key)
                self.alerts[key] = replace(tracked, flapping=False, incident=0, cause="", begun=())

    def _forget(self) -> None:
        """Forget alerts whose coming and going is too long ago to matter, and silences that are over."""
        within_s = self.options.flapping.within
        self.alerts = {
            key: tracked
            for key, tracked in self.alerts.items()
            if tracked.active or tracked.flapping or self.clock_s - (tracked.ended_s or 0.0) < within_s
        }
        self.incidents = {number: one for number, one in self.incidents.items() if one.ended_s is None}
        self.silences = {name: one for name, one in self.silences.items() if one.until_s > self.now_s}

    # Orders.

    def _order(self, order: Order) -> None:
        incident = self.incidents.get(order.number)
        if order.verb == "silence" and order.silence is not None:
            self.silences[order.silence.silence_id] = order.silence
        elif order.verb == "unsilence":
            self.silences.pop(order.text, None)
        elif incident is None or incident.ended_s is not None:
            return
        elif order.verb == "ack":
            self.incidents[order.number] = replace(incident, acked_by=order.actor, acked_s=self.now_s, next_s=None)
            self._note(order.number, "acked", order.text, actor=order.actor)
        elif order.verb == "unack":
            self.incidents[order.number] = replace(incident, acked_by="", acked_s=None, next_s=self.clock_s)
            self._note(order.number, "unacked", order.text, actor=order.actor)
        elif order.verb == "comment":
            self._note(order.number, "comment", order.text, actor=order.actor)
        elif order.verb == "escalate":
            self._escalate(incident, order)
        elif order.verb == "resolve":
            self._resolve(incident, order)

    def _escalate(self, incident: Incident, order: Order) -> None:
        """Tell the next step of its escalation now, also where it was acknowledged or nobody is told by itself."""
        steps = self.policy.steps(incident.escalation, incident.notify)
        if incident.step >= len(steps):
            return
        at, told_s = incident.step + 1, incident.told_s if incident.told_s is not None else self.clock_s
        names = tuple(dict.fromkeys(self.policy.names(steps[incident.step], self.now_s)))
        next_s = told_s + steps[at].after if at < len(steps) else self._remind_s()
        self.incidents[incident.number] = after = replace(
            incident,
            step=at,
            told_s=told_s,
            next_s=None if incident.acked_by else next_s,
            told=tuple(dict.fromkeys((*incident.told, *names))),
        )
        self._note(incident.number, "escalated", order.text, actor=order.actor)
        self._say(after, "escalated", names, order.text)

    def _remind_s(self) -> float | None:
        return self.clock_s + self.options.remind if self.options.remind > 0 else None

    def _resolve(self, incident: Incident, order: Order) -> None:
        """Close it by hand. Its alerts are out still: they open another only after they have ended once."""
        self._note(incident.number, "resolved", order.text, actor=order.actor)
        for key, tracked in self.alerts.items():
            if tracked.incident == incident.number:
                self.alerts[key] = replace(
                    tracked, flapping=False, ended_s=self.clock_s, incident=0, cause="", dismissed=True
                )
        self._finish(incident, f"resolved by {order.actor}")

    # What belongs to what.

    def _muted(self, counting: Sequence[tuple[Key, Tracked]]) -> dict[Key, str]:
        """Return the windows that keep alerts from incidents: their own, or one of something above them."""
        muted: dict[Key, str] = {}
        over: dict[str, str] = {}
        for key, tracked in counting:
            alert = tracked.alert
            found = next((one.spec.name for one in self.on if one.takes(alert.targets, alert.labels, alert.rule)), "")
            if found:
                muted[key] = found
                over.update(dict.fromkeys(alert.targets, found))
        for key, tracked in counting:
            above = [
                next((over[up] for up in self.topology.above(target) if up in over), "")
                for target in tracked.alert.targets
            ]
            if over and above and all(above):
                muted.setdefault(key, above[0])
        return muted

    def _counting(self) -> list[tuple[Key, Tracked]]:
        """Return the alerts that are not under maintenance, in a fixed order."""
        counting = [(key, one) for key, one in self.alerts.items() if one.counts]
        counting.sort(key=lambda item: (item[1].fired_s, item[0]))
        muted = self._muted(counting) if self.on else {}
        found = []
        for key, tracked in counting:
            # What is open when a window begins stays open; only nobody is told.
            why = "" if tracked.incident else muted.get(key, "")
            if why != tracked.muted:
                # What goes on after the window has its time to settle anew.
                due_s = tracked.due_s if why else self.clock_s + self.options.settle
                self.alerts[key] = replace(tracked, muted=why, due_s=due_s)
            if not why:
                found.append((key, self.alerts[key]))
        return found

    def _assign(self) -> None:
        """Put every alert into the incident of its cause, and open incidents for those that are causes."""
        counting = self._counting()
        causes = Causes(self.topology, [tracked.alert for _key, tracked in counting])
        by_root = {one.root: one.number for one in self.incidents.values() if one.ended_s is None}
        explained = []
        for key, known in counting:
            root = causes.root(known.alert)
            own = root == named(known.alert)
            tracked = self._caused(key, known, root, own=own)
            if not own:
                explained.append((key, tracked, root))
            elif root in by_root:
                self._join(key, tracked, by_root[root])
            elif self.clock_s >= tracked.due_s:
                by_root[root] = self._open(key, tracked, root)
            else:
                # Another one of the same cause may open its incident in this very step.
                explained.append((key, tracked, root))
        for key, tracked, root in explained:
            if root in by_root:
                self._join(key, tracked, by_root[root])

    def _caused(self, key: Key, tracked: Tracked, root: str, *, own: bool) -> Tracked:
        """Remember the cause. Where it went away, the alert has its time to settle before it is one itself."""
        if root == tracked.cause:
            return tracked
        waits = own and bool(tracked.cause)
        due_s = max(tracked.due_s, self.clock_s + self.options.settle) if waits else tracked.due_s
        after = self.alerts[key] = replace(tracked, cause=root, due_s=due_s)
        return after

    def _open(self, key: Key, tracked: Tracked, root: str) -> int:
        self.last += 1
        alert = tracked.alert
        self.incidents[self.last] = Incident(
            number=self.last,
            root=root,
            rule=alert.rule,
            summary=alert.summary,
            reason=alert.reason,
            severity=alert.severity,
            labels=alert.labels,
            notify=alert.notify,
            escalation=alert.escalation,
            opened_s=self.now_s,
            began_s=alert.since_s,
            version=alert.version,
            # People are told after the time to settle in any case: what is over by then was nothing.
            next_s=max(self.clock_s, tracked.begun[-1] + self.options.settle) if tracked.begun else self.clock_s,
        )
        self._note(self.last, "opened", alert.summary, key=key)
        self._join(key, tracked, self.last)
        return self.last

    def _join(self, key: Key, tracked: Tracked, number: int) -> None:
        if tracked.incident == number:
            return
        incident = self.incidents[number]
        self.alerts[key] = replace(tracked, incident=number)
        if tracked.incident in self.incidents:
            self._note(tracked.incident, "left", f"{tracked.alert.summary}: belongs to #{number}", key=key)
        if tracked.alert.summary != incident.summary or incident.explains:
            self._note(number, "joined", tracked.alert.summary, key=key)
        worse = RANK[tracked.alert.severity] > RANK[incident.severity]
        self.incidents[number] = replace(
            incident,
            began_s=min(incident.began_s, tracked.alert.since_s),
            severity=tracked.alert.severity if worse else incident.severity,
            explains=incident.explains + 1,
        )

    def _close(self) -> None:
        """Close incidents that hold no alert any more."""
        held: dict[int, int] = {}
        flapping: set[int] = set()
        for tracked in self.alerts.values():
            if tracked.counts and tracked.incident:
                held[tracked.incident] = held.get(tracked.incident, 0) + 1
                if tracked.flapping:
                    flapping.add(tracked.incident)
        gone = self._moved()
        for number, incident in list(self.incidents.items()):
            if incident.ended_s is not None:
                continue
            if number not in held:
                self._finish(incident, "", into=gone.get(number, 0))
                continue
            if held[number] != incident.explains:
                self.incidents[number] = replace(incident, explains=held[number])
            if (number in flapping) != incident.flapping:
                self.incidents[number] = replace(self.incidents[number], flapping=number in flapping)
                if number in flapping:
                    self._note(number, "flapping", "it comes and goes; it is held as one")
                    self._say(self.incidents[number], "flapping", incident.told)

    def _moved(self) -> dict[int, int]:
        """Return incidents whose cause turned out to be explained by another's, and by which."""
        found: dict[int, int] = {}
        for key, before in self.state.alerts.items():
            incident, now = self.state.incidents.get(before.incident), self.alerts.get(key)
            if incident is None or now is None or not now.incident or now.incident == before.incident:
                continue
            if named(before.alert) == incident.root:
                found[before.incident] = now.incident
        return found

    def _finish(self, incident: Incident, why: str, *, into: int = 0) -> None:
        after = self.incidents[incident.number] = replace(
            self.incidents[incident.number], ended_s=self.now_s, into=into, next_s=None, muted=""
        )
        kind = "merged" if into else "resolved"
        if not why:
            self._note(incident.number, kind, f"its cause is #{into}" if into else "")
        # Whoever heard of it hears how it ended, silence or not.
        self._say(after, kind, incident.told, why or (f"its cause is #{into}" if into else ""))

    # Who is told.

    def _tell(self) -> None:
        for number, incident in list(self.incidents.items()):
            if incident.ended_s is not None:
                continue
            muted = self._why_muted(incident)
            if muted != incident.muted:
                self._note(number, "muted" if muted else "heard", muted)
                self.incidents[number] = replace(incident, muted=muted)
            if not muted and incident.next_s is not None and self.clock_s >= incident.next_s:
                self._next_step(self.incidents[number])

    def _why_muted(self, incident: Incident) -> str:
        for silence in self.silences.values():
            if silence.until_s > self.now_s and silence.takes(incident):
                return f"silenced by {silence.by}" + (f": {silence.reason}" if silence.reason else "")
        for window in self.on:
            if window.takes((incident.root,), incident.labels, incident.rule):
                return f"maintenance: {window.spec.name}"
        return ""

    def _next_step(self, incident: Incident) -> None:
        """Tell the steps that are due; after the last, remind all who were told."""
        steps = self.policy.steps(incident.escalation, incident.notify)
        told_s = incident.told_s if incident.told_s is not None else self.clock_s
        at, first = incident.step, incident.told_s is None
        names: dict[str, None] = {}
        while at < len(steps) and self.clock_s >= told_s + steps[at].after:
            names.update(dict.fromkeys(self.policy.names(steps[at], self.now_s)))
            at += 1
        kind = "escalated" if incident.told else "opened"
        if not names and not first and incident.told and incident.step == at:
            names, kind = dict.fromkeys(incident.told), "reminder"
        next_s = told_s + steps[at].after if at < len(steps) else self._remind_s()
        self.incidents[incident.number] = after = replace(
            incident,
            step=at,
            told_s=told_s,
            next_s=next_s,
            told=tuple(dict.fromkeys((*incident.told, *names))),
        )
        self._say(after, kind, tuple(names))

    def _speak(self, said: Say) -> None:
        """Tell of a remedy whoever heard of the incident, or is to. One that is spent is the next one's to know."""
        incident = self.incidents.get(said.number)
        if incident is None or incident.ended_s is not None or incident.muted:
            return
        steps = self.policy.steps(incident.escalation, incident.notify)
        place = max(0, incident.step - 1)
        names = dict.fromkeys(incident.told)
        for one in steps[place if said.kind != "spent" or not incident.told else incident.step :][:1]:
            names.update(dict.fromkeys(self.policy.names(one, self.now_s)))
        names.update(dict.fromkeys(said.more))
        self.incidents[said.number] = incident = replace(incident, told=tuple(names))
        self._say(incident, said.kind, tuple(names), said.text)

    def _say(self, incident: Incident, kind: str, to: Sequence[str], text: str = "") -> None:
        if not to:
            return
        current = self.incidents[incident.number]
        self.incidents[incident.number] = replace(current, notices=current.notices + 1)
        self._note(incident.number, "told", f"{kind}: {', '.join(to)}")
        self.waiting.append(
            Waiting(
                kind=kind,
                to=tuple(to),
                number=incident.number,
                serial=current.notices + 1,
                severity=incident.severity,
                text=line_of(incident, kind, text),
            )
        )


def explained(state: State, number: int) -> list[Tracked]:
    """Return the alerts of an incident, the first of them first: the chain from cause to symptom."""
    held = [one for one in state.alerts.values() if one.incident == number and one.counts]
    return sorted(held, key=lambda one: (one.alert.since_s, one.fired_s, one.alert.key))


def by_number(state: State) -> Mapping[int, Sequence[Tracked]]:
    """Return the alerts of all incidents, each list as `explained` has it."""
    found: dict[int, list[Tracked]] = {}
    for one in sorted(state.alerts.values(), key=lambda one: (one.alert.since_s, one.fired_s, one.alert.key)):
        if one.incident and one.counts:
            found.setdefault(one.incident, []).append(one)
    return found


__all__ = ["Notice", "Setting", "by_number", "explained", "step"]
