"""Budgets on both databases: claimed with what they are for, never overspent by claimers of several processes."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogwatch.access.tables import access_tables
from dogwatch.rules.remedy import budget as budgets
from dogwatch.rules.remedy.budget import Room, claim, forget, release
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.rules.remedy.values import Budget
from dogwatch.store.database import Database, Tx


def budget(most: int = 3, at_once: int = 100, per_s: float = 3600.0, scope: str = "web") -> Budget:
    return Budget(scope=scope, max=most, per_s=per_s, at_once=at_once)


async def claims(database: Database) -> list[str]:
    rows = await database.read(lambda tx: tx.rows("SELECT claim_key FROM budget_claims ORDER BY claim_key"))
    return [str(row[0]) for row in rows]


@pytest.fixture
async def database(open_database: Any) -> Any:
    return await open_database(access_tables(), remedy_tables())


async def test_claimers_beside_each_other_never_overspend(open_database: Any) -> None:
    """Two programs on one PostgreSQL, or the writers of one on SQLite; what is claimed is claimed once."""
    first = await open_database(access_tables(), remedy_tables())
    second = first if first.kind == "sqlite" else await open_database(access_tables(), remedy_tables())
    wanted = budget(most=7)

    async def one(database: Database, name: str) -> Room:
        await asyncio.sleep(random.random() * 0.01)
        return await database.write(lambda tx: claim(tx, wanted, name, lasts_s=60.0))

    rooms = await asyncio.gather(*(one((first, second)[at % 2], f"k{at}") for at in range(60)))
    assert sum(room.ok for room in rooms) == 7
    assert len(await claims(first)) == 7
    refused = next(room for room in rooms if not room.ok)
    assert "7 of 7 in 1h are used up" in refused.why
    assert 3500 < refused.retry_s <= 3600


async def test_at_once_is_bounded_until_released(database: Database) -> None:
    wanted = budget(most=100, at_once=2)
    for name in "abc":
        await database.write(lambda tx, name=name: claim(tx, wanted, name, lasts_s=60.0))
    assert await claims(database) == ["a", "b"]
    await database.write(lambda tx: release(tx, "a"))
    assert (await database.write(lambda tx: claim(tx, wanted, "c", lasts_s=60.0))).ok
    assert not (await database.write(lambda tx: claim(tx, wanted, "d", lasts_s=60.0))).ok


async def test_a_claim_whose_end_was_never_told_ends_by_itself(database: Database) -> None:
    wanted = budget(most=100, at_once=1)
    await database.write(lambda tx: claim(tx, wanted, "a", lasts_s=-1.0))
    assert (await database.write(lambda tx: claim(tx, wanted, "b", lasts_s=60.0))).ok


async def test_a_key_claims_once(database: Database) -> None:
    wanted = budget(most=1)
    for _ in range(3):
        assert (await database.write(lambda tx: claim(tx, wanted, "a", lasts_s=60.0))).ok
    assert await claims(database) == ["a"]


async def test_what_was_never_done_is_not_paid_for(database: Database) -> None:
    wanted = budget(most=1)
    await database.write(lambda tx: claim(tx, wanted, "a", lasts_s=60.0))
    await database.write(lambda tx: release(tx, "a", void=True))
    assert (await database.write(lambda tx: claim(tx, wanted, "b", lasts_s=60.0))).ok


async def test_a_claim_is_undone_with_what_it_is_for(database: Database) -> None:
    def work(tx: Tx) -> None:
        assert claim(tx, budget(), "a", lasts_s=60.0).ok
        raise RuntimeError("the run could not be started")

    with pytest.raises(RuntimeError):
        await database.write(work)
    assert await claims(database) == []


async def test_old_claims_are_forgotten(database: Database) -> None:
    await database.write(lambda tx: claim(tx, budget(), "a", lasts_s=60.0))
    now_s = await database.read(lambda tx: tx.now_s)
    await database.write(lambda tx: forget(tx, now_s - 10))
    assert await claims(database) == ["a"]
    await database.write(lambda tx: forget(tx, now_s + 100))
    assert await claims(database) == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["claim", "end", "void"]), st.integers(0, 9)), max_size=30),
    st.integers(1, 3),
    st.integers(1, 2),
)
async def test_whatever_is_claimed_and_released_the_bounds_hold(
    database: Database, steps: list[tuple[str, int]], most: int, at_once: int
) -> None:
    scope = uuid.uuid4().hex
    wanted = budget(most=most, at_once=at_once, scope=scope)
    counted: set[str] = set()
    going: set[str] = set()
    for verb, number in steps:
        key = f"{scope}-{number}"
        if verb == "claim":
            room = await database.write(lambda tx, key=key: claim(tx, wanted, key, lasts_s=600.0))
            if key not in counted:
                assert room.ok == (len(counted) < most and len(going) < at_once)
            if room.ok and key not in counted:
                counted.add(key)
                going.add(key)
        else:
            await database.write(lambda tx, key=key, verb=verb: release(tx, key, void=verb == "void"))
            going.discard(key)
            if verb == "void":
                counted.discard(key)
        assert len(counted) <= most
        assert len(going) <= at_once
    assert budgets.room(wanted, (), 0.0).ok
