"""The watch: the targets that the configuration names, and what pages, API and CLI ask of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dogwatch.config.part import Configuration, Prepared
from dogwatch.config.section import Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import Clock
from dogwatch.core.component import Registry, nearest
from dogwatch.core.metrics import Family
from dogwatch.errors import NotFound, TransientError
from dogwatch.probes.adhoc import ask_once, build_probe
from dogwatch.probes.env import default_concurrency
from dogwatch.probes.heartbeats import HeartbeatLedger
from dogwatch.probes.metrics import probe_families, watch_families
from dogwatch.probes.probe import Probe, ProbeEnv, ProbeResult
from dogwatch.probes.reload import WatchChange
from dogwatch.probes.runner import Runner
from dogwatch.probes.spec import ProbeSpec
from dogwatch.probes.target import Target
from dogwatch.probes.view import TargetView
from dogwatch.rules.thresholds import Seen
from dogwatch.store.protocol import Store

AD_HOC_RUNNING = 100


class Watch(Runner):
    """Owns all targets; a Part (prepare, stop) and a WatchView. Starts empty.

    section: the `probes` section that it reads. concurrency: attempts under way at once; None for what the
    descriptor limit bears.
    """

    name = "watch"

    def __init__(
        self,
        *,
        env: ProbeEnv,
        store: Store,
        bus: Bus,
        clock: Clock,
        section: Section[list[ProbeSpec]],
        concurrency: int | None = None,
    ) -> None:
        super().__init__(store=store, bus=bus, clock=clock, concurrency=concurrency or default_concurrency())
        self.env = env
        self.section = section
        self.all: dict[str, Target] = {}
        self.heartbeats: HeartbeatLedger = env.extra.setdefault("heartbeat", HeartbeatLedger(clock))
        self._ad_hoc = asyncio.Semaphore(AD_HOC_RUNNING)

    @property
    def registry(self) -> Registry[Probe]:
        return self.section.families[Probe]

    # The life of a part.

    def prepare(self, configuration: Configuration) -> Prepared:
        """Build every target that is new or changed, without any effect.

        Raises: ConfigError.
        """
        specs: list[ProbeSpec] = configuration.get(self.section)
        return WatchChange(self, specs)

    async def stop(self) -> None:
        """Take no new work, cancel what runs, write every state down."""
        self.stopping = True
        for target in self.all.values():
            self.forget(target)
        await self.drain()
        for target in self.all.values():
            self.save(target, force=True)
        await self.store.flush()

    # The view.

    def targets(self) -> Sequence[TargetView]:
        """Return all targets in configuration order."""
        schedule_s = self.schedule.time_s(self.clock.monotonic_s())
        return [target.view(schedule_s) for target in self.all.values()]

    def each(self) -> Iterator[TargetView]:
        """Yield all targets, each as it is when its turn comes: for who looks at a large watch a slice at a time."""
        for target in list(self.all.values()):
            yield target.view(self.schedule.time_s(self.clock.monotonic_s()))

    def target(self, name: str) -> TargetView:
        """Return one target as it is now.

        Raises: NotFound with the nearest name.
        """
        return self._find(name).view(self.schedule.time_s(self.clock.monotonic_s()))

    async def pause(self, name: str) -> TargetView:
        """Stop asking a target; it stays paused over reloads and restarts. Returns once that is on disk."""
        target = self._find(name)
        self.schedule.remove(target)
        target.queued = False
        self.interrupt(target)
        for waiter in target.waiters:
            waiter.cancel()
        target.waiters.clear()
        target.config_paused = False
        self.control(target, Seen.PAUSE, "paused by hand")
        await self.committed(target)
        return self.target(name)

    async def resume(self, name: str) -> TargetView:
        """Ask a paused target again, at once; it is pending until it answers."""
        target = self._find(name)
        if target.state.paused:
            self.control(target, Seen.RESUME, "resumed by hand")
            self.schedule.put(target, self.schedule.time_s(self.clock.monotonic_s()))
            self.arm()
            await self.committed(target)
        return self.target(name)

    async def set_maintenance(self, names: Iterable[str], on: bool) -> None:
        """Begin or end maintenance: targets are asked as ever, but their status is not up or down meanwhile."""
        seen = Seen.MAINTENANCE_ON if on else Seen.MAINTENANCE_OFF
        targets = [self._find(name) for name in names]
        for target in targets:
            self.control(target, seen, "")
        await asyncio.gather(*map(self.committed, targets))

    def control(self, target: Target, seen: Seen, why: str) -> None:
        """Let the decider see what an operator, the configuration or a maintenance window wants."""
        now_s, monotonic_s = self.clock.now_s(), self.clock.monotonic_s()
        transition = target.observe(seen, now_s=now_s, monotonic_s=monotonic_s, why=why)
        if transition is not None:
            self.announce(target, transition)
        else:
            self.save(target, force=True)

    async def run_now(self, name: str) -> ProbeResult:
        """Run one attempt now, beside the schedule; it counts as any other. Joins one that is under way."""
        target = self._find(name)
        if self.stopping:
            raise TransientError(f"cannot ask '{name}': the watch is stopping")
        waiter: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
        target.waiters.append(waiter)
        if not target.running:
            self.launch(target, 0.0, self.clock.monotonic_s())
        try:
            return await waiter
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise TransientError(f"the attempt at '{name}' was cancelled: the target was paused or changed") from None
        finally:
            if waiter in target.waiters:
                target.waiters.remove(waiter)

    async def run_ad_hoc(
        self, kind: str, options: Mapping[str, Any], *, timeout_s: float
    ) -> tuple[ProbeResult, list[Family]]:
        """Run a probe that is not configured, and forget it.

        Raises: ConfigError naming every wrong option.
        """
        return await self.ask(build_probe(self.registry, kind, options), timeout_s=timeout_s)

    async def ask(self, probe: Probe, *, timeout_s: float) -> tuple[ProbeResult, list[Family]]:
        """Run one attempt of a probe that is not a target, expectations included."""
        async with self._ad_hoc:
            result = await ask_once(probe, self.env, timeout_s=timeout_s)
        return result, probe_families(probe, result)

    async def ping(
        self, name: str, *, signal: str, exit_status: int | None, body: str, remote: str, rid: str = ""
    ) -> None:
        """Take a heartbeat call; returns once it is on disk and judged. name: the target's name or its ping id.

        Raises: NotFound, also for a target that is no heartbeat; TransientError when it cannot be kept.
        """
        known = self.heartbeats.find(name)
        if known is None:
            # The name may be a secret ping id: other names are not offered.
            raise NotFound(f"there is no heartbeat '{name}'")
        target = self._find(known)
        ping = self.heartbeats.ping(known, signal=signal, exit_status=exit_status, body=body, remote=remote, rid=rid)
        await self.store.commit_ping(ping)
        self.heartbeats.apply(ping)
        if not target.state.paused and not self.stopping:
            await self.run_now(target.name)

    def metrics(self) -> Iterable[Family]:
        return watch_families(self)

    def _find(self, name: str) -> Target:
        target = self.all.get(name)
        if target is None:
            raise NotFound(f"there is no target '{name}'", hint=nearest(name, list(self.all)))
        return target
