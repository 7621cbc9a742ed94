"""Backtests that somebody asked for: one at a time, in the background, with what came out kept for a while."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

import msgspec

from dogwatch.core.clock import Clock
from dogwatch.errors import Conflict, DogwatchError, NotFound, UsageError
from dogwatch.rules.backtest import Difference, Found, Outage, Progress, Rehearsal, compare, find_outages
from dogwatch.rules.part import LONGEST_BACKTEST_S, Incidents
from dogwatch.rules.spec import RuleSpec

log = logging.getLogger(__name__)
# Results that are kept, and for how long after they were looked at last.
_KEPT = 4
_KEEP_S = 1800.0
# Around an incident: what led to it, and what came of it.
_AROUND_S = 3600.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be tried. since_s: how far back. incident: go through the time around it instead. rules: in place of
    those in force. against: compare with what these would have done.
    """

    since_s: float
    incident: int = 0
    rules: Sequence[RuleSpec] | None = None
    against: Sequence[RuleSpec] | None = None
    outages: Sequence[Outage] = ()


class Backtest(msgspec.Struct, kw_only=True):
    """state: running, done, failed or stopped. second, difference: where it was compared. found: of each outage."""

    backtest_id: str
    wanted: Wanted
    progress: Progress
    touched_s: float
    state: str = "running"
    error: str = ""
    first: Rehearsal | None = None
    second: Rehearsal | None = None
    difference: Difference | None = None
    found: Sequence[Found] = ()
    found_second: Sequence[Found] = ()


class Backtests:
    """Runs them. Nothing is kept over a restart: a backtest changes nothing, and can be made again."""

    def __init__(self, incidents: Incidents, clock: Clock) -> None:
        self._incidents, self._clock = incidents, clock
        self._kept: dict[str, Backtest] = {}
        self._task: asyncio.Task[None] | None = None
        self._running = ""

    def start(self, wanted: Wanted) -> Backtest:
        """Raises: Conflict while another one runs."""
        if self._task is not None and not self._task.done():
            raise Conflict("another backtest is running", hint=f"wait for it, or stop it: {self._running}")
        self._forget()
        made = Backtest(
            backtest_id=f"bt_{secrets.token_hex(6)}",
            wanted=wanted,
            progress=Progress(),
            touched_s=self._clock.monotonic_s(),
        )
        self._kept[made.backtest_id] = made
        self._running = made.backtest_id
        self._task = asyncio.get_running_loop().create_task(self._run(made), name="backtest")
        return made

    def show(self, backtest_id: str) -> Backtest:
        """Raises: NotFound."""
        self._forget()
        found = self._kept.get(backtest_id)
        if found is None:
            raise NotFound(f"no backtest '{backtest_id}'", hint="results are kept for half an hour")
        found.touched_s = self._clock.monotonic_s()
        return found

    def stop(self, backtest_id: str) -> Backtest:
        """Raises: NotFound."""
        found = self.show(backtest_id)
        found.progress.stop = True
        return found

    async def close(self) -> None:
        """Stop what runs and wait for its end: a thread of it must not outlive the store."""
        if self._task is not None and not self._task.done():
            self._kept[self._running].progress.stop = True
            await asyncio.wait([self._task])

    def _forget(self) -> None:
        now_s = self._clock.monotonic_s()
        for name, one in list(self._kept.items()):
            if one.state != "running" and now_s - one.touched_s > _KEEP_S:
                del self._kept[name]
        over = [name for name, one in self._kept.items() if one.state != "running"]
        for name in over[: max(0, len(over) - _KEPT)]:
            del self._kept[name]

    async def _run(self, made: Backtest) -> None:
        try:
            await self._rehearse(made)
        except DogwatchError as error:
            made.state, made.error = "stopped" if made.progress.stop else "failed", str(error)
        except Exception as error:
            # A task of its own: whoever asked must hear of it, and nobody else is hurt.
            log.exception("a backtest failed")
            made.state, made.error = "failed", f"{type(error).__name__}: {error}"
        else:
            made.state = "done"

    async def _rehearse(self, made: Backtest) -> None:
        wanted = made.wanted
        since_s, until_s = await self._span(wanted)
        made.first = await self._incidents.rehearse(
            since_s=since_s, until_s=until_s, specs=wanted.rules, progress=made.progress
        )
        made.found = find_outages(made.first, wanted.outages)
        if wanted.against is not None:
            made.progress.share = 0.0
            made.second = await self._incidents.rehearse(
                since_s=since_s, until_s=made.first.until_s, specs=wanted.against, progress=made.progress
            )
            made.difference = compare(made.first, made.second)
            made.found_second = find_outages(made.second, wanted.outages)

    async def _span(self, wanted: Wanted) -> tuple[float, float | None]:
        if not wanted.incident:
            return wanted.since_s, None
        incident = await self._incidents.show(wanted.incident)
        now_s = self._clock.now_s()
        until_s = min(now_s, (incident.ended_s or now_s) + _AROUND_S)
        since_s = incident.began_s - _AROUND_S
        if until_s - since_s > LONGEST_BACKTEST_S:
            raise UsageError(f"incident #{wanted.incident} is too long for a backtest")
        return until_s - since_s, until_s
