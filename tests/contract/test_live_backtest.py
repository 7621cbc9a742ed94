"""A live run and a backtest over its recording decide the same, byte for byte: groups, hosts and alerts of others."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from tests.incidents import OPTIONS, START, Result, Target, Watched
from tests.unit_alerts import alertmanager_payload

from dogwatch.access.tables import access_tables
from dogwatch.core.values import Event
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.outside import book
from dogwatch.rules.outside.read import read_alerts
from dogwatch.rules.outside.tables import outside_tables
from dogwatch.rules.sight import row_of
from dogwatch.rules.spec import RuleSpec
from dogwatch.rules.tables import incident_tables

RULES = [
    RuleSpec(name="together", when="probe.duration_s > 1", by=("team",), at_least=2, for_=3.0),
    RuleSpec(name="share", when='avg(probe.duration_s, "1m") > 1', by=("team",), at_least="50%", keep_firing=10.0),
    RuleSpec(name="turns", when="probe.duration_s > 2", resolve="probe.duration_s < 0.5", by=("team",)),
    RuleSpec(name="loaded", when='avg(host.load1, "30s") > 3', for_=10.0),
    RuleSpec(name="hosts", when="host.load1 > 4 && host.cpu_ratio > 0.2", by=("zone",), at_least=2),
    RuleSpec(name="silent", when='absent(host.load1, "12s")'),
    RuleSpec(name="both", when='probe.duration_s > 1 && host.load1 > 3 && !alert.firing["Planned"]'),
    RuleSpec(name="told", when='probe.duration_s > 0.5 && alert.firing["HighLatency"]', for_=5.0),
    RuleSpec(name="theirs", when='alert.firing["HighLatency"]', for_=20.0),
    RuleSpec(name="seen", when='host.load1 > 2 && alert.firing["HighLatency"]', resolve="host.load1 < 1"),
]
TARGETS = [
    Target(name="a", labels={"team": "x", "host": "h1"}),
    Target(name="b", labels={"team": "x", "host": "h2"}, depends_on=("a",)),
    Target(name="c", labels={"team": "y", "host": "h1"}),
]


class Site(Watched):
    """With alerts of others in the same database."""

    def begin(self) -> Any:
        part = super().begin()
        part._around = msgspec.structs.replace(part._around, outside=True)
        part.put_in_force(part.wanted)
        return part

    def result(self, name: str, duration_s: float) -> None:
        down = duration_s < 0
        result = Result(
            target=name,
            time_s=self.clock.now_s(),
            success=not down,
            status="down" if down else "up",
            duration_s=abs(duration_s),
            reason="timeout" if down else "",
        )
        self.store.rows.append(row_of(result))
        self.bus.publish(Event(topic="result", time_s=result.time_s, data=result))

    async def alert(self, name: str, instance: str, *, firing: bool) -> None:
        labels = {"alertname": name, "instance": instance, "severity": "page"}
        [one] = read_alerts(
            "alertmanager", alertmanager_payload(status="firing" if firing else "resolved", labels=labels), START
        )
        await self.database.write(lambda tx: book.take(tx, [one]))
        self.part._hear_outside()

    async def step(self, chance: random.Random, firing: set[tuple[str, str]]) -> None:
        """Let everybody say something, or not, at one time or at several, in an order of its own."""
        said = [("result", target.name) for target in self.targets if chance.random() < 0.7]
        said += [("sample", host) for host in ("h1", "h2") if chance.random() < 0.5]
        if chance.random() < 0.15:
            key = (chance.choice(["HighLatency", "Planned"]), chance.choice(["a", "c", "h1"]))
            (firing.discard if key in firing else firing.add)(key)
            await self.alert(*key, firing=key in firing)
        chance.shuffle(said)
        steps = sorted(chance.choice([0.0, 0.0, 1.25, 2.5]) for _ in said)
        self.clock.advance(chance.choice([1.0, 2.5]))
        begun_s = self.clock.now_s()
        for (kind, name), after_s in zip(said, steps, strict=True):
            self.clock.advance(begun_s + after_s - self.clock.now_s())
            if kind == "result":
                self.result(name, chance.choice([0.1, 0.1, 0.6, 1.5, 3.0, -1.0]))
            else:
                load = chance.choice([0.5, 1.5, 3.5, 5.0])
                self.sample(name, node_load1=load, **{'dogwatch_host_cpu_ratio{mode="user"}': load / 10})
        self.decisions.append(await self.part.turn())


@pytest.mark.parametrize("seed", range(3))
async def test_a_backtest_of_everything_decides_what_was_decided_live(open_database: Any, seed: int) -> None:
    database = await open_database(access_tables(), notify_tables(), incident_tables(), outside_tables())
    chance = random.Random(seed)
    site = Site(database, RULES, options=msgspec.structs.replace(OPTIONS, remind=60.0))
    site.targets = list(TARGETS)
    await site.part.turn()
    firing: set[tuple[str, str]] = set()
    for _ in range(150):
        await site.step(chance, firing)
    live = [note for decisions in site.decisions for note in decisions.notes]
    told = [notice for decisions in site.decisions for notice in decisions.notices]
    found = await site.part.rehearse(since_s=site.clock.now_s() - START)
    await site.part.stop()
    assert {rule.name for rule in RULES} - {note.rule for note in live} == set()
    assert msgspec.json.encode(found.notes) == msgspec.json.encode(live)
    assert msgspec.json.encode([one.notice for one in found.notices]) == msgspec.json.encode(told)
    assert found.signals == len(site.store.rows) + len(site.store.samples)
