"""The audit trail on both databases: its chain, tampering of every kind, heads, retention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.audit_trail import Trail, write
from tests.contract.conftest import Open

from dogwatch.access.actor import SYSTEM, Actor
from dogwatch.access.audit import AuditEvent, columns, encoded
from dogwatch.access.chain import GENESIS, Verdict, link
from dogwatch.access.heads import HEADS_FILE, file_heads, sign_head, sign_newest
from dogwatch.access.keeper import AuditKeeper
from dogwatch.access.keys import AUDIT_KEY, Signer
from dogwatch.access.options import AuditOptions
from dogwatch.access.tables import access_tables
from dogwatch.access.trail import AuditFilter, cut, find
from dogwatch.errors import PermanentError
from dogwatch.store.database import Tx


@pytest.fixture
async def trail(open_database: Open, tmp_path: Path) -> Trail:
    """Twenty events, a head over them, and five that no head covers yet."""
    one = Trail(await open_database(access_tables()), tmp_path)
    await write(one.database, 20)
    await one.keeper.step()
    await write(one.database, 5)
    return one


async def test_an_honest_trail_is_whole(trail: Trail) -> None:
    verdict = await trail.verify()
    assert verdict == Verdict(events=25, first=1, last=25, heads=2, signed=20)
    assert verdict.ok


async def test_an_empty_trail_is_whole(open_database: Open, tmp_path: Path) -> None:
    verdict = await Trail(await open_database(access_tables()), tmp_path).verify()
    assert verdict.ok
    assert verdict.events == 0


async def test_many_at_once_make_one_chain(open_database: Open, tmp_path: Path) -> None:
    trail = Trail(await open_database(access_tables()), tmp_path)
    await asyncio.gather(*(write(trail.database, 3) for _ in range(30)))
    assert (await trail.verify()).events == 90


_COPY = "INSERT INTO audit_events SELECT {}, time_s, actor, verb, noun, name, outcome, body, digest FROM audit_events "
TAMPERING: dict[str, tuple[list[str], int, str]] = {
    "a body changed": (["UPDATE audit_events SET body = REPLACE(body, 'ann', 'bob') WHERE number = 7"], 7, "changed"),
    "a column changed": (["UPDATE audit_events SET actor = 'user:' || 'bob' WHERE number = 7"], 7, "column actor"),
    "a time changed": (["UPDATE audit_events SET time_s = time_s - 86400 WHERE number = 9"], 9, "column time_s"),
    "an outcome changed": (["UPDATE audit_events SET outcome = 'refused' WHERE number = 9"], 9, "column outcome"),
    "a digest changed": (["UPDATE audit_events SET digest = body WHERE number = 7"], 7, "changed"),
    "one removed": (["DELETE FROM audit_events WHERE number = 7"], 7, "event 7 is missing"),
    "several removed": (["DELETE FROM audit_events WHERE number BETWEEN 7 AND 9"], 7, "events 7 to 9 are missing"),
    "the oldest removed": (["DELETE FROM audit_events WHERE number <= 3"], 1, "events 1 to 3 are missing"),
    "the newest removed, unsigned": (["DELETE FROM audit_events WHERE number > 22"], 23, "events 23 to 25 were cut"),
    "the newest removed, signed": (["DELETE FROM audit_events WHERE number > 15"], 16, "events 16 to 20 were cut"),
    "all removed": (["DELETE FROM audit_events"], 1, "events 1 to 20 were cut"),
    "one removed, the rest renumbered": (
        ["DELETE FROM audit_events WHERE number = 7"]
        + [f"UPDATE audit_events SET number = {n - 1} WHERE number = {n}" for n in range(8, 26)],
        7,
        "event 7 was changed",
    ),
    "two exchanged": (
        [
            "UPDATE audit_events SET number = -1 WHERE number = 7",
            "UPDATE audit_events SET number = 7 WHERE number = 8",
            "UPDATE audit_events SET number = 8 WHERE number = -1",
        ],
        7,
        "event 7 was changed",
    ),
    "a body of another, with its column": (
        [
            "UPDATE audit_events SET body = (SELECT body FROM audit_events WHERE number = 8) WHERE number = 7",
            "UPDATE audit_events SET name = (SELECT name FROM audit_events WHERE number = 8) WHERE number = 7",
        ],
        7,
        "event 7 was changed",
    ),
    "a digest taken away": (["UPDATE audit_events SET digest = '' WHERE number = 24"], 24, "event 24 was changed"),
    "the first replaced": (["UPDATE audit_events SET body = '{}' WHERE number = 1"], 1, "event 1 was changed"),
    "the tail put back": (["UPDATE audit_tail SET number = 24"], 25, "not the newest one"),
    "a head of another event": (
        ["UPDATE audit_heads SET digest = (SELECT digest FROM audit_events WHERE number = 19) WHERE number = 20"],
        20,
        "not signed by a trusted key",
    ),
    "a signature cut": (
        ["UPDATE audit_heads SET signature = SUBSTR(signature, 1, 100)"],
        20,
        "not signed by a trusted key",
    ),
    "one inserted between": (
        [f"UPDATE audit_events SET number = {n + 1} WHERE number = {n}" for n in range(25, 6, -1)]
        + [_COPY.format(7) + "WHERE number = 3"],
        7,
        "event 7 was changed",
    ),
    "one appended": (
        [_COPY.format(26) + "WHERE number = 25"],
        26,
        "event 26 was changed",
    ),
    "one before the first": (
        [_COPY.format(-5) + "WHERE number = 3"],
        -5,
        "event -5 stands where event 1 belongs",
    ),
    "the tail forgotten": (
        ["UPDATE audit_tail SET number = 22", "DELETE FROM audit_events WHERE number > 15"],
        16,
        "were cut off",
    ),
    "a head made by another": (
        ["UPDATE audit_heads SET signer = 'ab' WHERE number = 20"],
        20,
        "not signed by a trusted key",
    ),
    "a head's number changed": (["UPDATE audit_heads SET number = 19"], 19, "not signed by a trusted key"),
    "heads removed, newest cut": (
        ["DELETE FROM audit_heads", "UPDATE audit_tail SET number = 15", "DELETE FROM audit_events WHERE number > 15"],
        16,
        f"signed ({HEADS_FILE})",
    ),
}


@pytest.mark.parametrize(("queries", "broken", "why"), TAMPERING.values(), ids=TAMPERING)
async def test_tampering_is_found_where_it_begins(trail: Trail, queries: list[str], broken: int, why: str) -> None:
    await trail.sql(*queries)
    verdict = await trail.verify()
    assert (verdict.broken, why in verdict.why) == (broken, True), verdict


async def forge(trail: Trail, number: int, change: Callable[[AuditEvent], AuditEvent], *, upto: int = 25) -> None:
    """Change an event as somebody does who may write all tables: with every later digest, and the tail, made anew."""
    links = await trail.links()

    def work(tx: Tx) -> None:
        before = GENESIS
        for at, body, _digest in links[:upto]:
            event = msgspec.json.decode(body, type=AuditEvent)
            if at == number:
                event = change(event)
            text = encoded(event)
            before = link(before, at, text)
            pairs = ", ".join(f"{name} = :{name}" for name in columns(event))
            tx.run(
                f"UPDATE audit_events SET body = :body, digest = :digest, {pairs} WHERE number = :number",
                body=text,
                digest=before,
                number=at,
                **columns(event),
            )
        tx.run("DELETE FROM audit_events WHERE number > :upto", upto=upto)
        tx.run("UPDATE audit_tail SET number = :upto, digest = :digest", upto=upto, digest=before)

    await trail.database.write(work)


def blamed(event: AuditEvent) -> AuditEvent:
    return msgspec.structs.replace(event, actor=Actor(kind="user", name="bob"))


async def test_a_chain_made_anew_contradicts_its_heads(trail: Trail) -> None:
    await forge(trail, 7, blamed)
    verdict = await trail.verify()
    assert verdict.broken == 20
    assert "made anew" in verdict.why


async def test_what_no_head_covers_yet_can_be_made_anew_only_until_it_is_signed(trail: Trail) -> None:
    await trail.keeper.step(now=True)
    await forge(trail, 23, blamed)
    assert (await trail.verify()).broken == 25


async def test_exported_heads_find_what_tables_and_files_of_the_machine_cannot(trail: Trail) -> None:
    """Root on the machine has the key, too: it signs the forged chain again. The head that had left contradicts it."""
    exported = file_heads(trail.folder / HEADS_FILE)
    assert [(head.number, len(head.signature)) for head in exported] == [(20, 128)]
    await forge(trail, 7, blamed)
    await trail.sql("DELETE FROM audit_heads")
    (trail.folder / HEADS_FILE).unlink()
    await trail.database.write(sign_newest(trail.keeper.signer))
    assert (await trail.verify()).ok
    verdict = await trail.verify(*exported)
    assert verdict.broken == 20
    assert HEADS_FILE in verdict.why


async def test_exported_heads_find_cut_events_even_with_everything_signed_again(trail: Trail) -> None:
    exported = file_heads(trail.folder / HEADS_FILE)
    await forge(trail, 0, blamed, upto=15)
    await trail.sql("DELETE FROM audit_heads")
    (trail.folder / HEADS_FILE).unlink()
    assert (await trail.verify()).ok
    verdict = await trail.verify(*exported)
    assert (verdict.broken, "events 16 to 20 were cut off" in verdict.why) == (16, True)


async def test_after_cut_events_a_gap_stays_for_good(trail: Trail) -> None:
    await trail.sql("DELETE FROM audit_events WHERE number > 22")
    await write(trail.database)
    verdict = await trail.verify()
    assert (verdict.broken, verdict.why) == (23, "events 23 to 25 are missing")


async def test_a_broken_chain_is_not_signed(trail: Trail) -> None:
    await trail.sql("UPDATE audit_events SET actor = 'user:' || 'bob' WHERE number = 22")
    await trail.keeper.step(now=True)
    assert "event 22" in trail.keeper.broken
    trouble = {family.name: dict(family.series) for family in trail.keeper.metrics()}["dogwatch_audit_trouble"]
    assert trouble == {"dogwatch_audit_trouble": 1.0}


async def test_no_change_without_a_trail(trail: Trail) -> None:
    await trail.sql("DELETE FROM audit_tail")
    with pytest.raises(PermanentError, match="lost its end"):
        await write(trail.database)


async def test_heads_come_by_number_and_by_time(open_database: Open, tmp_path: Path) -> None:
    trail = Trail(await open_database(access_tables()), tmp_path)
    await write(trail.database, 9)
    await trail.keeper.step()
    assert not (tmp_path / HEADS_FILE).exists()
    await write(trail.database)
    await trail.keeper.step()
    assert [head.number for head in file_heads(tmp_path / HEADS_FILE)] == [10]
    await write(trail.database)
    await trail.keeper.step()
    trail.clock.advance(61)
    await trail.keeper.step()
    assert [head.number for head in file_heads(tmp_path / HEADS_FILE)] == [10, 11]
    await trail.keeper.step(now=True)
    assert len(file_heads(tmp_path / HEADS_FILE)) == 2


async def test_a_head_that_a_crash_has_cut_off_is_written_again(trail: Trail) -> None:
    file = trail.folder / HEADS_FILE
    file.write_bytes(file.read_bytes()[:-20])
    assert (await trail.verify()).ok
    await trail.keeper.step(now=True)
    assert trail.keeper.broken == ""
    assert [head.number for head in file_heads(file)] == [20, 25]
    assert (await trail.verify()).ok


async def test_the_task_signs_when_events_come(open_database: Open, tmp_path: Path) -> None:
    trail = Trail(await open_database(access_tables()), tmp_path)
    task = asyncio.create_task(trail.keeper.run())
    try:
        await write(trail.database, 10)
        async with asyncio.timeout(60):
            while not file_heads(tmp_path / HEADS_FILE):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_retention_leaves_a_trail_that_can_be_verified(trail: Trail) -> None:
    middle = (await trail.database.read(lambda tx: tx.one("SELECT time_s FROM audit_events WHERE number = 25")))[0]  # type: ignore[index]
    assert await trail.database.write(cut(trail.keeper.signer, SYSTEM, float(middle or 0))) in (20, 24)
    verdict = await trail.verify()
    assert verdict.ok, verdict
    assert verdict.first in (21, 25)
    assert verdict.last == 26
    await write(trail.database, 3)
    await trail.keeper.step(now=True)
    assert (await trail.verify()).ok
    # Heads from before the cut, kept elsewhere, do not disturb.
    assert (await trail.verify(*file_heads(trail.folder / HEADS_FILE))).ok
    newest = (await trail.database.read(find(AuditFilter(verb="cut"), 1)))[0]
    assert newest.event.after == {"removed": verdict.first - 1, "up_to": verdict.first - 1}


async def test_removal_that_nobody_signed_is_no_retention(trail: Trail) -> None:
    last = (await trail.links())[9]
    other = Signer(trail.folder / "other")
    false = sign_head(other, "cut", last[0], last[2], 0.0)
    await trail.database.write(lambda tx: tx.run("DELETE FROM audit_events WHERE number <= 10"))
    await trail.database.write(
        lambda tx: tx.run(
            "INSERT INTO audit_heads VALUES ('cut', 10, :digest, 0, :signer, :signature)",
            digest=false.digest,
            signer=false.signer,
            signature=false.signature,
        )
    )
    verdict = await trail.verify()
    assert (verdict.broken, "not signed by a trusted key" in verdict.why) == (10, True)


async def test_events_that_a_cut_removed_cannot_come_back(trail: Trail) -> None:
    links = await trail.links()
    await trail.database.write(cut(trail.keeper.signer, SYSTEM, 2**40))
    assert (await trail.verify()).ok
    await trail.database.write(
        lambda tx: tx.run(
            "INSERT INTO audit_events VALUES (3, 0, '', '', '', '', '', :body, :digest)",
            body=links[2][1],
            digest=links[2][2],
        )
    )
    assert (await trail.verify()).broken == 3


async def test_former_keys_are_trusted_where_configuration_says_so(trail: Trail) -> None:
    former = trail.keeper.signer.public
    (trail.folder / AUDIT_KEY).unlink()
    renewed = AuditKeeper(trail.database, trail.folder, trail.clock, AuditOptions())
    assert (await renewed.verify()).broken == 20
    renewed.options = AuditOptions(trusted_keys=(former,))
    await renewed.step(now=True)
    assert (await renewed.verify()).ok
