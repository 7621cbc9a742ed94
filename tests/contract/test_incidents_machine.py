"""Whatever happens, every incident that was opened is open or over, exactly once: outages, silences, maintenance,
orders, restarts, reloads, kills and a database that refuses, in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.incidents import ANNA, OPTIONS, SLOW, Target, Watched

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.schedules.plan import shared_zones
from dogwatch.errors import DogwatchError
from dogwatch.notify.message import Message
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.escalation import Flapping, Throttle
from dogwatch.rules.incident import Incident, Silence
from dogwatch.rules.maintenance import Calendar, MaintenanceSpec, build_maintenance
from dogwatch.rules.spec import RuleSpec
from dogwatch.rules.tables import incident_tables
from dogwatch.store.state_sqlite import open_sqlite

GROUP = RuleSpec(name="group", when="probe.duration_s > 2", by=("team",), at_least=2)
EASY = RuleSpec(name="easy", when="probe.duration_s > 1", keep_firing=10.0)
TARGETS = [
    Target(name="db", labels={"team": "x"}),
    Target(name="shop", labels={"team": "x"}, depends_on=("db",)),
    Target(name="mail", labels={"team": "y"}),
]
VERBS = ("well", "ill", "mixed", "ack", "unack", "resolve", "escalate", "comment", "silence", "unsilence", "window",
         "restart", "kill", "reload", "refuse")  # fmt: skip
_OPTIONS = msgspec.structs.replace(
    OPTIONS,
    remind=120.0,
    throttle=Throttle(burst=3, interval=60.0),
    flapping=Flapping(times=3, within=200.0, quiet=60.0),
)


async def _order(watched: Watched, coroutine: Any) -> Any:
    """Ask for something; it is carried out in the next turn."""
    asked = asyncio.ensure_future(coroutine)
    # It asks the database for the incident first.
    for _ in range(2000):
        if watched.part._asked or asked.done():
            break
        await asyncio.sleep(0.005)
    if not asked.done():
        watched.decisions.append(await watched.part.turn())
    return await asked


class Machine:
    """The live part with all that can happen to it."""

    def __init__(self, watched: Watched, chance: random.Random) -> None:
        self.watched, self.chance = watched, chance
        watched.targets = list(TARGETS)
        self.windows: list[Any] = []
        self._watch_calendar()

    def _watch_calendar(self) -> None:
        part = self.watched.part
        part._around = msgspec.structs.replace(part._around, calendar=lambda: Calendar(tuple(self.windows)))
        part.put_in_force(part.wanted)

    async def do(self, verb: str) -> None:
        watched, chance = self.watched, self.chance
        if verb in ("well", "ill", "mixed"):
            kinds = {"well": [0.1], "ill": [-1.0, 3.0], "mixed": [0.1, 1.5, 3.0, -1.0]}[verb]
            for _ in range(chance.randint(1, 4)):
                await watched.pass_time(5, **{target.name: chance.choice(kinds) for target in TARGETS})
        elif verb in ("ack", "unack", "resolve", "escalate", "comment"):
            open_ = sorted(watched.part.state.incidents)
            if open_:
                number = chance.choice(open_)
                with contextlib.suppress(DogwatchError):
                    await _order(watched, watched.part.order(number, verb, ANNA, text="because"))
        elif verb == "silence":
            until_s = watched.clock.now_s() + chance.choice([10.0, 60.0])
            await _order(watched, watched.part.silence(Silence(silence_id="", until_s=until_s, targets=("*",)), ANNA))
        elif verb == "unsilence":
            for silence in watched.part.silences():
                await _order(watched, watched.part.unsilence(silence.silence_id, ANNA))
        elif verb == "window":
            self.windows = [] if self.windows else [self._window()]
        elif verb == "restart":
            await watched.restart()
            self._watch_calendar()
        elif verb == "kill":
            # What was heard and not decided is gone, as is all that was in memory; nobody is told that it ends.
            killed, watched.part = watched.part, watched.begin()
            self._watch_calendar()
            await killed.stop()
        elif verb == "reload":
            watched.rules = chance.sample([SLOW, GROUP, EASY], chance.randint(0, 3))
            part = watched.part
            part.prepare(watched.configuration()).swap()
            self._watch_calendar()
        elif verb == "refuse":
            watched.fails = 1
            with contextlib.suppress(DogwatchError):
                await watched.pass_time(5, db=-1.0, shop=0.1, mail=3.0)
            watched.fails = 0

    def _window(self) -> Any:
        spec = MaintenanceSpec(
            name="w",
            targets=(self.chance.choice(["db", "shop", "*"]),),
            from_="2020-01-01T00:00",
            to="2099-01-01T00:00",
        )
        return build_maintenance(spec, shared_zones())

    async def check(self, known: dict[int, Incident], *, over: bool = False) -> None:
        """Compare what is on disk with what was there before, and with what is remembered."""
        rows, events, alerts, messages = await self.watched.database.read(
            lambda tx: (
                tx.rows("SELECT number, state, ended_s, body FROM incidents ORDER BY number"),
                tx.rows("SELECT number, kind FROM incident_events"),
                tx.rows("SELECT body FROM incident_alerts"),
                tx.rows("SELECT body FROM outbox"),
            )
        )
        kinds = Counter((int(str(number)), str(kind)) for number, kind in events)
        # Without a gap: a number that was given out is an incident.
        assert [int(str(row[0])) for row in rows] == list(range(1, len(rows) + 1))
        for number, _state, ended_s, body in rows:
            incident = msgspec.json.decode(str(body), type=Incident)
            place = int(str(number))
            assert kinds[place, "opened"] == 1
            assert (incident.ended_s is None) == (ended_s is None)
            assert kinds[place, "resolved"] + kinds[place, "merged"] == (0 if ended_s is None else 1), incident
            before = known.get(place)
            if before is not None and before.ended_s is not None:
                assert incident == before, "what is over stays as it was"
            known[place] = incident
        open_ = {number for number, one in known.items() if one.ended_s is None}
        remembered = self.watched.part.state.incidents
        assert {number for number, one in remembered.items() if one.ended_s is None} == open_
        for (body,) in alerts:
            number = msgspec.json.decode(str(body))["incident"]
            assert number == 0 or number in open_
        told = Counter(
            (message.data["number"], message.data["kind"])
            for message in (msgspec.json.decode(str(body), type=Message) for (body,) in messages)
            if "kind" in message.data
        )
        assert all(told[key] <= 1 for key in told if key[1] in ("opened", "resolved", "merged"))
        assert not over or not open_


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(VERBS), min_size=5, max_size=40), st.integers(0, 2**32))
async def test_every_incident_is_open_or_over(tmp_path_factory: Any, verbs: list[str], seed: int) -> None:
    folder: Path = tmp_path_factory.mktemp("machine")
    database = await open_sqlite(
        folder / "state.db", [access_tables(), notify_tables(), incident_tables()], SystemClock()
    )
    known: dict[int, Incident] = {}
    try:
        machine = Machine(Watched(database, [SLOW, GROUP], options=_OPTIONS), random.Random(seed))
        for verb in verbs:
            await machine.do(verb)
            # What was refused is decided anew; what a kill left undone, too.
            await machine.watched.pass_time(5, mail=0.1)
            await machine.check(known)
        machine.windows = []
        await machine.watched.pass_time(400, db=0.1, shop=0.1, mail=0.1)
        await machine.check(known, over=True)
        await machine.watched.part.stop()
    finally:
        await database.close()
