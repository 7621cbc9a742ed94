"""How a new configuration reaches the watch: built aside, swapped in at once, the old stopped after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.kinds.heartbeat import HeartbeatProbe
from dogwatch.probes.spec import ProbeSpec, check_probes, fingerprint
from dogwatch.probes.target import Rules, Target, close_memory
from dogwatch.rules.thresholds import Seen, State

if TYPE_CHECKING:
    from dogwatch.probes.watch import Watch


class WatchChange:
    """A built change to the watch's targets.

    kept: not changed at all. adapted: same identity, other labels, thresholds, interval or expectation: state and
    memory stay. added: new, or of another identity. removed: what the configuration no longer names as it was.
    """

    def __init__(self, watch: Watch, specs: Sequence[ProbeSpec]) -> None:
        faults = list(check_probes(specs))
        if faults:
            raise ConfigError(
                Problem(fault.message, path="probes" + _path(fault.path), hint=fault.hint) for fault in faults
            )
        self._ping_ids = ping_ids(specs)
        self._watch = watch
        self._order = [spec.name for spec in specs]
        self.kept: dict[str, Target] = {}
        self.adapted: dict[str, tuple[Target, ProbeSpec, Rules]] = {}
        self.added: dict[str, Target] = {}
        now_s = watch.clock.now_s()
        for spec in specs:
            old = watch.all.get(spec.name)
            if old is not None and old.spec == spec:
                self.kept[spec.name] = old
            elif old is not None and old.fingerprint == fingerprint(spec):
                self.adapted[spec.name] = (old, spec, Rules(spec))
            else:
                self.added[spec.name] = self._build(spec, old, now_s)
        self.removed = [
            target for name, target in watch.all.items() if name not in self.kept and name not in self.adapted
        ]

    def _build(self, spec: ProbeSpec, old: Target | None, now_s: float) -> Target:
        target = Target(spec, self._watch.env, now_s=now_s)
        if old is not None and old.state.paused and not old.config_paused:
            target.state = State(since_s=old.state.since_s, paused=True)
        return target

    async def start(self) -> None:
        """Fetch what is known of the new targets from before a restart."""
        if not self.added:
            return
        stored = await self._watch.store.states()
        for target in self.added.values():
            if target.name in stored:
                target.restore(stored[target.name])
        await self._restore_heartbeats()

    async def _restore_heartbeats(self) -> None:
        ledger = self._watch.heartbeats
        for target in self.added.values():
            if isinstance(target.check, HeartbeatProbe):
                ledger.restore(target.name, await self._watch.store.pings(target.name, limit=50))

    def swap(self) -> None:
        watch = self._watch
        for target in self.removed:
            target.gone = True
            watch.schedule.remove(target)
        everything = {**self.kept, **self.added, **{name: one for name, (one, _, _) in self.adapted.items()}}
        watch.all = {name: everything[name] for name in self._order}
        watch.heartbeats.configure(self._ping_ids)
        for target, spec, rules in self.adapted.values():
            self._adapt(target, spec, rules)
        for target in self.added.values():
            self._follow_pause(target)
            if not target.state.paused:
                watch.plan(target, among=len(self._order))

    def _adapt(self, target: Target, spec: ProbeSpec, rules: Rules) -> None:
        watch = self._watch
        was_running, every_s = target.running, target.spec.every
        # An attempt under way may not have been asked for what the new expectation reads.
        waiters, target.waiters = target.waiters, []
        watch.interrupt(target)
        target.adopt(spec, rules, watch.env)
        target.waiters = waiters
        self._follow_pause(target)
        if target.state.paused:
            watch.schedule.remove(target)
        elif was_running or not target.planned:
            watch.schedule.put(target, watch.schedule.time_s(watch.clock.monotonic_s()))
            watch.arm()
        elif spec.every != every_s:
            watch.plan(target, among=len(self._order))

    def _follow_pause(self, target: Target) -> None:
        """Pause what the configuration pauses; resume what only it had paused. A pause by hand stands."""
        if target.spec.paused and not target.state.paused:
            target.config_paused = True
            self._watch.control(target, Seen.PAUSE, "paused in the configuration")
        elif target.config_paused and not target.spec.paused:
            target.config_paused = False
            self._watch.control(target, Seen.RESUME, "no longer paused in the configuration")

    async def finish(self) -> None:
        """Cancel what still runs for the removed, and release what they kept."""
        for target in self.removed:
            self._watch.forget(target)
            close_memory(target.memory)

    async def discard(self) -> None:
        """Nothing to undo: what was built was never started."""


def _path(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def ping_ids(specs: Sequence[ProbeSpec]) -> dict[str, str]:
    """Return the ping id of every heartbeat by its name."""
    return {spec.name: spec.check.ping_id(spec.name) for spec in specs if isinstance(spec.check, HeartbeatProbe)}
