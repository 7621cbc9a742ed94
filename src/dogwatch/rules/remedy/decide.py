"""What is done about alerts: a pure decider, `react(remedies, memory, scene, events) -> (memory, decisions)`.

It reads no clock and does no I/O; live rules, plans and backtests run this same code. It decides after the incidents'
decider has: only what is the cause of an open incident is acted upon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from dogwatch.core.units import format_duration
from dogwatch.rules.causes import named
from dogwatch.rules.incident import Incident, Note, Tracked
from dogwatch.rules.remedy import words
from dogwatch.rules.remedy.budget import room
from dogwatch.rules.remedy.values import (
    Became,
    Cancel,
    Episode,
    Life,
    Memory,
    Release,
    Remedies,
    Remedy,
    Result,
    Say,
    Start,
    Step,
    Use,
)
from dogwatch.rules.watcher import Alert, Key

replace = msgspec.structs.replace
# An action whose proof never came to its end (the process died, its state was lost) counts no longer than this more.
_SPARE_S = 600.0
WITHDRAWN = "it is well again"


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What is the case now. clock_s: the decider's own clock. frozen: the window in which nothing may be done to
    targets with these labels, "" for none. rehearsed: services are taken to have started: what is recorded does not
    say when one began anew by an action that was not made.
    """

    now_s: float
    clock_s: float
    alerts: Mapping[Key, Tracked]
    incidents: Mapping[int, Incident]
    frozen: Callable[[Sequence[str], Mapping[str, str]], str] = lambda _targets, _labels: ""
    rehearsed: bool = False


class Acts(msgspec.Struct, frozen=True, kw_only=True):
    """What follows, each in order."""

    notes: Sequence[Note] = ()
    says: Sequence[Say] = ()
    starts: Sequence[Start] = ()
    releases: Sequence[Release] = ()
    cancels: Sequence[Cancel] = ()


Event = Became | Result


def react(remedies: Remedies, memory: Memory, scene: Scene, events: Iterable[Event] = ()) -> tuple[Memory, Acts]:
    """Return what is remembered next, and what follows. The order of events of one step does not matter."""
    if not remedies and not memory.episodes:
        return memory, Acts()
    return _Reaction(remedies, memory, scene).run(events)


def relevant(remedies: Remedies, memory: Memory, event: Became) -> bool:
    """Return whether it matters that a startup probe succeeded: of a service that has started it does not."""
    return any(not _life(memory.lives, one.name, 0.0).started for one in remedies.startup.get(event.target, ()))


def _life(lives: Mapping[str, Life], name: str, now_s: float) -> Life:
    return lives.get(name) or Life(since_s=now_s)


