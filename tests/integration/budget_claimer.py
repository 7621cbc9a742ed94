"""One of several processes that claim from one budget, until it is ended. Arguments: URL, name, max, per, at once."""

from __future__ import annotations

import asyncio
import random
import sys

from dogwatch.access.tables import access_tables
from dogwatch.rules.remedy.budget import claim, release
from dogwatch.rules.remedy.tables import remedy_tables
from dogwatch.rules.remedy.values import Budget
from dogwatch.store.database import Tx
from dogwatch.store.state_postgres import open_postgres

LASTS_S = 1.0


def take(tx: Tx, wanted: Budget, key: str) -> bool:
    """Claim, and write down in the same transaction that it was claimed: the order is that of the locks."""
    found = claim(tx, wanted, key, lasts_s=LASTS_S)
    if found.ok:
        tx.run("INSERT INTO claim_log (verb, claim_key, at_s) VALUES ('claim', :key, :now_s)", key=key, now_s=tx.now_s)
    return found.ok


def give(tx: Tx, key: str, *, void: bool) -> None:
    release(tx, key, void=void)
    tx.run("INSERT INTO claim_log (verb, claim_key, at_s) VALUES ('end', :key, :now_s)", key=key, now_s=tx.now_s)


async def main(url: str, name: str, most: int, per_s: float, at_once: int) -> None:
    database = await open_postgres(url, (access_tables(), remedy_tables()))
    chance = random.Random(name)
    wanted = Budget(scope="web", max=most, per_s=per_s, at_once=at_once)
    going: list[str] = []
    number = 0
    print("ready", flush=True)
    while True:
        number += 1
        key = f"{name}-{number}"
        if await database.write(lambda tx, key=key: take(tx, wanted, key)):
            going.append(key)
        if going and chance.random() < 0.5:
            done = going.pop(chance.randrange(len(going)))
            void = chance.random() < 0.2
            await database.write(lambda tx, done=done, void=void: give(tx, done, void=void))
        await asyncio.sleep(chance.random() * 0.01)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))
