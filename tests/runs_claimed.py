"""A run that a worker has claimed."""

from __future__ import annotations

from typing import Any

from dogwatch.engine.ledger import Claimed
from dogwatch.engine.runs import RunBook
from tests.runs import identity, start


async def _claimed(runs: RunBook, **options: Any) -> Claimed:
    await runs.register(identity())
    await start(runs, **options)
    (claimed,) = await runs.claim("w1", 1)
    return claimed
