"""Takes an apply over the fleet: play after play, batch after batch, until a budget or a probe says stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.errors import UsageError
from dogwatch.fleet.connection import State
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.plans.apply import Applier, Done
from dogwatch.fleet.plans.journal import Line, Notes
from dogwatch.fleet.plans.make import logins_of
from dogwatch.fleet.plans.plan import Plan, PlayPlan
from dogwatch.fleet.pool import Dialer
from dogwatch.fleet.rollout import Amount, Rollout, cut_batches, judge, parse_amount, parse_batches
from dogwatch.fleet.run import FleetRun, HostLedger, Order, Watcher

# Asked after each batch but the last, with its hosts: why no further one may be begun, or "".
Gate = Callable[[PlayPlan, Sequence[str]], Awaitable[str]]
FOLDER_VARIABLE = "dogwatch_state"


class Going(msgspec.Struct, frozen=True, kw_only=True):
    """How an apply goes. batches, max_fail: in place of the plays'. only: these hosts; None for all of the plan."""

    inventory: Inventory
    more: Mapping[str, Any] = {}
    forks: int = 50
    batches: str | None = None
    max_fail: str | None = None
    only: frozenset[str] | None = None
    back: bool = False


class Went(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. stopped: why not all hosts had their turn, or ""."""

    done: tuple[Done, ...]
    stopped: str = ""


class Goer:
    """One apply on its way. `cancel` ends it early."""

    def __init__(
        self,
        plan: Plan,
        going: Going,
        applier: Applier,
        journal: Notes,
        dialer: Dialer,
        *,
        gate: Gate | None = None,
        watcher: Watcher | None = None,
        heed: Callable[[FleetRun], None] | None = None,
        ledger: HostLedger | None = None,
    ) -> None:
        self._plan, self._going, self._applier, self._journal = plan, going, applier, journal
        self._dialer, self._gate, self._watcher, self._heed = dialer, gate, watcher, heed
        self._ledger = ledger
        self._done: dict[str, Done] = {}

    async def go(self, before: Mapping[str, str]) -> Went:
        """Go over the hosts. before: host → how it ended in what is resumed; those that are done are left alone."""
        stopped = ""
        for play in self._plan.plays:
            if stopped:
                self._wait(play, stopped)
            else:
                stopped = await self._play(play, before)
        hosts = [host.host for play in self._plan.plays for host in play.hosts if self._mine(host.host)]
        return Went(done=tuple(self._done[host] for host in hosts if host in self._done), stopped=stopped)

    def _mine(self, host: str) -> bool:
        return self._going.only is None or host in self._going.only

    async def _play(self, play: PlayPlan, before: Mapping[str, str]) -> str:
        rollout = rollout_of(play, self._going)
        hosts = []
        for plan in play.hosts:
            if not self._mine(plan.host):
                continue
            if not self._going.back and before.get(plan.host) in ("applied", "unchanged"):
                self._done[plan.host] = Done(host=plan.host, state=before[plan.host], message="done before")
            elif not self._going.back and not plan.items and not plan.problems:
                self._done[plan.host] = Done(host=plan.host, state="unchanged")
            else:
                hosts.append(plan.host)
        batches = cut_batches(hosts, rollout.batches)
        stopped = ""
        for at, batch in enumerate(batches):
            failed = sum(not one.ok for one in self._done.values())
            verdict = judge(rollout, total=len(play.hosts), failed=failed)
            stopped = stopped or verdict.reason
            if stopped:
                break
            stopped = await self._batch(play, rollout, batch)
            if not stopped and self._gate is not None and play.probes and not self._going.back:
                told = await self._gate(play, batch)
                # After the last batch, too, a sick host is told; there is only nothing left to stop.
                if told and at < len(batches) - 1:
                    stopped = told
        self._wait(play, stopped)
        return stopped

    async def _batch(self, play: PlayPlan, rollout: Rollout, batch: Sequence[str]) -> str:
        logins = logins_of(
            batch,
            self._going.inventory,
            become=play.become,
            become_user=play.become_user,
            more=self._going.more,
        )
        failed = sum(not one.ok for one in self._done.values())
        left = None
        if rollout.max_fail is not None:
            left = Amount(max(0, rollout_limit(rollout.max_fail, len(play.hosts)) - failed))
        running = FleetRun(
            Order(script="", forks=self._going.forks, timeout_s=None, rollout=Rollout(max_fail=left)),
            logins,
            self._dialer,
            work=self._applier.back if self._going.back else self._applier.work,
            watcher=self._watcher,
            ledger=self._ledger,
        )
        if self._heed is not None:
            self._heed(running)
        for result in await running.run():
            done = self._applier.done.get(result.host)
            if done is None:
                state = "not started" if result.state is State.NOT_STARTED else str(result.state)
                done = Done(host=result.host, state=state, message=result.message)
                if result.state is not State.NOT_STARTED:
                    self._journal.add(Line(what="ended", host=done.host, state=done.state, message=done.message))
            self._done[result.host] = done
        return running.reason

    def _wait(self, play: PlayPlan, reason: str) -> None:
        for plan in play.hosts:
            if self._mine(plan.host) and plan.host not in self._done:
                self._done[plan.host] = Done(host=plan.host, state="not started", message=reason)


def rollout_limit(amount: Amount, total: int) -> int:
    """Return how many hosts may fail; of a share rounded down."""
    return amount.count if amount.share is None else int(round(total * amount.share, 6))


def rollout_of(play: PlayPlan, going: Going) -> Rollout:
    """Return the play's batches and budget. Without a budget no host may fail. Raises: UsageError."""
    batches = play.batches if going.batches is None else going.batches
    max_fail = play.max_fail if going.max_fail is None else going.max_fail
    return Rollout(batches=parse_batches(batches), max_fail=parse_amount(max_fail or "0"))


def folders_of(inventory: Inventory, hosts: Sequence[str]) -> dict[str, str]:
    """Return where each host keeps its state, of those that say so. Raises: UsageError."""
    found = {}
    for host in hosts:
        if host not in inventory:
            continue
        folder = inventory.variable(host, FOLDER_VARIABLE)
        if folder is None:
            continue
        if not isinstance(folder, str) or not folder.startswith("/") or "\n" in folder:
            raise UsageError(f"{FOLDER_VARIABLE} of {host} is not an absolute path: {folder!r}")
        found[host] = folder
    return found


def exit_code(done: Sequence[Done]) -> int:
    """Return 0 where all is well, 11 where hosts were only refused, 3 where some failed, 1 where all did."""
    bad = [one for one in done if not one.ok]
    if not bad:
        return 0
    real = [one for one in bad if not one.refused and one.state != "not started"]
    if not real and any(one.refused for one in bad):
        return 11
    return 3 if len(bad) < len(done) else 1


def told_hosts(done: Sequence[Done]) -> dict[str, str]:
    """Return state → folded names of its hosts, in the order of the first of each."""
    found: dict[str, list[str]] = {}
    for one in done:
        found.setdefault(one.state, []).append(one.host)
    return {state: fold(hosts) for state, hosts in found.items()}
