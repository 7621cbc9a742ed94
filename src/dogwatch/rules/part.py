"""The part that hears of all that is observed, drives rules and incidents, and writes every step down."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.config.part import Configuration, Exchange, Prepared
from dogwatch.core.bus import Subscription
from dogwatch.core.deadline import cancel_and_wait, woken
from dogwatch.core.metrics import Family
from dogwatch.core.values import Event
from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.engine.values import Page
from dogwatch.errors import Conflict, NotFound, TransientError
from dogwatch.rules import records
from dogwatch.rules.backtest import Progress, Rehearsal, Span
from dogwatch.rules.decider import Held
from dogwatch.rules.desk import Input, Setting
from dogwatch.rules.driver import Moment, Saying, decide, moments
from dogwatch.rules.escalation import Policy
from dogwatch.rules.families import families
from dogwatch.rules.incident import Decisions, Incident, Note, Order, Silence, State
from dogwatch.rules.maintenance import MAINTENANCE, Calendar, build_maintenance
from dogwatch.rules.outside import book as outside
from dogwatch.rules.outside.firing import Firing, Scene
from dogwatch.rules.recording import write as write_recording
from dogwatch.rules.records import Change, Done
from dogwatch.rules.remedy.explain import Explanation, explanation, kept
from dogwatch.rules.remedy.values import NONE, Result
from dogwatch.rules.sight import TOPICS, Known, Sight, history
from dogwatch.rules.spec import DOWN_RULE, Rule, RuleSpec, compile_rule
from dogwatch.rules.surroundings import Around, Asked, Wanted, matters, tried
from dogwatch.rules.topology import Topology
from dogwatch.rules.watcher import AlertEdge, Key, Watcher
from dogwatch.store.database import Tx

log = logging.getLogger(__name__)

TURN_S = 0.5
GATHER_S = 0.02
_CLAIMS_KEPT_S = 32 * 86_400.0
LONGEST_BACKTEST_S = 90 * 86_400.0
HOUSEKEEPING_S = 3600.0
_EVENTS = 100_000
# What waits to be decided while the database refuses; beyond, the oldest ticks are given up, never alerts' ends.
_MOST_MOMENTS = 10_000
# Where a notice of another's alert was missed, and for those that are over by themselves.
_OUTSIDE_EVERY_S = 5.0
# How long conditions hold changes all the time; it is written down this often, and with all else that is.
_HELD_EVERY_S = 60.0


class Incidents:
    """Implements config.part.Part and rules.view.IncidentsView."""

    name = "incidents"

    def __init__(self, around: Around) -> None:
        self._around = around
        self.wanted = Wanted(rules=(), policy=Policy(), windows=())
        self.watcher = Watcher(())
        self.state = State()
        self._version: int | None = None
        self._held: Mapping[Key, Held] = {}
        self._sight = Sight(())
        self._setting = Setting(policy=Policy(), topology=Topology(), calendar=Calendar())
        self._moments: list[Moment] = []
        self._asked: list[Asked] = []
        self._stack = ExitStack()
        self._heard: Subscription | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._stale = True
        self._begun = False
        self._rehearsing = asyncio.Lock()
        self._written_s = 0.0
        # What was heard of others' alerts and when, until it is written down.
        self._heard_others: list[tuple[outside.Change, float]] = []
        # The newest change of others' alerts that was taken in; whether there is one that was not.
        self._outside = 0
        self._told_outside, self._looked_s = True, 0.0
        self._deaf: Callable[[], None] | None = None
        self.trouble = ""
        self.counts: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._acting = around.remedy.acting if around.remedy is not None else None
        if self._acting is not None:
            self._acting.wake = self._wake.set

    # -- Part -----------------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        zones = shared_zones()
        wanted = Wanted(
            rules=tuple(compile_rule(spec) for spec in configuration.get(self._around.rules)),
            policy=Policy(configuration.get(self._around.incidents)),
            windows=tuple(build_maintenance(spec, zones) for spec in configuration.get(MAINTENANCE)),
            doing=self._around.remedy.read(configuration, zones) if self._around.remedy is not None else None,
        )
        return Exchange(partial(self.put_in_force, wanted))

    def put_in_force(self, wanted: Wanted) -> None:
        self.wanted = wanted
        # What is watched changes in the same reload, perhaps after this: looked at in the next turn.
        self._stale = True
        if self._heard is None:
            bus = self._around.bus
            self._heard = self._stack.enter_context(bus.subscribe(*TOPICS, capacity=_EVENTS))
            self._stack.enter_context(bus.subscribe("transition", capacity=1, call=self._wake.set))
        if self._deaf is None and self._around.outside:
            self._deaf = self._around.database.listen(outside.TOPIC, self._hear_outside)
        if not self._tasks:
            self._tasks = [self._around.spawn("incidents", self._run())]

    async def stop(self) -> None:
        await cancel_and_wait(self._tasks)
        self._tasks = []
        if self._deaf is not None:
            self._deaf()
            self._deaf = None
        if self._acting is not None:
            self._acting.stop()
        self._stack.close()
        self._heard = None
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_exception(TransientError("Dogwatch is stopping"))
        self._asked = []

    # -- The loop -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        clock = self._around.clock
        cleaned_s = clock.monotonic_s()
        while True:
            try:
                await self.turn()
                if clock.monotonic_s() - cleaned_s >= HOUSEKEEPING_S:
                    cleaned_s = clock.monotonic_s()
                    await self._purge(clock.now_s() - self.wanted.policy.options.keep)
            except (Conflict, TransientError) as error:
                self._note_trouble(str(error))
            await self._rest()

    async def _rest(self) -> None:
        """Wait for the next turn: what changes a status is not kept waiting."""
        await woken(self._wake, TURN_S)
        self._wake.clear()
        # What comes together is decided together.
        await asyncio.sleep(GATHER_S)

    async def _purge(self, before_s: float) -> None:
        now_s, others = self._around.clock.now_s(), self._around.outside
        acting, budget_s = self._acting, now_s - _CLAIMS_KEPT_S

        def work(tx: Tx) -> None:
            records.purge(tx, before_s)
            if others:
                outside.purge(tx, now_s)
            if acting is not None:
                acting.purge(tx, before_s, budget_s)

        await self._around.database.write(work)

    async def turn(self) -> Decisions:
        """Take in what was heard, decide, and write it down. What cannot be written is decided again the next time.

        Raises: TransientError where the database refuses, Conflict where another process writes; nothing is lost then.
        """
        if self._stale or self._version is None:
            await self._begin()
        calendar = self._calendar()
        if calendar.windows != self._setting.calendar.windows:
            self._setting = msgspec.structs.replace(self._setting, calendar=calendar)
        now_s = self._around.clock.now_s()
        events: Sequence[Event] = self._heard.take() if self._heard is not None else ()
        signals = self._sight.signals(events)
        # To the millisecond, as it is kept for backtests.
        told_s = round(now_s, 3)
        told = await self._look_outside(now_s, told_s)
        self._moments += moments(self.watcher, signals, now_s, told=told, told_s=told_s)
        if self.watcher.shared != self._around.shared():
            self._share()
        if len(self._moments) > _MOST_MOMENTS:
            self._moments = [moment for moment in self._moments if moment.edges]
        decisions = await self._write(now_s, await self._acting.results(now_s) if self._acting is not None else [])
        if self._acting is not None:
            await self._acting.withdraw()
        return decisions

    def _share(self) -> None:
        """Leave the thresholds of some targets to what several places say."""
        self.watcher.shared = shared = self._around.shared()
        alone = [(key, one) for key, one in self.watcher.out.items() if key[0] == DOWN_RULE and key[1] in shared]
        if alone:
            now_s = self._around.clock.now_s()
            edges = tuple(AlertEdge(time_s=now_s, fired=False, alert=one) for _key, one in alone)
            self._moments.append(Moment(time_s=now_s, edges=edges))
            for key, _one in alone:
                del self.watcher.out[key]

    async def _look_outside(self, now_s: float, told_s: float) -> list[Saying]:
        """Return what became of alerts that others raise."""
        waited_s = now_s - self._looked_s
        if not self._around.outside or (not self._told_outside and 0 <= waited_s < _OUTSIDE_EVERY_S):
            return []
        self._told_outside = False
        after = self._outside
        found = await self._around.database.read(lambda tx: outside.changes(tx, after, now_s))
        self._looked_s = now_s
        self._outside = max((self._outside, *(one.changed for one in found)))
        # When rules heard of it is written down with what they made of it.
        self._heard_others += [(one, told_s) for one in found if one.firing is not (one.alert.key in self.watcher.out)]
        return [Saying(alert=one.alert, firing=one.firing) for one in found]

    def _hear_outside(self) -> None:
        self._told_outside = True
        self._wake.set()

    async def _write(self, now_s: float, results: Sequence[Result] = ()) -> Decisions:
        seen, asked = list(self._moments), list(self._asked)
        inputs: list[Input] = [*(one.order for one in asked), *results]
        after, decisions = decide(self._setting, self.state, seen, inputs, now_s=now_s)
        held = dict(self.watcher.held)
        waits = now_s - self._written_s < _HELD_EVERY_S or held == self._held
        if not inputs and waits and not matters(self.state, after, decisions, self._held, held):
            self.state = after
            self._moments = []
            return decisions
        change = Change(
            before=self.state,
            after=after,
            held_before=self._held,
            held_after=held,
            decisions=decisions,
            version=self._version or 0,
        )
        done, enqueue, acting = [one.done for one in asked], self._around.enqueue, self._acting
        prepared = acting.prepare(decisions, self.state, after) if acting is not None else None
        hint = acting.hint if acting is not None else None
        others = list(self._heard_others)

        def more(tx: Tx) -> None:
            outside.heard(tx, others)
            if acting is not None and prepared is not None:
                acting.save(tx, prepared)

        try:
            self._version = await self._around.database.write(
                lambda tx: records.save(tx, change, done, enqueue, more, hint)
            )
        except (Conflict, TransientError) as error:
            # Whether it is on disk is not known: what is there decides how it goes on.
            self._version = None
            self._asked = tried(asked, error, self._asked)
            raise
        self.state, self._held, self.trouble, self._written_s = after, held, "", now_s
        self._moments = []
        del self._heard_others[: len(others)]
        if acting is not None and prepared is not None:
            acting.took(results)
            acting.done(prepared)
        self._asked = [one for one in self._asked if one not in asked]
        for one in asked:
            if not one.answer.done():
                one.answer.set_result(None)
        self._count(decisions)
        return decisions

    async def _begin(self) -> None:
        """Read what is remembered, and fill the rules' windows from history."""
        around = self._around
        targets = list(around.targets())
        kept = await self._kept()
        self._sight = Sight(targets)
        self.state, self._version, self._held = kept.state, kept.version, kept.held
        wanted = self.wanted
        self._setting = self._setting_of(wanted, self._sight, targets)
        before, self._stale = self.watcher, False
        names = {rule.name for rule in wanted.rules}
        self.watcher = Watcher(wanted.rules)
        self._share()
        self.watcher.awaited = frozenset(self._setting.remedies.startup)
        # For how long conditions hold is written down now and then: in a reload what is in memory is newer.
        held = before.held if self._begun else kept.held
        self.watcher.held = {key: one for key, one in held.items() if key[0] in names}
        self._begun = True
        # What others said is told again, and what is known already changes nothing.
        self._outside, self._told_outside = 0, True
        self.watcher.out = {key: one.alert for key, one in kept.state.alerts.items() if one.active}
        # Edges that are not written down yet are not in what was kept.
        for moment in self._moments:
            for edge in moment.edges:
                if not isinstance(edge, AlertEdge):
                    continue
                self.watcher.out.pop(edge.alert.key, None)
                if edge.fired:
                    self.watcher.out[edge.alert.key] = edge.alert
        # Hosts tell of themselves: until they have, those with alerts are known from these.
        of_hosts = {rule.name for rule in wanted.rules if rule.source == "host"}
        self._sight.hosts = {target for source, target in before.gauge.seen if source == "host"} | {
            target for key, alert in self.watcher.out.items() if key[0] in of_hosts for target in alert.targets
        }
        await self._fill()

    def _calendar(self) -> Calendar:
        return self._around.calendar() if self._around.calendar is not None else Calendar(self.wanted.windows)

    def _setting_of(
        self,
        wanted: Wanted,
        sight: Sight,
        targets: Sequence[Known],
        specs: Sequence[RuleSpec] | None = None,
        *,
        rehearsed: bool = False,
    ) -> Setting:
        """Return what the deciders work with. specs: rules in place of those in force."""
        return Setting(
            policy=wanted.policy,
            topology=Topology(sight.nodes),
            calendar=self._calendar(),
            remedies=wanted.doing.remedies(targets, specs) if wanted.doing is not None else NONE,
            freeze=Calendar(wanted.doing.freeze) if wanted.doing is not None else Calendar(),
            rehearsed=rehearsed,
        )

    async def _kept(self) -> records.Kept:
        """Read what is remembered, of remedies too, and go on with what is being done."""
        acting = self._acting
        if acting is None:
            return await self._around.database.read(records.load)
        kept, (episodes, runs) = await self._around.database.read(lambda tx: (records.load(tx), acting.load(tx)))
        remedy = msgspec.structs.replace(kept.state.remedy, episodes=episodes)
        acting.begin(episodes, runs)
        acting.use(self.wanted.doing.texts() if self.wanted.doing is not None else {})
        return msgspec.structs.replace(kept, state=msgspec.structs.replace(kept.state, remedy=remedy))

    async def _fill(self) -> None:
        now_s, watcher = self._around.clock.now_s(), self.watcher
        for name, labels in self._sight.labels.items():
            watcher.know("probe", name, labels, now_s)
        if longest_s := watcher.gauge.longest_s:
            for signal in await history(self._around.store, self._sight, since_s=now_s - longest_s, until_s=now_s):
                watcher.gauge.take(signal)
        keep = [("probe", name) for name in self._sight.labels] + [("host", name) for name in self._sight.hosts]
        gone = tuple(watcher.forget(keep, now_s))
        watcher.know_alerts(now_s)
        if gone:
            self._moments.append(Moment(time_s=now_s, edges=gone))

    def _note_trouble(self, text: str) -> None:
        if text != self.trouble:
            log.warning("incidents cannot be written down: %s", text)
        self.trouble = text

    def _count(self, decisions: Decisions) -> None:
        for note in decisions.notes:
            self.counts[note.kind] += 1
        self.counts["notices"] += len(decisions.notices)
        if decisions.notes and self._around.bus.wanted("incident"):
            for note in decisions.notes:
                self._around.bus.publish(Event(topic="incident", time_s=note.time_s, data=note))

    # -- IncidentsView --------------------------------------------------------------------------------------------

    async def find(
        self, *, state: str = "", limit: int = 50, before: int | None = None, count: bool = False
    ) -> Page[Incident]:
        return await self._around.database.read(
            lambda tx: records.find(tx, state=state, limit=limit, before=before, count=count)
        )

    async def show(self, number: int) -> Incident:
        return await self._around.database.read(lambda tx: records.show(tx, number))

    async def timeline(self, number: int) -> Sequence[Note]:
        return await self._around.database.read(lambda tx: records.timeline(tx, number))

    async def explain(self, number: int) -> Explanation:
        """Return why it happened. Raises: NotFound."""
        found = await self._around.database.read(lambda tx: kept(tx, number))
        return explanation(found, self._setting, self.state)

    async def order(self, number: int, verb: str, actor: Actor, *, text: str = "") -> Incident:
        """Carry out ack, unack, comment, escalate or resolve, and return the incident. Raises: NotFound, Conflict."""
        incident = await self.show(number)
        if incident.ended_s is not None:
            raise Conflict(f"incident #{number} is over: {incident.state}")
        if verb == "escalate" and not self.wanted.policy.left(incident.escalation, incident.notify, incident.step):
            raise Conflict(f"everybody was told of incident #{number} already", hint="add a step to its escalation")
        order = Order(verb=verb, actor=str(actor), number=number, text=text)
        done = Done(actor=actor, verb="change", name=f"#{number}", reason=f"{verb}: {text}", labels=incident.labels)
        await self._ask(order, done)
        return await self.show(number)

    async def silence(self, wanted: Silence, actor: Actor) -> Silence:
        """Keep a silence until its time. Raises: NotFound for an incident that is not there."""
        labels = (await self.show(wanted.number)).labels if wanted.number else {}
        silence = msgspec.structs.replace(wanted, silence_id=f"sil_{secrets.token_hex(6)}", by=str(actor))
        order = Order(verb="silence", actor=str(actor), silence=silence)
        done = Done(
            actor=actor, verb="create", name=silence.silence_id, reason=f"silence: {silence.reason}", labels=labels
        )
        await self._ask(order, done)
        return silence

    async def unsilence(self, silence_id: str, actor: Actor) -> None:
        """Raises: NotFound."""
        if silence_id not in self.state.silences:
            raise NotFound(f"no silence '{silence_id}'")
        order = Order(verb="unsilence", actor=str(actor), text=silence_id)
        await self._ask(order, Done(actor=actor, verb="delete", name=silence_id, reason="unsilence"))

    def silences(self) -> Sequence[Silence]:
        return list(self.state.silences.values())

    def rules(self) -> Sequence[Rule]:
        return self.wanted.rules

    def firing(self) -> Mapping[str, int]:
        """Return how many alerts of each rule are out."""
        return Counter(key[0] for key in self.watcher.out)

    async def rehearse(
        self,
        *,
        since_s: float,
        until_s: float | None = None,
        specs: Sequence[RuleSpec] | None = None,
        progress: Progress | None = None,
    ) -> Rehearsal:
        """Return what rules would have done with what was recorded. since_s: how far back. until_s: a time, None for
        now. specs: instead of those in force, checked.

        Raises: Conflict while another one runs, UsageError where numpy is missing.
        """
        if self._rehearsing.locked():
            raise Conflict("another backtest is running", hint="try again when it has ended")
        async with self._rehearsing:
            now_s = self._around.clock.now_s() if until_s is None else until_s
            targets = list(self._around.targets())
            sight = Sight(targets)
            rules = tuple(map(compile_rule, specs)) if specs is not None else self.wanted.rules
            setting = self._setting_of(self.wanted, sight, targets, specs, rehearsed=True)
            # What it computes with is heavy, and needed by nothing else.
            from dogwatch.rules.backtest_store import rehearse_store

            span = Span(since_s=now_s - since_s, until_s=now_s)
            around = await self._scene(sight, span.since_s, span.until_s)
            return await rehearse_store(self._around.store, setting, rules, around, span, progress)

    async def _scene(self, sight: Sight, since_s: float, until_s: float) -> Scene:
        """Return what is known of a time beside its results."""
        others, database = list[Firing](), self._around.database
        if self._around.outside:
            others = await database.read(lambda tx: outside.firings(tx, since_s, until_s))
        return Scene(nodes=sight.nodes, hosts=sorted(self._sight.hosts), firings=others)

    async def record(self, *, since_s: float, until_s: float) -> AsyncIterator[bytes]:
        """Yield what was recorded in a time, as a file of signals."""
        now_s, store = self._around.clock.now_s(), self._around.store
        until_s = min(until_s, now_s)
        scene = await self._scene(Sight(self._around.targets()), since_s, until_s)
        async for part in write_recording(store, scene, since_s=since_s, until_s=until_s, made_s=now_s):
            yield part

    async def _ask(self, order: Order, done: Done) -> None:
        answer = asyncio.get_running_loop().create_future()
        asked = Asked(order=order, done=done, answer=answer)
        self._asked.append(asked)
        try:
            await answer
        finally:
            if asked in self._asked:
                self._asked.remove(asked)

    def metrics(self) -> Iterable[Family]:
        lost = self.watcher.gauge.dropped + (self._heard.dropped if self._heard else 0)
        return families(len(self.state.incidents), len(self.watcher.out), self.counts["notices"], lost)