class _Reaction:
    """Working copies for one step."""

    def __init__(self, remedies: Remedies, memory: Memory, scene: Scene) -> None:
        self.remedies, self.scene = remedies, scene
        self.clock_s = scene.clock_s
        self.before = memory
        self.episodes = dict(memory.episodes)
        self.uses = dict(memory.uses)
        self.lives = dict(memory.lives)
        self.notes: list[Note] = []
        self.says: list[Say] = []
        self.starts: list[Start] = []
        self.releases: list[Release] = []
        self.cancels: list[Cancel] = []
        self.live = self._live()

    def _live(self) -> dict[Key, tuple[Remedy, Tracked]]:
        """Return what there is to be done: the remedies of all alerts that are out."""
        found = {
            (remedy.name, tracked.alert.group): (remedy, tracked)
            for tracked in self.scene.alerts.values()
            if tracked.active and not tracked.dismissed
            for remedy in self.remedies.of(tracked.alert)
        }
        return dict(sorted(found.items(), key=lambda item: (item[1][1].alert.since_s, item[0])))

    def run(self, events: Iterable[Event]) -> tuple[Memory, Acts]:
        for name in self.remedies.services:
            self.lives.setdefault(name, Life(since_s=self.clock_s, started=self.scene.rehearsed))
        given = list(events)
        for became in sorted((one for one in given if isinstance(one, Became)), key=lambda one: one.target):
            self._became(became)
        by_key = {episode.act: key for key, episode in self.episodes.items() if episode.act}
        for result in sorted((one for one in given if isinstance(one, Result)), key=lambda one: one.key):
            if result.key in by_key:
                self._ended(by_key[result.key], result)
        for key in list(self.episodes):
            if key not in self.live:
                self._well(key)
        for key, (remedy, tracked) in self.live.items():
            self._ill(key, remedy, tracked)
        self._forget()
        memory = Memory(episodes=self.episodes, uses=self.uses, lives=self.lives)
        acts = Acts(notes=self.notes, says=self.says, starts=self.starts, releases=self.releases, cancels=self.cancels)
        return memory, acts

    def _note(self, key: Key, kind: str, text: str, number: int | None = None) -> None:
        number = self.episodes[key].number if number is None else number
        if number:
            said = words.filled(text, key, number)
            self.notes.append(
                Note(number=number, time_s=self.scene.now_s, kind=kind, text=said, rule=key[0], target=key[1])
            )

    def _put(self, key: Key, **changes: object) -> Episode:
        after = self.episodes[key] = replace(self.episodes[key], **changes)
        return after

    # Services.

    def _became(self, event: Became) -> None:
        for service in self.remedies.startup.get(event.target, ()):
            life = self.lives[service.name]
            if life.started:
                continue
            up = tuple(sorted({*life.up, event.target}))
            started = set(service.startup) <= set(up)
            self.lives[service.name] = replace(life, up=() if started else up, started=started)

    def _began_anew(self, name: str) -> None:
        if name in self.lives and not self.scene.rehearsed:
            self.lives[name] = Life(since_s=self.clock_s)

    # What came of actions.

    def _ended(self, key: Key, result: Result) -> None:
        episode, remedy = self.episodes[key], self.remedies.by_name.get(key[0])
        self._put(key, act="")
        outcome = "refused" if result.refused else "declined" if result.declined else "done" if result.ok else "failed"
        void = result.refused or not result.acted
        if episode.phase != "undoing":
            self._release(result.key, outcome, result.reason, void=void)
        else:
            self.releases.append(Release(key=result.key, outcome=outcome, reason=result.reason))
        if remedy is None or episode.step >= len(remedy.steps):
            self._rest(key)
            return
        step = remedy.steps[episode.step]
        if result.ok and step.restarts and episode.phase == "running":
            self._began_anew(step.restarts)
        if not result.ok and episode.phase == "running" and key not in self.live:
            # It is well by itself meanwhile: nothing follows from how the action ended.
            word = "failed" if result.acted else "withdrawn"
            self._note(key, word, f"{step.says}: {result.reason}; it is well again")
            self._put(key, phase="waiting", acted=result.acted)
            return
        if episode.phase == "undoing":
            self._undone(key, remedy, step, result)
        elif result.refused:
            self._put(
                key,
                phase="waiting", tries=episode.tries - 1, attempts=episode.attempts - 1, acted=episode.serial > 1,
                due_s=self.clock_s + max(1.0, result.retry_s),
            )  # fmt: skip
            self._hold(key, "refused", result.reason)
        elif result.ok:
            self._proving(key, step)
        else:
            self._failed(key, remedy, step, result)

    def _proving(self, key: Key, step: Step) -> None:
        """The action is made; now the alert must end."""
        episode = self.episodes[key]
        undo = (*episode.undo, episode.step) if step.undo_recovered else episode.undo
        if step.verify_s:
            self._note(key, "acted", f"{step.says}: done; the proof is awaited for {format_duration(step.verify_s)}")
            self._put(key, phase="verifying", until_s=self.clock_s + step.verify_s, undo=undo)
        else:
            self._note(key, "acted", f"{step.says}: done")
            self._put(key, phase="holding", undo=undo)

    def _undone(self, key: Key, remedy: Remedy, step: Step, result: Result) -> None:
        episode = self.episodes[key]
        word = "taken back" if result.ok else f"could not be taken back: {result.reason}"
        self._note(key, "undone" if result.ok else "failed", f"{step.undo_says}: {word}")
        if episode.recovered or key not in self.live:
            self._rest(key)
        else:
            self._next(key, remedy)

    def _failed(self, key: Key, remedy: Remedy, step: Step, result: Result) -> None:
        if result.declined:
            self._note(key, "declined", f"{step.says}: {result.reason}")
            self._put(key, phase="spent", held="declined", why=result.reason)
            return
        self._fail(key, remedy, step, f"{step.says}: failed: {result.reason}", acted=result.acted)

    def _fail(self, key: Key, remedy: Remedy, step: Step, text: str, *, acted: bool = True) -> None:
        self._note(key, "failed", text)
        if step.undo_failed and acted and step.undo_job:
            self._start_undo(key, remedy, self.episodes[key].step)
        else:
            self._next(key, remedy)

    def _next(self, key: Key, remedy: Remedy) -> None:
        """Try again, go to the next step, or give up."""
        episode = self.episodes[key]
        step = remedy.steps[episode.step]
        if episode.tries < step.attempts:
            due_s = self.clock_s + _backoff(remedy, episode.attempts)
            self._put(key, phase="waiting", due_s=due_s)
            self._hold(key, "backoff", f"the next attempt is in {format_duration(due_s - self.clock_s)}")
        elif episode.step + 1 < len(remedy.steps):
            self._put(key, phase="waiting", step=episode.step + 1, tries=0, due_s=self.clock_s, held="", why="")
        else:
            text = words.spent(remedy, key[1])
            self._note(key, "gave up", text)
            self.says.append(Say(number=episode.number, kind="spent", text=text, more=remedy.escalate))
            self._put(key, phase="spent", held="spent", why="all has been tried")

    # All is well.

    def _well(self, key: Key) -> None:
        """The alert ended, or its remedy is no more."""
        episode, remedy = self.episodes[key], self.remedies.by_name.get(key[0])
        if episode.phase == "running":
            if not episode.recovered:
                self._put(key, recovered=True)
                if remedy is not None and self.remedies.mode(remedy) == "approve":
                    self.cancels.append(Cancel(key=episode.act, reason=WITHDRAWN))
            return
        if episode.phase in ("undoing", "idle"):
            return
        if episode.phase in ("verifying", "holding") and remedy is not None and episode.step < len(remedy.steps):
            step = remedy.steps[episode.step]
            if episode.phase == "verifying":
                self._note(key, "helped", f"{step.says}: {key[1]} is well again")
        if remedy is not None and episode.undo:
            at, rest = episode.undo[-1], episode.undo[:-1]
            self._put(key, undo=rest, recovered=True)
            if at < len(remedy.steps) and remedy.steps[at].undo_job:
                self._start_undo(key, remedy, at)
                return
        self._rest(key)

    def _rest(self, key: Key) -> None:
        episode, remedy = self.episodes[key], self.remedies.by_name.get(key[0])
        if remedy is not None and episode.undo and key not in self.live:
            # One undo has ended, and there is another.
            self._put(key, phase="waiting", recovered=True)
            self._well(key)
            return
        cool_s = self.clock_s + remedy.cooldown_s if remedy is not None and episode.acted else episode.cool_s
        # An incident that is held because it comes and goes goes on counting: no two of its actions have one key.
        self.episodes[key] = Episode(
            number=episode.number,
            serial=episode.serial,
            attempts=episode.attempts,
            cool_s=cool_s,
            well_s=self.clock_s,
        )

    # Something is wrong.

    def _ill(self, key: Key, remedy: Remedy, tracked: Tracked) -> None:
        incident = self.scene.incidents.get(tracked.incident)
        known = self.episodes.get(key)
        if known is not None and known.phase in ("running", "undoing"):
            if known.recovered and known.phase == "running":
                self._put(key, recovered=False)
            return
        if incident is None or incident.ended_s is not None or incident.root != named(tracked.alert):
            # It waits for its cause to show, is under maintenance, or is only a symptom.
            return
        if known is None or known.number != incident.number or known.phase == "idle":
            known = self._begin(key, remedy, incident, known)
        if known.phase == "verifying" and self.clock_s >= known.until_s:
            step = remedy.steps[known.step]
            self._fail(key, remedy, step, f"{step.says}: no proof within {format_duration(step.verify_s)}")
            known = self.episodes[key]
        if known.phase == "waiting" and self.clock_s >= known.due_s:
            self._try(key, remedy, tracked.alert, incident)

    def _begin(self, key: Key, remedy: Remedy, incident: Incident, before: Episode | None) -> Episode:
        """Begin with an incident. What went before counts: for the backoff, until all was well for long."""
        old = before or Episode()
        well_s = self.clock_s - old.well_s if old.well_s is not None else 0.0
        attempts = 0 if well_s >= remedy.backoff.reset else old.attempts
        due_s = max(self.clock_s, old.cool_s)
        if attempts and old.well_s is not None:
            due_s = max(due_s, old.well_s + _backoff(remedy, attempts))
        serial = old.serial if old.number == incident.number else 0
        episode = Episode(number=incident.number, phase="waiting", attempts=attempts, serial=serial, due_s=due_s)
        # What is to be taken back goes over to the incident that follows.
        self.episodes[key] = replace(episode, undo=old.undo)
        if due_s > self.clock_s:
            why = f"it was acted upon a short time ago; not before {format_duration(due_s - self.clock_s)} have passed"
            self._hold(key, "cool-down", why)
        return self.episodes[key]

    def _try(self, key: Key, remedy: Remedy, alert: Alert, incident: Incident) -> None:
        episode = self.episodes[key]
        step = remedy.steps[min(episode.step, len(remedy.steps) - 1)]
        mode = self.remedies.mode(remedy)
        held, why = self._obstacle(remedy, alert, incident)
        found = room(remedy.budget, self.uses.get(remedy.budget.scope, ()), self.clock_s)
        if held == "started":
            return
        if mode == "plan":
            text = words.plan(remedy, step, alert, why or ("" if found.ok else found.why), found.left)
            self._note(key, "planned", text)
            self.says.append(Say(number=incident.number, kind="planned", text=words.filled(text, key, incident.number)))
            self._put(key, phase="planned", held="plan", why="the mode is plan")
        elif held:
            self._hold(key, held, why)
        elif not found.ok:
            self._hold(key, "budget", found.why)
            if found.retry_s:
                self._put(key, due_s=self.clock_s + found.retry_s)
        else:
            self._start(key, remedy, alert, incident, found.left)

    def _obstacle(self, remedy: Remedy, alert: Alert, incident: Incident) -> tuple[str, str]:
        """Return what keeps a remedy from acting now, by kind and in words."""
        if remedy.startup_s is not None and remedy.gate in self.lives:
            life = self.lives[remedy.gate]
            if life.started:
                return "started", ""
            left_s = life.since_s + remedy.startup_s - self.clock_s
            if left_s > 0:
                return "startup", f"{remedy.gate} has {format_duration(remedy.startup_s)} to start"
        elif remedy.gate in self.lives and not self.lives[remedy.gate].started:
            return "startup", f"{remedy.gate} has not started yet"
        if incident.acked_by:
            return "acknowledged", f"{incident.acked_by} has taken it over"
        if incident.muted.startswith("maintenance"):
            return "maintenance", incident.muted
        frozen = self.scene.frozen(alert.targets, alert.labels)
        return ("freeze", f"nothing may be done: {frozen}") if frozen else ("", "")

    def _hold(self, key: Key, held: str, why: str) -> None:
        """Say once for each kind of reason why nothing is done."""
        if self.episodes[key].held != held:
            self._note(key, "held", why)
            self._put(key, held=held, why=why)

    # Starting.

    def _start(self, key: Key, remedy: Remedy, alert: Alert, incident: Incident, left: str) -> None:
        episode = self.episodes[key]
        step, mode = remedy.steps[episode.step], self.remedies.mode(remedy)
        serial = episode.serial + 1
        name = words.run_key(incident.number, key, episode.step, serial)
        until_s = (
            self.clock_s + step.timeout_s + step.verify_s + _SPARE_S + (remedy.expires_s if mode == "approve" else 0.0)
        )
        uses = self.uses.get(remedy.budget.scope, ())
        self.uses[remedy.budget.scope] = (*uses, Use(key=name, time_s=self.clock_s, until_s=until_s))
        self.starts.append(
            Start(
                key=name,
                time_s=self.scene.now_s,
                number=incident.number,
                remedy=remedy.name,
                rule=alert.rule,
                version=remedy.version,
                group=alert.group,
                targets=alert.targets,
                step=step.name,
                attempt=serial,
                job=step.job,
                says=words.filled(step.says, key, incident.number),
                mode=mode,
                budget=remedy.budget,
                until_s=until_s - self.clock_s,
                left=left,
                reason=alert.reason or alert.summary,
                labels=alert.labels,
            )
        )
        asks = f", if it is approved within {format_duration(remedy.expires_s)}" if mode == "approve" else ""
        self._note(key, "asked" if asks else "acting", f"{step.says}{asks} (budget {remedy.budget.scope}: {left} left)")
        if asks:
            self.says.append(
                Say(number=incident.number, kind="asked", text=f"{words.filled(step.says, key, incident.number)}?")
            )
        self._put(
            key,
            phase="running", act=name, serial=serial, tries=episode.tries + 1, attempts=episode.attempts + 1,
            held="", why="", acted=True, recovered=False,
        )  # fmt: skip

    def _start_undo(self, key: Key, remedy: Remedy, at: int) -> None:
        """Take a step back. It draws on no budget: it ends what was begun."""
        episode, step = self.episodes[key], remedy.steps[at]
        serial = episode.serial + 1
        name = words.run_key(episode.number, key, at, serial, undo=True)
        tracked = self.live[key][1].alert if key in self.live else None
        self.starts.append(
            Start(
                key=name,
                time_s=self.scene.now_s,
                number=episode.number,
                remedy=remedy.name,
                rule=remedy.rule,
                version=remedy.version,
                group=key[1],
                targets=tracked.targets if tracked else (key[1],),
                step=step.name,
                attempt=serial,
                job=step.undo_job,
                says=words.filled(step.undo_says, key, episode.number),
                mode="auto",
                undo=True,
                labels=tracked.labels if tracked else {},
            )
        )
        self._note(key, "undoing", step.undo_says)
        self._put(key, phase="undoing", act=name, serial=serial)

    # Budgets.

    def _release(self, key: str, outcome: str, reason: str, *, void: bool) -> None:
        self.releases.append(Release(key=key, outcome=outcome, reason=reason, void=void))
        for scope, uses in self.uses.items():
            if any(use.key == key for use in uses):
                kept = [use for use in uses if use.key != key] if void else uses
                self.uses[scope] = tuple(replace(use, open=False) if use.key == key else use for use in kept)

    def _forget(self) -> None:
        """Forget uses that no budget counts any more, and remedies that were idle for long."""
        periods: dict[str, float] = {}
        for remedy in self.remedies.all:
            scope = remedy.budget.scope
            periods[scope] = max(periods.get(scope, 0.0), remedy.budget.per_s)
        uses = {}
        for scope, found in self.uses.items():
            since_s = self.clock_s - periods.get(scope, 0.0)
            kept = tuple(use for use in found if use.time_s > since_s or (use.open and use.until_s > self.clock_s))
            if kept:
                uses[scope] = kept if len(kept) != len(found) else found
        self.uses = uses
        for key, episode in list(self.episodes.items()):
            if episode.phase == "idle" and self._over(key, episode):
                del self.episodes[key]

    def _over(self, key: Key, episode: Episode) -> bool:
        remedy = self.remedies.by_name.get(key[0])
        if remedy is None:
            return True
        if episode.number in self.scene.incidents:
            return False  # it may come again in the same incident, whose keys are used up to here
        well_s = self.clock_s - (episode.well_s if episode.well_s is not None else self.clock_s)
        return self.clock_s >= episode.cool_s and (well_s >= remedy.backoff.reset or not episode.attempts)


def _backoff(remedy: Remedy, attempts: int) -> float:
    return float(min(remedy.backoff.cap, remedy.backoff.base * 2.0 ** min(max(0, attempts - 1), 40)))
