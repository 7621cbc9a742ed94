"""Writes to a store as fast as a busy watch does and says on stdout what was acknowledged, until it is killed.

Arguments: path, number of the first result, number of the first record.
"""

from __future__ import annotations

import asyncio
import sys
import time

from dogwatch.core.clock import SystemClock
from dogwatch.core.values import Status, Transition
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import Ping, ResultRow, TargetState
from dogwatch.store.sqlite import SqliteStore, open_store

TARGETS = 5


def say(*words: object) -> None:
    print(*words, flush=True)


async def records(store: SqliteStore, number: int) -> None:
    while True:
        state = TargetState(target="t", status=Status.UP, since_s=float(number), fingerprint="", decider=b"")
        change = Transition(target="t", time_s=time.time(), before=Status.DOWN, after=Status.UP, reason=str(number))
        await store.commit_transition(change, state)
        say("transition", number)
        await store.commit_ping(Ping(target="p", time_s=time.time(), signal="success", exit_status=number))
        say("ping", number)
        await store.put_document("number", str(number).encode())
        say("document", number)
        number += 1
        await asyncio.sleep(0.003)


async def main(path: str, number: int, record: int) -> None:
    store = await open_store(path, SystemClock(), StoreLimits(pings_per_target=100_000))
    task = asyncio.get_running_loop().create_task(records(store, record))
    say("opened")
    while not task.done():
        for _ in range(4):
            # The duration is the result's number, in microseconds.
            store.add_result(ResultRow(f"r{number % TARGETS}", time.time(), True, 1, number / 1e6))
            store.add_samples("host", time.time(), [("number", float(number))])
            number += 1
        say("result", number - 1, time.monotonic())
        await asyncio.sleep(0.002)
    task.result()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
