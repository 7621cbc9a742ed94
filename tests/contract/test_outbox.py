"""One suite over SQLite and PostgreSQL: what the outbox promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.contract.conftest import Open
from tests.receiver import receiving

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.errors import Conflict, NotFound
from dogwatch.notify import outbox
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.ids import Ids
from dogwatch.notify.message import Message, MessageState
from dogwatch.notify.notify import Notify
from dogwatch.notify.outbox import Want
from dogwatch.notify.section import Destination, Patience
from dogwatch.notify.sender import Route
from dogwatch.notify.tables import notify_tables
from dogwatch.store.database import Database, Tx

ACTOR = Actor(kind="user", name="ada")
QUICK = Patience(attempts=3, base=0.02, cap=0.05)


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(access_tables(), notify_tables())


class Fixed:
    """A configuration of one section."""

    def __init__(self, value: object) -> None:
        self._value = value

    def get(self, _section: object) -> Any:
        return self._value


def hook(url: str, **options: Any) -> Destination:
    options = {"retry": QUICK, "timeout": 2.0, **options}
    return Destination(channel=WebhookChannel(url=url, unsigned=True), **options)


@asynccontextmanager
async def running(database: Database, destinations: Mapping[str, Destination]) -> AsyncIterator[Notify]:
    notify = Notify(
        database, clock=SystemClock(), spawn=lambda name, work: asyncio.get_running_loop().create_task(work, name=name)
    )
    prepared = notify.prepare(Fixed(dict(destinations)))
    await prepared.start()
    prepared.swap()
    await prepared.finish()
    try:
        yield notify
    finally:
        await notify.stop()


async def until(notify: Notify, message_id: str, state: MessageState) -> outbox.OutboxRow:
    async with asyncio.timeout(60):
        while (row := await notify.show(message_id)).state is not state:  # noqa: ASYNC110 - another's row
            await asyncio.sleep(0.01)
    return row


def message(*to: str, **options: Any) -> Message:
    return Message(to=to, type="test", **options)


async def test_a_message_arrives_once(database: Database) -> None:
    async with receiving() as receiver, running(database, {"ops": hook(receiver.url)}) as notify:
        queued = await notify.send(message("ops", title="Hello", data={"a": 1}))
        row = await until(notify, queued[0].message_id, MessageState.DELIVERED)
    assert (row.attempts, row.failures, row.reason) == (1, 0, "answered 200")
    (request,) = receiver.requests
    assert request.headers["webhook-id"] == queued[0].message_id
    assert msgspec.json.decode(request.body)["data"] == {"a": 1, "title": "Hello", "severity": "info"}


async def test_it_is_there_only_with_the_callers_transaction(database: Database) -> None:
    notify = Notify(database, clock=SystemClock(), spawn=lambda *_: None, sends=False)  # type: ignore[arg-type, return-value]

    def work(tx: Tx) -> None:
        notify.enqueue(tx, message("ops"))
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed"):
        await database.write(work)
    assert (await notify.find()).items == []
    await notify.stop()


async def test_the_same_key_is_kept_once_for_each_destination(database: Database) -> None:
    notify = Notify(database, clock=SystemClock(), spawn=lambda *_: None, sends=False)  # type: ignore[arg-type, return-value]
    send = lambda *to: database.write(lambda tx: notify.enqueue(tx, message(*to, dedupe="k")))  # noqa: E731
    results = await asyncio.gather(*(send("a") for _ in range(10)), send("a", "b"))
    created = [one for found in results for one in found if one.created]
    assert sorted(one.destination for one in created) == ["a", "b"]
    first = next(one.message_id for one in created if one.destination == "a")
    assert {one.message_id for found in results for one in found if one.destination == "a"} == {first}
    await notify.stop()


async def test_a_failure_is_tried_again_with_the_same_id_and_body(database: Database) -> None:
    answers = iter([(500, {}), (500, {}), (200, {})])
    async with (
        receiving(answer=lambda _request: next(answers)) as receiver,
        running(database, {"ops": hook(receiver.url)}) as notify,
    ):
        queued = await notify.send(message("ops", text="x"))
        row = await until(notify, queued[0].message_id, MessageState.DELIVERED)
    assert (row.attempts, row.failures) == (3, 2)
    assert len({(request.headers["webhook-id"], request.body) for request in receiver.requests}) == 1


async def test_dead_letters_after_so_many_failures_and_redelivery(database: Database) -> None:
    good = False
    async with (
        receiving(answer=lambda _request: (200 if good else 500, {})) as receiver,
        running(database, {"ops": hook(receiver.url)}) as notify,
    ):
        queued = await notify.send(message("ops"))
        row = await until(notify, queued[0].message_id, MessageState.DEAD)
        assert row.reason == "given up after 3 attempts: answered 500: ok"
        good = True
        row = await notify.redeliver(queued[0].message_id, ACTOR)
        assert row.state is MessageState.QUEUED
        row = await until(notify, row.message_id, MessageState.DELIVERED)
        assert row.attempts == 4
    assert {request.headers["webhook-id"] for request in receiver.requests} == {row.message_id}
    events = await database.read(lambda tx: [str(body) for (body,) in tx.rows("SELECT body FROM audit_events")])
    assert len(events) == 1
    assert '"redeliver"' in events[0]
    assert row.message_id in events[0]


async def test_what_is_refused_for_good_is_dead_at_once_and_others_go_on(database: Database) -> None:
    def answer(request: Any) -> tuple[int, dict[str, str]]:
        return (400 if b"bad" in request.body else 200), {}

    async with receiving(answer=answer) as receiver, running(database, {"ops": hook(receiver.url)}) as notify:
        bad = await notify.send(message("ops", text="bad"))
        good = await notify.send(message("ops", text="good"))
        row = await until(notify, good[0].message_id, MessageState.DELIVERED)
        row = await until(notify, bad[0].message_id, MessageState.DEAD)
    assert (row.attempts, row.reason) == (1, "answered 400: ok")


async def test_a_destination_that_is_down_keeps_order_and_does_not_stop_others(database: Database) -> None:
    down = True
    async with receiving(answer=lambda _request: (503 if down else 200, {})) as broken, receiving() as well:
        routes = {"broken": hook(broken.url), "well": hook(well.url)}
        async with running(database, routes) as notify:
            sent = [(await notify.send(message("broken", text=str(number))))[0] for number in range(8)]
            other = [(await notify.send(message("well", text=str(number))))[0] for number in range(8)]
            for one in other:
                await until(notify, one.message_id, MessageState.DELIVERED)
            await broken.until(6)
            views = {view.name: view for view in await notify.destinations()}
            assert views["broken"].queued + views["broken"].sending == 8
            assert views["broken"].trouble == "answered 503: ok"
            assert (views["well"].delivered, views["well"].trouble) == (8, "")
            # Only the first one knocked, and it is not nearer to its end for that.
            assert {request.headers["webhook-id"] for request in broken.requests} == {sent[0].message_id}
            assert (await notify.show(sent[0].message_id)).failures == 0
            down = False
            failed = len(broken.requests)
            for one in sent:
                await until(notify, one.message_id, MessageState.DELIVERED)
            assert (await notify.destinations())[0].trouble == ""
    order = list(dict.fromkeys(request.headers["webhook-id"] for request in broken.requests[failed:]))
    assert order == [one.message_id for one in sent]


async def test_a_message_that_brings_its_destination_down_does_not_keep_the_others_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_KNOCKS", 3)
    monkeypatch.setattr(outbox, "_DOUBT_S", 0.0)

    def answer(request: Any) -> tuple[int, dict[str, str]] | str:
        return "cut" if b"poison" in request.body else (200, {})

    async with receiving(answer=answer) as receiver, running(database, {"ops": hook(receiver.url)}) as notify:
        poison = (await notify.send(message("ops", text="poison")))[0]
        good = [(await notify.send(message("ops", text=str(number))))[0] for number in range(5)]
        for one in good:
            await until(notify, one.message_id, MessageState.DELIVERED)
        assert (await notify.show(poison.message_id)).state in (MessageState.QUEUED, MessageState.SENDING)


async def test_nothing_goes_to_a_dead_address_faster_than_its_pauses(database: Database) -> None:
    async with (
        receiving(answer=lambda _request: (429, {"Retry-After": "3600"})) as receiver,
        running(database, {"ops": hook(receiver.url, concurrency=5)}) as notify,
    ):
        for number in range(20):
            await notify.send(message("ops", text=str(number)))
        await receiver.until(1)
        async with asyncio.timeout(60):
            while (view := (await notify.destinations())[0]).sending or view.retry_s is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert view.queued == 20
        assert view.retry_s > SystemClock().now_s() + 3000
        asked = len(receiver.requests)
        await notify.send(message("ops", text="more"))
        assert len(receiver.requests) == asked <= 5


async def test_so_many_at_once_and_no_more_over_all_processes(database: Database) -> None:
    async with receiving(delay_s=0.02) as receiver:
        routes = {"ops": hook(receiver.url, concurrency=3)}
        async with running(database, routes) as one, running(database, routes) as other:
            sent = [(await one.send(message("ops", text=str(number))))[0] for number in range(40)]
            for queued in sent:
                await until(other, queued.message_id, MessageState.DELIVERED)
    assert receiver.most_at_once <= 3
    # Two senders, and nothing was sent twice.
    assert sorted(request.headers["webhook-id"] for request in receiver.requests) == sorted(
        queued.message_id for queued in sent
    )


async def test_claims_are_exclusive_until_the_lease_ends(database: Database) -> None:
    ids = Ids("msg")
    await database.write(lambda tx: outbox.enqueue(tx, ids, message("ops")))
    want = [Want(destination="ops", slots=5, concurrency=5, lease_s=60.0)]
    take = lambda owner: database.write(lambda tx: outbox.claim(tx, owner, want))  # noqa: E731
    claims = await asyncio.gather(*(take(str(number)) for number in range(8)))
    assert sum(len(claim.rows) for claim in claims) == 1
    first = next(claim.rows[0] for claim in claims if claim.rows)
    owner = next(str(number) for number, claim in enumerate(claims) if claim.rows)
    # As if a minute had passed.
    await database.write(lambda tx: tx.run("UPDATE outbox SET due_s = due_s - 61"))
    again = await take("later")
    assert again.rows[0].attempts == 2
    done = outbox.Ending(state=MessageState.DELIVERED)
    # Who lost it can no longer say how it ended.
    assert not await database.write(lambda tx: outbox.finish(tx, owner, first, done))
    assert await database.write(lambda tx: outbox.finish(tx, "later", again.rows[0], done))


async def test_a_stop_gives_back_what_was_on_its_way(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dogwatch.notify.sender._STOP_S", 0.05)
    async with receiving(answer=lambda _request: "hang") as receiver:
        async with running(database, {"ops": hook(receiver.url, timeout=60.0)}) as notify:
            queued = await notify.send(message("ops"))
            await receiver.until(1)
        row = await notify.show(queued[0].message_id)
    assert (row.state, row.attempts) == (MessageState.QUEUED, 1)


async def test_a_slow_destination_costs_its_timeout_and_no_more(database: Database) -> None:
    async with (
        receiving(answer=lambda _request: "hang") as receiver,
        running(database, {"ops": hook(receiver.url, timeout=0.1)}) as notify,
    ):
        queued = await notify.send(message("ops"))
        await receiver.until(2)
        row = await notify.show(queued[0].message_id)
    # The client's own limit and ours are the same moment.
    assert row.reason.startswith("no answer") or "did not answer within" in row.reason
    assert row.failures == 0


async def test_the_rate_is_kept(database: Database) -> None:
    from dogwatch.notify.section import SendRate

    loop = asyncio.get_running_loop()
    async with receiving() as receiver:
        route = hook(receiver.url, concurrency=10, rate=SendRate(max=5, per=0.5))
        async with running(database, {"ops": route}) as notify:
            began_s = loop.time()
            for number in range(15):
                await notify.send(message("ops", text=str(number)))
            await receiver.until(15)
    # Three times 5 with half a second between.
    assert loop.time() - began_s >= 0.95


async def test_housekeeping(database: Database) -> None:
    route = hook("http://127.0.0.1:1", queue=3, keep=1000.0, keep_dead=1000.0, retry=Patience(max_age=500.0))
    notify = Notify(database, clock=SystemClock(), spawn=lambda *_: None, sends=False)  # type: ignore[arg-type, return-value]
    notify.sender.use({"ops": Route("ops", route)})
    ids = [(await notify.send(message("ops")))[0].message_id for _ in range(8)]

    def age(number: int, state: str, seconds: float) -> Callable[[Tx], int]:
        return lambda tx: tx.run(
            "UPDATE outbox SET state = :state, since_s = since_s - :age, ended_s = :now_s - :age"
            " WHERE message_id = :id",
            state=state, age=seconds, now_s=tx.now_s, id=ids[number],
        )  # fmt: skip

    await database.write(age(0, "delivered", 2000.0))
    await database.write(age(1, "dead", 2000.0))
    await database.write(age(2, "delivered", 10.0))
    await database.write(age(3, "sending", 600.0))
    await database.write(lambda tx: tx.run("UPDATE outbox SET due_s = 0 WHERE state = 'sending'"))
    await notify.keep_house()
    rows = {row.message_id: row for row in (await notify.find()).items}
    states = [rows[one].state.value if one in rows else "gone" for one in ids]
    assert states == ["gone", "gone", "delivered", "dead", "dead", "queued", "queued", "queued"]
    assert rows[ids[3]].reason == "waited too long"
    assert rows[ids[4]].reason == "more than 3 waited"
    shown = {text: value for family in notify.metrics() for text, value in family.series}
    assert shown['dogwatch_notify_messages{destination="ops",state="queued"}'] == 3
    assert shown['dogwatch_notify_down{destination="ops"}'] == 0
    await notify.stop()


async def test_pages_and_beginnings_of_ids(database: Database) -> None:
    notify = Notify(database, clock=SystemClock(), spawn=lambda *_: None, sends=False)  # type: ignore[arg-type, return-value]
    sent = [
        (await database.write(lambda tx, n=n: notify.enqueue(tx, message("ab"[n % 2], text=str(n)))))[0].message_id
        for n in range(7)
    ]
    page = await notify.find(limit=3)
    following = await notify.find(limit=3, cursor=page.cursor)
    last = await notify.find(limit=3, cursor=following.cursor)
    assert [row.message_id for one in (page, following, last) for row in one.items] == sent[::-1]
    assert last.cursor == ""
    assert len((await notify.find(destination="a", state="queued")).items) == 4
    assert (await notify.find(state="dead")).items == []
    assert (await notify.show(sent[3][:-4])).message_id == sent[3]
    with pytest.raises(NotFound, match="several"):
        await notify.show("msg_")
    with pytest.raises(NotFound, match="no message"):
        await notify.show("msg_zz\0")
    await notify.stop()


async def test_what_waits_is_not_redelivered_and_unknown_destinations_are_named(database: Database) -> None:
    async with running(
        database, {"ops": hook("http://127.0.0.1:1", retry=Patience(base=1000.0, cap=1000.0))}
    ) as notify:
        queued = await notify.send(message("ops"))
        with pytest.raises(Conflict):
            await notify.redeliver(queued[0].message_id, ACTOR)
        with pytest.raises(NotFound, match="no destination is called 'opps'") as error:
            await notify.send(message("opps"))
        assert error.value.hint == "did you mean 'ops'?"


async def test_all_dead_letters_of_a_destination_go_again(database: Database) -> None:
    good = False
    async with (
        receiving(answer=lambda _request: (200 if good else 400, {})) as receiver,
        running(database, {"ops": hook(receiver.url)}) as notify,
    ):
        sent = [(await notify.send(message("ops", text=str(number))))[0].message_id for number in range(5)]
        for one in sent:
            await until(notify, one, MessageState.DEAD)
        good = True
        assert await notify.redeliver_dead("ops", ACTOR) == 5
        for one in sent:
            await until(notify, one, MessageState.DELIVERED)
        assert await notify.redeliver_dead("ops", ACTOR) == 0


async def test_a_test_message_is_audited(database: Database) -> None:
    async with receiving() as receiver, running(database, {"ops": hook(receiver.url)}) as notify:
        await notify.test("ops", ACTOR)
        await receiver.until(1)
        with pytest.raises(NotFound):
            await notify.test("nobody", ACTOR)
    (body,) = [body for (body,) in await database.read(lambda tx: tx.rows("SELECT body FROM audit_events"))]
    assert '"test"' in str(body)


async def test_a_message_over_its_age_dies_even_where_the_destination_is_down(database: Database) -> None:
    old = Patience(base=0.01, cap=0.01, max_age=0.0)
    async with (
        receiving(answer=lambda _request: "cut") as receiver,
        running(database, {"ops": hook(receiver.url, retry=old)}) as notify,
    ):
        queued = await notify.send(message("ops"))
        row = await until(notify, queued[0].message_id, MessageState.DEAD)
    assert "given up after" in row.reason or row.reason == "waited too long"
