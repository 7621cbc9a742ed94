"""A destination that does not answer for an hour: nothing lost, order kept, no storm after. The clock is the test's;
rules, incidents, outbox, sender, channel and HTTP receiver are the real ones.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from tests.incidents import OPTIONS, Target, Watched
from tests.receiver import Received, receiving

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.notify import HandyTools
from dogwatch.notify.section import Destination, Patience
from dogwatch.notify.sender import Route, Sender
from dogwatch.notify.tables import notify_tables
from dogwatch.rules.tables import incident_tables
from dogwatch.store.database import Database
from dogwatch.store.state_sqlite import open_sqlite

STEP_S = 5.0
HOUR_S = 3600.0
TARGETS = [f"t{number:02}" for number in range(40)]


class Site:
    """One process with two destinations, of which one is not always there."""

    def __init__(self, database: Database, clock: ManualClock, urls: dict[str, str]) -> None:
        options = msgspec.structs.replace(OPTIONS, notify=tuple(urls))
        self.watched = Watched(database, (), clock, options)
        self.watched.targets = [Target(name=name) for name in TARGETS]
        self.sender = Sender(database, HandyTools(), owner="one", clock=clock, random=random.Random(5).random)
        spec = Destination(channel=WebhookChannel(url="http://x", unsigned=True), timeout=0.3, retry=Patience())
        self.sender.use(
            {
                name: Route(
                    name, msgspec.structs.replace(spec, channel=WebhookChannel(url=url, unsigned=True))
                )
                for name, url in urls.items()
            }
        )  # fmt: skip
        self.clock = clock

    async def pass_time(self, seconds: float, down: Any) -> None:
        """Let targets answer, rules decide and the sender work, step by step. down: which targets are, at a time."""
        for _ in range(round(seconds / STEP_S)):
            now_s = self.clock.now_s() + STEP_S
            await self.watched.pass_time(STEP_S, **{name: -1.0 if down(name, now_s) else 0.1 for name in TARGETS})
            await self.send()

    async def send(self) -> None:
        """Let the sender do what can be done by now."""
        while True:
            await self.sender._round()
            tasks = list(self.sender._tasks)
            if not tasks:
                return
            await asyncio.wait(tasks)


def told(requests: list[Received]) -> list[str]:
    """Return the ids of messages in the order in which they came, each once."""
    return list(dict.fromkeys(request.headers["webhook-id"] for request in requests))


async def test_an_hour_without_an_answer(tmp_path: Path) -> None:
    clock = ManualClock(now_s=1_800_000_000.0)
    database = await open_sqlite(
        tmp_path / "state.db", [access_tables(), notify_tables(), incident_tables()], clock
    )  # fmt: skip
    chance = random.Random(7)
    # Every target fails twice in the hour, for some minutes, at its own time.
    spells = {
        name: [(at, at + chance.uniform(60, 600)) for at in (chance.uniform(60, 1500), chance.uniform(2200, 3000))]
        for name in TARGETS
    }
    begun_s = clock.now_s()

    def down(name: str, now_s: float) -> bool:
        return any(begin <= now_s - begun_s < end for begin, end in spells[name])

    mode = "well"

    def answer(_request: Received) -> Any:
        # First it refuses, then it takes what it is sent and says nothing, then it hangs up.
        return {"well": (200, {}), "refuses": (503, {}), "hangs": "hang", "cuts": "cut"}[mode]

    try:
        async with receiving(answer=answer) as broken, receiving() as well:
            site = Site(database, clock, {"broken": broken.url, "well": well.url})
            await site.pass_time(30, lambda *_: False)
            for mode in ("refuses", "hangs", "cuts"):  # noqa: B007 - the receiver reads it
                await site.pass_time(HOUR_S / 3, down)
            knocks = len(broken.requests)
            waiting = await database.read(
                lambda tx: tx.rows("SELECT message_id FROM outbox WHERE destination = 'broken' ORDER BY message_id")
            )
            mode, back_s = "well", clock.now_s()
            # Those that were left hanging are not its doing.
            broken.at_once = broken.most_at_once = 0
            await site.pass_time(120, lambda *_: False)
            await site.watched.part.stop()
        rows = await database.read(lambda tx: tx.rows("SELECT destination, message_id, state, body FROM outbox"))
    finally:
        await database.close()

    assert Counter(state for _name, _id, state, _body in rows) == {"delivered": len(rows)}
    # Nothing is lost, and nobody hears less for the other one's sake: both were told the same.
    texts = {name: [body for one, _id, _state, body in sorted(rows) if one == name] for name in ("broken", "well")}
    assert [_parts(body) for body in texts["broken"]] == [_parts(body) for body in texts["well"]]
    parts = Counter(number for body in texts["broken"] for number in _parts(body))
    assert len(parts) == 2 * len(TARGETS)
    # Of each, that it opened and that it was over.
    assert set(parts.values()) == {2}
    # What waited came in its order, each once, one after the other.
    after = broken.requests[knocks:]
    expected = [message_id for (message_id,) in waiting]
    assert told(after)[: len(expected)] == expected
    assert len(after) == len(set(told(after)))
    assert broken.most_at_once == 1
    # While it was down, only one message knocked at a time, ever more seldom: once in half a minute.
    assert 60 <= knocks <= 200
    assert len(told(broken.requests[:knocks])) <= knocks / 15 + 2
    # No storm: 160 openings and endings were told in as few notices as its throttle allows, at any time.
    throttle = OPTIONS.throttle
    assert len(expected) <= throttle.burst * (HOUR_S / throttle.interval + 1)
    assert len(expected) < parts.total()
    assert clock.now_s() - back_s <= 120


def _parts(body: object) -> list[int]:
    data = msgspec.json.decode(str(body))["data"]
    found: list[int] = data.get("numbers") or [data["number"]]
    return found
