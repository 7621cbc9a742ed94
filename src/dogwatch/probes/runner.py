"""How attempts run: each at its time, never two of one target, bounded in number, recorded when they end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from functools import partial
from typing import Final

from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.values import Event, Status, Transition
from dogwatch.probes.lane import Landing, Lane
from dogwatch.probes.lateness import LatenessHistogram
from dogwatch.probes.probe import Done, ProbeResult
from dogwatch.probes.schedule import STALL_S, Schedule, first_two_s
from dogwatch.probes.target import Target
from dogwatch.probes.view import ResultSeen
from dogwatch.rules.thresholds import Seen, State
from dogwatch.store.protocol import Store, TargetState
from dogwatch.store.successes import Successes

log = logging.getLogger(__name__)
# Timers closer together than this are served by one turn: it bounds turns a second, and lateness barely notices.
TURN_S: Final = 0.002
STATE_EVERY_S = 10.0
# A kind that never ends its attempt is given up this long after it should have.
OVERDUE_S = 5.0
_UP: Final = int(Status.UP)


class Runner:
    """Runs the attempts of the targets that are put on its schedule.

    concurrency: attempts under way at once; more wait, and are counted in queued_total.
    """

    def __init__(self, *, store: Store, bus: Bus, clock: Clock, concurrency: int) -> None:
        self.store = store
        self.bus = bus
        self.clock = clock
        self.concurrency = concurrency
        self.schedule: Schedule[Target] = Schedule()
        self.lateness = LatenessHistogram()
        self.running = 0
        self.queued_total = 0
        self.stopping = False
        self._queue: deque[tuple[Target, float]] = deque()
        self._retries: dict[Target, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self._turned = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._landing = Landing(self.land, self._done_for)

    @property
    def waiting(self) -> int:
        """How many targets are due and wait for others to end."""
        return len(self._queue)

    async def drain(self) -> None:
        """Take no new work; return when every transition is written down."""
        self.stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # The schedule.

    def plan(self, target: Target, *, among: int) -> None:
        """Put a target on the schedule: soon for the first time, then at its own place in the interval.

        among: how many targets there are, so that many are not all asked at once.
        """
        now_s = self.schedule.time_s(self.clock.monotonic_s())
        first_s, second_s = first_two_s(target.name, target.spec.every, among)
        target.settle_s = now_s + second_s
        self.schedule.put(target, now_s + first_s)
        self.arm()

    def arm(self) -> None:
        """Set the one timer for the earliest entry."""
        following = self.schedule.next_s()
        if following is None or self.stopping:
            return
        at_s = following + self.schedule.stalled_s
        if self._timer is not None:
            if self._timer_at_s <= at_s:
                return
            self._timer.cancel()
        self._timer_at_s = at_s
        wait_s = max(TURN_S, at_s - self.clock.monotonic_s())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.turn()

    def turn(self) -> None:
        """Start everything that is due now. Called by the timer; a test calls it after moving its clock."""
        monotonic_s = self.clock.monotonic_s()
        stalls = self.schedule.stalls
        now_s = self.schedule.catch_up(monotonic_s)
        while (target := self.schedule.pop(now_s)) is not None:
            self._come(target, now_s)
        # Before the first turn everything is still being started: nothing of the watch was missed.
        if self.schedule.stalls != stalls and self._turned:
            log.warning("the watch was behind by over %g s: every attempt was moved, none is caught up with", STALL_S)
        self._turned = True
        self.arm()

    def _come(self, target: Target, now_s: float) -> None:
        """A target's time has come: plan its next, then start it, let it wait, or skip it."""
        every_s = target.every_s
        # The grid is kept: jitter and lateness are not carried over from one attempt to the next.
        grid_s = target.due_s - target.jitter_s
        target.jitter_s = random.random() * target.spread_s if target.spread_s else 0.0  # noqa: S311 - spreads load
        lateness_s = now_s - target.due_s
        following_s = grid_s + every_s if target.settle_s is None else target.settle_s
        target.settle_s = None
        if following_s <= now_s:
            missed = int((now_s - following_s) / every_s) + 1
            target.skipped += missed
            following_s += missed * every_s
        self.schedule.put(target, following_s + target.jitter_s)
        if target.running or target.queued:
            target.skipped += 1
            self._end_overdue(target)
        elif self.running >= self.concurrency:
            target.queued = True
            self.queued_total += 1
            self._queue.append((target, now_s))
        else:
            self.launch(target, lateness_s, now_s + self.schedule.stalled_s)

    def _end_overdue(self, target: Target) -> None:
        waited_s = self.clock.monotonic_s() - target.started_s
        if target.running and target not in self._retries and waited_s > target.spec.timeout + OVERDUE_S:
            log.error("probe %s: the attempt did not end in its time; given up", target.name)
            self._cancel(target)
            message = f"the probe did not end within {waited_s:.3g} s"
            self._finish(target, ProbeResult(success=False, duration_s=waited_s, reason="timeout", message=message))

    # Attempts.

    def launch(self, target: Target, lateness_s: float, monotonic_s: float) -> None:
        """Begin an attempt. monotonic_s: now, or when the turn that is under way began."""
        self.lateness.observe(lateness_s)
        target.last_lateness_s = lateness_s
        target.tries = 0
        target.running = True
        self.running += 1
        self._try(target, monotonic_s)

    def _try(self, target: Target, monotonic_s: float) -> None:
        target.tries += 1
        target.started_s = monotonic_s
        if target.laned is not target.attempt:
            self._ask_for_lane(target)
        lane = target.lane
        if lane is not None and lane.start():
            target.flying = lane
            return
        done = partial(self._done, target, target.tries)
        target.on_done = done
        try:
            cancel = target.check.launch(target.attempt, done)
        except Exception as error:
            log.exception("probe %s: could not be started", target.name)
            done(ProbeResult(success=False, duration_s=0.0, reason="local", message=f"internal error: {error!r}"))
            return
        # It may have ended at once, and even have begun anew.
        if target.on_done is done:
            target.cancel = cancel

    def _ask_for_lane(self, target: Target) -> None:
        target.hold()
        target.laned = target.attempt
        target.lane = target.check.lane(target.attempt, self._landing, target)

    def _done_for(self, target: Target) -> Done:
        return partial(self._done, target, target.tries)

    def land(self, lanes: list[Lane]) -> None:
        """Take the attempts that ended well in one turn of the engine: most change nothing, and are written down."""
        now_s, monotonic_s = self.clock.now_s(), self.clock.monotonic_s()
        watched = self.bus.wanted("result")
        ended = Successes(now_s, _UP)
        for lane in lanes:
            target: Target = lane.owner
            if target.flying is not lane or not lane.fresh:
                continue
            lane.fresh = False
            try:
                if watched or not target.passes(lane):
                    self._done(target, target.tries, lane.result())
                    continue
                target.flying = None
                target.running = False
                self.running -= 1
                target.note(now_s, monotonic_s)
                ended.add(target.spec.name, lane.duration_s, lane.connect_s, lane.first_byte_s)
            except Exception:
                log.exception("probe %s: the attempt's end failed", target.name)
        if ended.targets:
            self.store.add_successes(ended)
        if self._queue:
            self._let_in()

    def _done(self, target: Target, tries: int, result: ProbeResult) -> None:
        if target.gone or not target.running or tries != target.tries:
            return
        target.on_done = target.cancel = target.flying = None
        if not result.success or target.rules.expect is not None or target.rules.degraded is not None:
            result, degraded = target.judge(result)
            if not result.success and self._retry(target):
                return
            self._finish(target, result, degraded=degraded)
        else:
            self._finish(target, result)

    def _retry(self, target: Target) -> bool:
        """Plan another try; return False where there is none left, or no time for it before the next attempt."""
        retries = target.spec.retries
        if target.tries > retries.attempts or self.stopping:
            return False
        longest_s = min(retries.cap, retries.base * 2 ** (target.tries - 1))
        wait_s = random.random() * longest_s  # noqa: S311 - full jitter
        left_s = target.due_s - self.schedule.time_s(self.clock.monotonic_s())
        if target.planned and wait_s + target.spec.timeout > left_s:
            return False
        self._retries[target] = asyncio.get_running_loop().call_later(wait_s, self._again, target)
        return True

    def _again(self, target: Target) -> None:
        self._retries.pop(target, None)
        self._try(target, self.clock.monotonic_s())

    def _finish(self, target: Target, result: ProbeResult, *, degraded: bool = False) -> None:
        """Take an attempt's last result: decide, record, announce, and let the next one in."""
        now_s = self.clock.now_s()
        target.running = False
        self.running -= 1
        if result.success or result.values.get("new") is not True:
            self._record(target, result, now_s, degraded=degraded)
        else:
            # A heartbeat that nobody has called yet: nothing is known, so it stays pending and nothing is counted.
            target.show(result, now_s)
        if target.waiters:
            for waiter in target.waiters:
                if not waiter.done():
                    waiter.set_result(result)
            target.waiters.clear()
        if self._queue:
            self._let_in()

    def _record(self, target: Target, result: ProbeResult, now_s: float, *, degraded: bool) -> None:
        if not result.success:
            seen, why = Seen.BAD, result.message
        else:
            seen, why = (Seen.POOR, result.message) if degraded else (Seen.GOOD, "")
        before = target.state
        transition = target.observe(seen, now_s=now_s, monotonic_s=self.clock.monotonic_s(), why=why)
        self.store.add_result(target.row(result, now_s))
        if not result.success:
            self.store.add_failure(target.failure(result, now_s))
        target.count(result, now_s)
        if transition is not None:
            self.announce(target, transition)
        elif target.state is not before:
            self.save(target)
        if self.bus.wanted("result"):
            self.bus.publish(Event(topic="result", time_s=now_s, data=_seen(target, result, now_s)))

    def _let_in(self) -> None:
        while self._queue and self.running < self.concurrency and not self.stopping:
            target, due_s = self._queue.popleft()
            target.queued = False
            if not target.gone and not target.state.paused and not target.running:
                monotonic_s = self.clock.monotonic_s()
                self.launch(target, max(0.0, self.schedule.time_s(monotonic_s) - due_s), monotonic_s)

    # States.

    def announce(self, target: Target, transition: Transition) -> None:
        """Write a transition down, then tell it; transitions of one target stay in their order."""
        work = self._commit(target.commit, transition, target, target.state, target.stored())
        task = asyncio.get_running_loop().create_task(work, name=f"transition of {target.name}")
        target.commit = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def committed(self, target: Target) -> None:
        """Return once the target's newest transition is written down."""
        if target.commit is not None:
            await asyncio.wait((target.commit,))

    async def _commit(
        self,
        earlier: asyncio.Task[None] | None,
        transition: Transition,
        target: Target,
        state: State,
        stored: TargetState,
    ) -> None:
        if earlier is not None:
            await asyncio.wait((earlier,))
        try:
            await self.store.commit_transition(transition, stored)
        except Exception:
            # The store queues what it cannot write; if it fails all the same, watching goes on and says so.
            log.exception("%s: the transition to %s could not be kept", transition.target, transition.after.word)
        target.saved, target.saved_s = state, self.clock.monotonic_s()
        log.info("%s: %s → %s: %s", transition.target, transition.before.word, transition.after.word, transition.reason)
        self.bus.publish(Event(topic="transition", time_s=transition.time_s, data=transition))
        if target.commit is asyncio.current_task():
            target.commit = None

    def save(self, target: Target, *, force: bool = False) -> None:
        """Keep the decider's counters, not more often than every STATE_EVERY_S."""
        now_s = self.clock.monotonic_s()
        if target.state is not target.saved and (force or now_s - target.saved_s >= STATE_EVERY_S):
            self.store.add_state(target.stored())
            target.saved, target.saved_s = target.state, now_s

    def _cancel(self, target: Target) -> None:
        """Cancel the try under way, or the one to come; the attempt stays open."""
        # A result that is on its way already belongs to a try that is over.
        target.tries += 1
        retry = self._retries.pop(target, None)
        if retry is not None:
            retry.cancel()
        cancel, target.cancel, target.on_done = target.cancel, None, None
        if cancel is not None:
            cancel()
        flying, target.flying = target.flying, None
        if flying is not None:
            flying.cancel()

    def interrupt(self, target: Target) -> None:
        """Cancel the attempt under way, if there is one, as if it had never begun."""
        if target.running:
            self._cancel(target)
            target.running = False
            self.running -= 1
            if self._queue:
                # Not at once: whoever interrupts one target may be about to forget those that wait.
                asyncio.get_running_loop().call_soon(self._let_in)

    def forget(self, target: Target) -> None:
        """Stop asking a target: nothing of it is left running."""
        self.schedule.remove(target)
        target.queued = False
        self.interrupt(target)
        for waiter in target.waiters:
            waiter.cancel()
        target.waiters.clear()


def _seen(target: Target, result: ProbeResult, now_s: float) -> ResultSeen:
    return ResultSeen(
        target=target.name,
        time_s=now_s,
        success=result.success,
        status=target.status.word,
        duration_s=result.duration_s,
        phases=result.phases,
        reason=result.reason,
        message=result.message,
        lateness_s=target.last_lateness_s,
    )
