"""The live part of incidents with a clock, a bus and a history that the test drives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.config.section import Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import ManualClock
from dogwatch.core.values import Event
from dogwatch.errors import TransientError
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Message
from dogwatch.notify.outbox import enqueue
from dogwatch.rules.escalation import IncidentOptions, incidents_section
from dogwatch.rules.incident import Decisions
from dogwatch.rules.part import Incidents
from dogwatch.rules.sight import row_of
from dogwatch.rules.spec import RuleSpec, rules_section
from dogwatch.rules.surroundings import Around
from dogwatch.store.columns import ResultColumns, SampleColumns, milliseconds
from dogwatch.store.database import Database, Tx
from dogwatch.store.raw import RawResults, RawSamples

ANNA = Actor(kind="user", name="anna")
START = 1_800_000_000.0
OPTIONS = IncidentOptions(notify=("ops",), settle=10.0)
SLOW = RuleSpec(name="slow", when='avg(probe.duration_s, "1m") > 1', for_=20.0)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    labels: Mapping[str, str] = {}
    depends_on: Sequence[str] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    time_s: float
    success: bool
    status: str
    duration_s: float
    phases: Any = None
    reason: str = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    time_s: float
    values: Mapping[str, float]


class History:
    """A store that gives back what was told on the bus."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.samples: list[Sample] = []

    async def results(self, target: str, *, limit: int, before_s: float | None = None) -> Sequence[Any]:
        found = [row for row in self.rows if row.target == target and (before_s is None or row.time_s < before_s)]
        return found[::-1][:limit]

    async def transitions(self, target: str | None = None, *, since_s: float = 0.0, limit: int = 100) -> Sequence[Any]:
        return []

    async def raw_results(self, targets: Sequence[str], *, since_s: float, until_s: float) -> Sequence[RawResults]:
        found = []
        for name in targets:
            columns = ResultColumns()
            for row in self.rows:
                if row.target == name and since_s <= row.time_s < until_s:
                    columns.add(columns.pack(row), milliseconds(row.time_s))
            found.append(RawResults(target=name, fresh=[columns] if len(columns) else []))
        return found

    async def raw_samples(
        self, host: str, names: Sequence[str], *, since_s: float, until_s: float
    ) -> Sequence[RawSamples]:
        found: dict[str, SampleColumns] = {}
        for sample in self.samples:
            if sample.host == host and since_s <= sample.time_s < until_s:
                for series, value in sample.values.items():
                    if series.partition("{")[0] in names:
                        rows = found.setdefault(series, SampleColumns())
                        rows.times.append(milliseconds(sample.time_s))
                        rows.values.append(value)
        return [RawSamples(series=series, fresh=[rows]) for series, rows in sorted(found.items())]

    async def alive(self, *, since_s: float, until_s: float) -> Sequence[tuple[float, float]]:
        return [(since_s, until_s)]

    async def series(self, *_args: object, **_kwargs: object) -> Sequence[Any]:
        return []


class Watched:
    """One program after the other on one database, with one clock, bus and history."""

    def __init__(
        self,
        database: Database,
        rules: Sequence[RuleSpec] = (SLOW,),
        clock: ManualClock | None = None,
        options: IncidentOptions = OPTIONS,
    ) -> None:
        self.database, self.clock, self.bus, self.store = database, clock or ManualClock(now_s=START), Bus(), History()
        self.options = options
        self.targets = [Target(name="db"), Target(name="shop", depends_on=("db",))]
        self.rules = list(rules)
        self.ids = Ids("msg")
        self.fails = 0
        self.decisions: list[Decisions] = []
        self.part = self.begin()

    def begin(self) -> Incidents:
        async def never() -> None:
            await asyncio.get_running_loop().create_future()

        def spawn(_name: str, coroutine: Any) -> asyncio.Task[Any]:
            # Turns are made by the test.
            coroutine.close()
            return asyncio.get_running_loop().create_task(never())

        rules, incidents = rules_section(), incidents_section()
        part = Incidents(
            Around(
                database=self.database,
                clock=self.clock,
                bus=self.bus,
                store=self.store,  # type: ignore[arg-type]
                spawn=spawn,
                enqueue=self.enqueue,
                targets=lambda: self.targets,
                rules=rules,
                incidents=incidents,
            )
        )
        part.prepare(self.configuration()).swap()
        return part

    def configuration(self) -> Any:
        """Return what is in force, as it is now."""
        values: Mapping[str, Any] = {"rules": self.rules, "incidents": self.options, "maintenance": []}

        class Configuration:
            def get(self, section: Section[Any]) -> Any:
                return values[section.key]

        return Configuration()

    def enqueue(self, tx: Tx, message: Message) -> object:
        if self.fails:
            # As often as the database tries again by itself, and it stays refused.
            raise TransientError("the disk is full")
        return enqueue(tx, self.ids, message)

    async def pass_time(self, seconds: float, **durations: float) -> None:
        """Let every target answer each 5 seconds; below 0 is down."""
        for _ in range(round(seconds / 5)):
            self.clock.advance(5.0)
            for name, duration_s in sorted(durations.items()):
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
                self.bus.publish(Event(topic="result", time_s=self.clock.now_s(), data=result))
            self.decisions.append(await self.part.turn())

    def sample(self, host: str, **values: float) -> None:
        """Let a host tell its values now; of `mode`s there are several series."""
        one = Sample(host=host, time_s=self.clock.now_s(), values=values)
        self.store.samples.append(one)
        self.bus.publish(Event(topic="sample", time_s=one.time_s, data=one))

    async def restart(self) -> None:
        await self.part.stop()
        self.part = self.begin()

    async def titles(self) -> list[str]:
        rows = await self.database.read(lambda tx: tx.rows("SELECT body FROM outbox ORDER BY message_id"))
        return [msgspec.json.decode(str(row[0]), type=Message).title for row in rows]
