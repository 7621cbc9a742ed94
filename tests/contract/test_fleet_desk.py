"""One suite over SQLite and PostgreSQL: what the desk of plans and the shelf of files promise."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.contract.conftest import Open

from dogwatch.access.actor import Actor
from dogwatch.access.sealing import KeySealer
from dogwatch.access.tables import access_tables
from dogwatch.errors import Conflict, DogwatchError, NotAllowed, NotFound, PermanentError, UsageError
from dogwatch.fleet.book import plan_rows
from dogwatch.fleet.book.desk import PlanDesk
from dogwatch.fleet.book.plan_rows import Made, NewPlan
from dogwatch.fleet.book.planned import Asked, Claim, PlanHost, Shown, ShownItem, ShownStep
from dogwatch.fleet.book.shelf import MOST_PIECES, PIECE_BYTES, FileShelf
from dogwatch.fleet.book.tables import fleet_tables
from dogwatch.store.database import Database, Tx

ADA, BEN = Actor(kind="user", name="ada"), Actor(kind="user", name="ben")
SHOWN = Shown(total=2, items=(ShownItem(name="f", kind="file", steps=(ShownStep(title="t\0", diff="-a\n+b"),)),))


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(access_tables(), fleet_tables())


@pytest.fixture
async def desk(database: Database) -> PlanDesk:
    return PlanDesk(database)


def new(plan_id: str = "", kind: str = "plan", **more: object) -> NewPlan:
    return NewPlan(
        plan_id=plan_id,
        kind=kind,
        playbook="site",
        targets="@web",
        actor=ADA,
        orders=Asked(vars={"a": [1]}),
        **more,  # type: ignore[arg-type]
    )


def made(*states: str, approval: bool = False) -> Made:
    hosts = [
        PlanHost(
            host=f"web{at}", place=at, labels={"team": "shop"}, state=state, changes=int(state == "changes"), shown="d"
        )
        for at, state in enumerate(states)
    ]
    return Made(document=b"\x00doc", digest="x", approval=approval, hosts=hosts, texts={"d": SHOWN})


async def test_contents_of_files_are_sealed(database: Database, desk: PlanDesk) -> None:
    key = KeySealer(b"k" * 32)
    sealing = PlanDesk(database, lambda: key)
    plan_id = await sealing.open(new(bundle=b"files that were sent: hunter2"))
    text = Shown(total=1, items=(ShownItem(name="f", kind="file", steps=(ShownStep(title="t", diff="+hunter2 ü"),)),))
    await sealing.made(
        plan_id, msgspec.structs.replace(made("changes"), document=b'{"content": "hunter2"}', texts={"d": text})
    )

    def kept(tx: Tx) -> str:
        rows = [tx.one("SELECT document, bundle FROM fleet_plans"), tx.one("SELECT shown FROM fleet_plan_texts")]
        return " ".join(
            str(value) if isinstance(value, str) else bytes(value).decode("latin-1")  # type: ignore[arg-type]
            for row in rows
            for value in row or ()
        )

    assert "hunter2" not in await database.read(kept)
    assert await sealing.bundle(plan_id) == b"files that were sent: hunter2"
    assert await sealing.document(plan_id) == b'{"content": "hunter2"}'
    assert (await sealing.texts(plan_id, ["d"]))["d"] == text
    for other in (desk, PlanDesk(database, lambda: KeySealer(b"o" * 32))):
        with pytest.raises(PermanentError):
            await other.document(plan_id)
        with pytest.raises(PermanentError):
            await other.texts(plan_id, ["d"])
    # What was kept before there was a key stays readable.
    former = await ready(desk)
    assert await sealing.document(former) == b"\x00doc"
    assert (await sealing.texts(former, ["d"]))["d"] == SHOWN


async def ready(desk: PlanDesk, *, approval: bool = False) -> str:
    plan_id = await desk.open(new(), reason="why")
    await desk.made(plan_id, made("changes", "changes", "same", approval=approval))
    return plan_id


async def test_a_plan_is_kept_whole(desk: PlanDesk, database: Database) -> None:
    plan_id = await desk.open(new(bundle=b"\xff\x00"))
    assert (await desk.show(plan_id)).state == "planning"
    await desk.belongs(plan_id, "r1")
    row = await desk.made(plan_id, made("changes", "same", "unread"))
    assert (row.state, row.run_id, row.orders.vars, row.changing, row.total) == ("ready", "r1", {"a": [1]}, 1, 3)
    assert (await desk.bundle(plan_id), await desk.document(plan_id)) == (b"\xff\x00", b"\x00doc")
    assert [one.host for one in await desk.hosts(plan_id, after=0, limit=1)] == ["web1"]
    assert (await desk.texts(plan_id, ["d", "d", "none"]))["d"].items[0].steps[0].diff == "-a\n+b"
    # The same attempt again, as after a crash, writes over what it wrote.
    await desk.made(plan_id, made("changes"))
    assert (await desk.show(plan_id)).total == 1
    assert await desk.resolve(plan_id[:9]) == plan_id
    for given in ("nope", "", "a/b", "é"):
        with pytest.raises(NotFound):
            await desk.resolve(given)
    assert await desk.open(new(plan_id)) == plan_id  # nothing is lost by asking twice
    assert (await desk.show(plan_id)).state == "ready"
    other = await desk.open(new(kind="drift"))
    await desk.failed(other, "no host answers")
    assert [(one.plan_id, one.state) for one in (await desk.find())[0]] == [(other, "failed"), (plan_id, "ready")]
    first, cursor = await desk.find(limit=1)
    assert [one.plan_id for one in (await desk.find(cursor=cursor))[0]] == [plan_id]
    assert [one.plan_id for one in (await desk.find(kind="drift", playbook="site"))[0]] == [first[0].plan_id]


async def test_labels_of_many_plans_are_asked_for_once(desk: PlanDesk) -> None:
    one, other, empty = await ready(desk), await ready(desk), await desk.open(new())
    shop = [{"team": "shop"}]
    assert await desk.labels([one, other, empty, one]) == {one: shop, other: shop, empty: []}
    assert await desk.labels([]) == {}


async def test_somebody_else_agrees_once(desk: PlanDesk) -> None:
    plan_id = await ready(desk, approval=True)
    with pytest.raises(NotAllowed, match="nobody has agreed"):
        await desk.claim(plan_id, Claim(run_id="r", new_id="a"), ADA, other_ended=False)
    with pytest.raises(NotAllowed, match="cannot agree to it"):
        await desk.decide(plan_id, ADA, approve=True)
    assert str((await desk.decide(plan_id, BEN, approve=True, comment="ok")).approved_by) == "user:ben"
    assert (await desk.claim(plan_id, Claim(run_id="r", new_id="a"), ADA, other_ended=False)).apply_id == "a"
    for approve in (True, False):
        with pytest.raises(Conflict, match="is applying"):
            await desk.decide(plan_id, BEN, approve=approve)
    rejected = await ready(desk)
    await desk.decide(rejected, ADA, approve=False)  # one's own may be withdrawn
    with pytest.raises(Conflict, match="was rejected"):
        await desk.claim(rejected, Claim(run_id="r", new_id="a"), ADA, other_ended=False)


async def test_of_many_that_apply_at_once_one_does(desk: PlanDesk) -> None:
    plan_id = await ready(desk)
    claims = [desk.claim(plan_id, Claim(run_id=f"r{at}", new_id=f"a{at}"), ADA, other_ended=False) for at in range(8)]
    found = await asyncio.gather(*claims, return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in found) == 1
    assert all(isinstance(one, Conflict) for one in found if isinstance(one, BaseException))


async def test_an_apply_its_rest_and_its_way_back(desk: PlanDesk) -> None:
    plan_id = await ready(desk)

    async def went(run: str, results: dict[str, str], **what: bool) -> str:
        claim = Claim(run_id=run, new_id=f"id-{run}", resume=what.get("resume", False), back=what.get("back", False))
        former = await desk.show(plan_id)
        await desk.claim(plan_id, claim, ADA, other_ended=False)
        told = {host: (state, "why\0") for host, state in results.items()}
        return await desk.ended(plan_id, claim, ADA, told, former=former, cut=what.get("cut", False))

    with pytest.raises(NotFound, match="never applied"):
        await went("r0", {}, resume=True)
    # Refused everywhere: nothing was touched, and it can be applied anew.
    assert await went("r1", {"web0": "moved", "web1": "locked"}) == "refused"
    assert (await desk.show(plan_id)).apply_id == ""
    assert await went("r2", {"web0": "applied", "web1": "failed"}) == "partly"
    row = await desk.show(plan_id)
    assert (row.apply_id, row.unfinished, row.results) == ("id-r2", True, {"applied": 1, "failed": 1})
    with pytest.raises(Conflict, match="was not finished"):
        await went("r3", {})
    assert await went("r4", {"web1": "applied"}, resume=True, cut=True) == "stopped"
    assert await went("r5", {"web0": "applied", "web1": "applied"}, resume=True) == "applied"
    assert (await desk.show(plan_id)).apply_id == "id-r2"
    # A second apply of what is done already touches nothing; the way back is still that of the first.
    assert await went("r6", {"web0": "moved", "web1": "moved"}) == "refused"
    assert (await desk.show(plan_id)).apply_id == "id-r2"
    assert await went("r7", {"web0": "rolled back", "web1": "rolled back"}, back=True) == "rolled back"


async def test_a_run_that_was_cut_off_takes_its_plan_up_again(desk: PlanDesk) -> None:
    plan_id = await ready(desk)
    first = await desk.claim(plan_id, Claim(run_id="r", new_id="a"), ADA, other_ended=False)
    again = await desk.claim(plan_id, Claim(run_id="r", new_id="b"), ADA, other_ended=False)
    assert ((first.apply_id, first.resume), (again.apply_id, again.resume)) == (("a", False), ("a", True))
    # One whose run is over without a word is taken over by who finishes it, and by nobody else.
    with pytest.raises(Conflict, match="not finished"):
        await desk.claim(plan_id, Claim(run_id="s", new_id="c"), ADA, other_ended=True)
    assert (
        await desk.claim(plan_id, Claim(run_id="s", new_id="c", resume=True), ADA, other_ended=True)
    ).apply_id == "a"


async def test_drift_tells_since_when(desk: PlanDesk) -> None:
    looks = []
    for states in (("same", "changes"), ("changes", "changes"), ("changes", "same")):
        plan_id = await desk.open(new(kind="drift"))
        await desk.made(plan_id, made(*states))
        looks.append({one.host: one.since_s for one in await desk.hosts(plan_id)})
        with pytest.raises(Conflict, match="only looked"):
            await desk.claim(plan_id, Claim(run_id="r", new_id="a"), ADA, other_ended=False)
    assert looks[0]["web0"] is None
    assert looks[1]["web1"] == looks[0]["web1"]
    assert looks[2] == {"web0": looks[1]["web0"], "web1": None}
    assert [(one.playbook, one.hosts) for one in await desk.looks()] == [("site", {"changes": 1, "same": 1})]


async def test_each_change_is_in_the_trail(desk: PlanDesk, database: Database) -> None:
    plan_id = await ready(desk)
    await desk.decide(plan_id, BEN, approve=True)
    claim, former = Claim(run_id="r", new_id="a"), await desk.show(plan_id)
    await desk.claim(plan_id, claim, ADA, other_ended=False)
    await desk.ended(plan_id, claim, ADA, {"web0": ("failed", "")}, former=former)
    query = "SELECT actor, verb, noun, outcome FROM audit_events ORDER BY number"
    assert await database.read(lambda tx: tx.rows(query)) == [
        ("user:ada", "plan", "fleet", "done"),
        ("user:ben", "approve", "fleet", "done"),
        ("user:ada", "apply", "fleet", "begun"),
        ("user:ada", "apply", "fleet", "failed"),
    ]


async def test_old_plans_go_and_those_at_work_stay(desk: PlanDesk, database: Database) -> None:
    plans = [await ready(desk) for _ in range(4)]
    await desk.claim(plans[0], Claim(run_id="r", new_id="a"), ADA, other_ended=False)
    await database.write(lambda tx: plan_rows.prune(tx, most=2))
    assert [one.plan_id for one in (await desk.find())[0]] == [plans[3], plans[2], plans[0]]
    assert await desk.hosts(plans[1]) == []


async def test_files_are_put_in_order_and_read_back(database: Database) -> None:
    shelf = FileShelf(database)
    name = await shelf.put("", 0, b"a\x00")
    await shelf.put(name, 1, b"b")
    await shelf.put(name, 1, b"c")  # the answer was lost, and it is sent again
    assert [await shelf.piece(name, 0), await shelf.piece(name, 1)] == [(b"a\x00", True), (b"c", False)]
    wrong: list[tuple[str, int, bytes, type[DogwatchError]]] = [
        (name, 5, b"", NotFound), ("other", 1, b"", NotFound), ("", 1, b"", UsageError), (name, 0, b"", UsageError),
        (name, MOST_PIECES, b"", UsageError), ("", 0, b"x" * (PIECE_BYTES + 1), UsageError),
    ]  # fmt: skip
    for file_id, place, data, error in wrong:
        with pytest.raises(error):
            await shelf.put(file_id, place, data)
    with pytest.raises(NotFound):
        await shelf.piece("none", 0)
    await shelf.keep("r/s/web1", [b"1", b"2"])
    await shelf.keep("r/s/web1", [])
    assert await shelf.piece("r/s/web1", 0) == (b"", False)
