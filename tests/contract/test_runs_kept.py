"""What is kept of runs, over SQLite and PostgreSQL: output, retention, metrics, definitions that cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.contract.conftest import Open
from tests.runs import ALICE, BOB, Plain, book, finish, identity, job, park, start, step
from tests.runs_claimed import _claimed

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock
from dogwatch.core.metrics import render as render_metrics
from dogwatch.engine.book.retention import Keeping
from dogwatch.engine.spec import Parameter
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import Chunk, RunFilter, RunState, StartRun, StepState
from dogwatch.errors import NotFound, PermanentError
from dogwatch.store.database import Database, Tx
from dogwatch.store.state_sqlite import open_sqlite


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(engine_tables(), access_tables())


def _chunk(run_id: str, sequence: int, text: str, step: str = "one", stream: str = "stdout") -> Chunk:
    return Chunk(
        run_id=run_id, step=step, attempt=1, sequence=sequence, time_s=float(sequence), stream=stream, text=text
    )


async def test_output_is_kept_found_and_not_doubled(database: Database) -> None:
    runs = book(database)
    claimed = await _claimed(runs)
    run_id = claimed.run.run_id
    batch = [_chunk(run_id, 1, "first é\n"), _chunk(run_id, 2, "Error: no\0\n", "two", "stderr")]
    await runs.append(run_id, claimed.fence, batch)
    await runs.append(run_id, claimed.fence, batch)
    await runs.append(run_id, claimed.fence, [*batch, _chunk(run_id, 3, "third\n")])
    chunks = await runs.output(run_id)
    assert [(chunk.sequence, chunk.text) for chunk in chunks] == [
        (1, "first é\n"),
        (2, "Error: no\0\n"),
        (3, "third\n"),
    ]
    assert chunks[1] == batch[1]
    assert [chunk.text for chunk in await runs.output(run_id, step="two")] == ["Error: no\0\n"]
    assert [chunk.sequence for chunk in await runs.output(run_id, search="ERROR")] == [2]
    assert [chunk.sequence for chunk in await runs.output(run_id, after=1, limit=1)] == [2]
    # The next owner counts from 1 again; the numbers go on.
    await runs.leave("w1")
    await runs.register(identity("w2"))
    (again,) = await runs.claim("w2", 1)
    await runs.append(run_id, again.fence, [_chunk(run_id, 1, "fourth\n")])
    assert [chunk.sequence for chunk in await runs.output(run_id)] == [1, 2, 3, 4]
    with pytest.raises(NotFound):
        await runs.output("0" * 18)


async def test_output_beyond_the_bound_loses_its_middle_and_says_so(database: Database) -> None:
    runs = book(database, output_bytes=10_000)
    claimed = await _claimed(runs)
    run_id = claimed.run.run_id
    for n in range(1, 101):
        await runs.append(run_id, claimed.fence, [_chunk(run_id, n, f"{n:04}".ljust(500, "."))])
    chunks = await runs.output(run_id)
    texts = [chunk.text[:4] for chunk in chunks]
    (note,) = [chunk for chunk in chunks if chunk.stream == "note"]
    at = chunks.index(note)
    assert texts[:at] == [f"{n:04}" for n in range(1, at + 1)]
    assert texts[at + 1 :] == [f"{n:04}" for n in range(101 - len(texts[at + 1 :]), 101)]
    assert 4_000 < sum(len(text) for text in (chunk.text for chunk in chunks)) <= 10_200
    assert "39.1 KiB" in note.text
    assert [chunk.sequence for chunk in chunks] == sorted({chunk.sequence for chunk in chunks})
    rows = await database.read(lambda tx: tx.one("SELECT count(*), sum(text_bytes) FROM output"))
    assert rows[0] <= 21


async def test_output_is_followed_to_the_end_of_the_run(database: Database) -> None:
    runs = book(database)
    claimed = await _claimed(runs)
    run_id = claimed.run.run_id

    async def follow() -> list[str]:
        return [chunk.text async for chunk in runs.follow(run_id)]

    following = asyncio.create_task(follow())
    for n in range(1, 6):
        await asyncio.sleep(0.02)
        await runs.append(run_id, claimed.fence, [_chunk(run_id, n, str(n))])
    await finish(runs, claimed)
    assert await asyncio.wait_for(following, 60) == ["1", "2", "3", "4", "5"]


async def test_old_runs_go_with_all_that_belongs_to_them(database: Database) -> None:
    runs = book(database, job(), job("kept", keep=3600), keeping=Keeping(age_s=0.0, per_job=100, total=100))
    await runs.register(identity())
    for name in ("build", "kept", "build"):
        await start(runs, name)
    for claimed in await runs.claim("w1", 2):
        await runs.append(claimed.run.run_id, claimed.fence, [_chunk(claimed.run.run_id, 1, "x")])
        await finish(runs, claimed, RunState.SUCCEEDED, step(state=StepState.SUCCEEDED))
    assert await runs.retain() == 1
    left = (await runs.find(RunFilter())).items
    assert sorted((run.job, run.state.value) for run in left) == [("build", "queued"), ("kept", "succeeded")]
    for table in ("steps", "output", "outputs"):
        (count,) = await database.read(lambda tx, table=table: tx.one(f"SELECT count(*) FROM {table}"))
        assert count == 1


async def test_only_so_many_ended_runs_are_kept(database: Database) -> None:
    runs = book(database, job(), job("other"), keeping=Keeping(per_job=3, total=4))
    await runs.register(identity())
    for n in range(12):
        await start(runs, ("build", "other")[n % 2], parameters={"n": n})
    for claimed in await runs.claim("w1", 12):
        await finish(runs, claimed)
    assert await runs.retain() == 8
    left = [run.parameters["n"] for run in (await runs.find(RunFilter())).items]
    assert len(left) == 4
    assert set(left) <= {6, 7, 8, 9, 10, 11}
    assert await runs.retain() == 0


async def test_a_child_stays_as_long_as_its_parent_goes_on(database: Database) -> None:
    runs = book(database, keeping=Keeping(age_s=0.0, per_job=1, total=1))
    parent = await _claimed(runs)
    for _ in range(3):
        await start(runs, parent=(parent.run.run_id, "call"))
    for child in await runs.claim("w1", 5):
        await finish(runs, child)
    assert await runs.retain() == 0
    await finish(runs, parent)
    assert await runs.retain() == 4


async def test_a_start_in_a_transaction_of_another_is_there_or_not_with_it(database: Database) -> None:
    runs = book(database)
    starter = runs.starter(StartRun(job="build", actor=ALICE))

    def failing(tx: Tx) -> None:
        starter(tx)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(failing)
    assert not (await runs.find(RunFilter())).items
    started = await database.write(starter)
    await runs.register(identity())
    assert [one.run.run_id for one in await runs.claim("w1", 1)] == [started.run.run_id]
    # It counts as every start does, and the definition is known to be on disk from then on.
    assert "dogwatch_runs_started_total 1.0" in render_metrics(runs.metrics())
    await database.write(lambda tx: tx.run("UPDATE definitions SET seen_s = 0"))
    await database.write(starter)
    assert "dogwatch_runs_started_total 2.0" in render_metrics(runs.metrics())
    assert await database.read(lambda tx: tx.rows("SELECT seen_s FROM definitions")) == [(0,)]


async def test_metrics_count_what_there_is(database: Database) -> None:
    runs = book(database)
    claimed = await _claimed(runs)
    await start(runs)
    await park(runs, claimed, step(state=StepState.WAITING))
    await runs.refresh()
    text = render_metrics(runs.metrics())
    for line in (
        'dogwatch_runs{job="build",state="queued"} 1.0',
        "dogwatch_queue_depth 1.0",
        "dogwatch_runs_parked 1.0",
        "dogwatch_workers_slots 10.0",
        "dogwatch_runs_started_total 2.0",
    ):
        assert line in text


async def _spoil(database: Database) -> None:
    await database.write(lambda tx: tx.run("UPDATE definitions SET body = replace(body, '\"nothing\"', '\"removed\"')"))


async def test_a_definition_that_this_program_cannot_read_fails_or_is_left_to_others(database: Database) -> None:
    runs = book(database)
    started = await start(runs)
    await _spoil(database)
    other = book(database, job(), job("known", timeout=5.0))
    await other.register(identity("old"))
    # Somebody looked at it before a worker came to it: that changes nothing.
    assert not await other.steps(started.run.run_id)
    await start(other, "known")
    assert [one.run.job for one in await other.claim("old", 5)] == ["known"]
    run = await other.show(started.run.run_id)
    assert len(await other.steps(run.run_id)) == 0
    if database.kind == "sqlite":
        assert (run.state, "'removed'" in run.reason) == (RunState.FAILED, True)
        return
    # A newer worker may know it; it is still there, and whoever looks is told.
    assert (run.state, "'removed'" in run.waiting_for) == (RunState.QUEUED, True)
    await start(other, "known")
    assert [one.run.job for one in await other.claim("old", 5)] == ["known"]
    await runs.register(identity("new"))
    await database.write(lambda tx: tx.run("UPDATE definitions SET body = replace(body, '\"removed\"', '\"nothing\"')"))
    assert [one.run.run_id for one in await runs.claim("new", 5)] == [run.run_id]


async def test_secret_parameters_that_cannot_be_opened_fail_their_run_only(database: Database) -> None:
    class Refusing(Plain):
        def open(self, sealed: bytes) -> bytes:
            raise PermanentError("another key")

    spec = job("secret", parameters={"p": Parameter(secret=True)})
    runs = book(database, spec, job())
    first = await start(runs, "secret", parameters={"p": "x"})
    await start(runs)
    other = book(database, spec, job(), sealer=Refusing())
    await other.register(identity())
    assert [one.run.job for one in await other.claim("w1", 5)] == ["build"]
    run = await other.show(first.run.run_id)
    assert (run.state, "another key" in run.reason) == (RunState.FAILED, True)


async def test_a_definition_that_is_used_again_and_again_is_never_taken_for_forgotten(tmp_path: Path) -> None:
    clock = ManualClock()
    database = await open_sqlite(tmp_path / "state.db", [engine_tables(), access_tables()], clock)
    try:
        runs = book(database, clock=clock)
        for _ in range(5):  # more often than a definition is marked
            await start(runs)
            clock.advance(1500)
        rows = await database.read(lambda tx: tx.rows("SELECT seen_s FROM definitions"))
        assert [clock.now_s() - float(row[0] or 0) < 3600 for row in rows] == [True]
    finally:
        await database.close()


async def test_a_run_that_no_worker_can_read_is_left_to_others_and_can_be_given_up(database: Database) -> None:
    runs = book(database)
    run_id = (await _claimed(runs)).run.run_id
    await runs.leave("w1")
    newer = '{"steps": "of a newer version"}'
    await database.write(lambda tx: tx.run("UPDATE definitions SET body = :newer", newer=newer))
    older = book(database)
    await older.register(identity())
    assert not await older.claim("w1", 1)
    found = await older.show(run_id)
    if database.kind == "sqlite":
        assert found.state is RunState.FAILED  # nobody else could ever
        return
    assert found.waiting_for.startswith("a worker that can carry it out")
    await older.cancel(run_id, ALICE, reason="stuck")
    assert not await older.claim("w1", 1)
    assert not (await older.show(run_id)).state.ended  # its cleanup may still be done by another
    await older.cancel(run_id, BOB, reason="enough")
    found = await older.show(run_id)
    assert (found.state, found.reason) == (
        RunState.CANCELLED,
        "enough; nothing was cleaned up: no worker can carry it out",
    )
    assert not await older.claim("w1", 1)
