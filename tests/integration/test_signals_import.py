"""Files of signals taken into a store: they come out again as they went in, once, and never among newer history."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from dogwatch.core.clock import ManualClock
from dogwatch.core.values import Status, Transition
from dogwatch.errors import Conflict, PermanentError
from dogwatch.rules.importing import take_in
from dogwatch.rules.outside.firing import Scene
from dogwatch.rules.recording import Recording, write
from dogwatch.rules.topology import Node
from dogwatch.store.limits import Keep, StoreLimits
from dogwatch.store.protocol import ResultRow, TargetState
from dogwatch.store.sqlite import SqliteStore, open_store

START = 1_790_000_000.0
LIMITS = StoreLimits(keep=Keep(raw=3650 * 86_400.0))
NODES = (Node(name="db"), Node(name="shop"))


async def opened(path: Path) -> SqliteStore:
    return await open_store(path / "dogwatch.sqlite", ManualClock(now_s=START + 1e6), LIMITS)


async def exported(store: SqliteStore) -> bytes:
    scene = Scene(nodes=NODES, hosts=("h1",))
    parts = [part async for part in write(store, scene, since_s=START, until_s=START + 30_000, made_s=START + 40_000)]
    return b"".join(parts)


async def filled(path: Path) -> bytes:
    """Return a file of eight hours with an outage, so that it has several chunks."""
    store = await opened(path)
    for number in range(1900):
        time_s, down = START + number * 15.0, 900 <= number < 940
        status = int(Status.DOWN if down else Status.UP)
        store.add_result(ResultRow("db", time_s, not down, status, 0.1, 0.0, 0.01, 0.0, 0.05, 0.0, "timeout" * down))
        store.add_result(ResultRow("shop", time_s + 1.0, True, int(Status.UP), 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, ""))
        if number % 10 == 0:
            store.add_samples("h1", time_s, [("node_load1", number / 100)])
    change = Transition(
        target="db", time_s=START + 900 * 15.0, before=Status.UP, after=Status.DOWN, reason="3 failures in a row"
    )
    state = TargetState(target="db", status=Status.DOWN, since_s=change.time_s, fingerprint="f", decider=b"{}")
    await store.commit_transition(change, state)
    await store.flush()
    data = await exported(store)
    await store.close()
    return data


async def test_what_went_out_comes_in_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    data = await filled(tmp_path / "one")
    store = await opened(tmp_path / "two")
    taken = await take_in(store, Recording(io.BytesIO(data), "x"))
    assert (taken.results, taken.transitions, taken.samples, taken.means) == (3800, 1, 190, 0)
    # The same rows, in whatever blocks.
    rows = await store.results("db", limit=5000)
    assert [(row.time_s, row.reason) for row in rows[-941:-939]] == [
        (START + 940 * 15.0, ""), (START + 939 * 15.0, "timeout"),
    ]  # fmt: skip
    assert len(rows) == 1900
    (change,) = await store.transitions("db")
    assert change.reason == "3 failures in a row"
    first, second = Recording(io.BytesIO(data), "x"), Recording(io.BytesIO(await exported(store)), "y")
    assert [len(piece.results) for piece in first.pieces()] == [len(piece.results) for piece in second.pieces()]
    with pytest.raises(Conflict, match="history of db, shop, h1 from the begin"):
        await take_in(store, Recording(io.BytesIO(data), "x"))
    assert len(await store.results("db", limit=5000)) == 1900
    await store.close()


async def test_a_file_that_was_cut_off_says_so(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    data = await filled(tmp_path / "one")
    store = await opened(tmp_path / "two")
    with pytest.raises(PermanentError, match="cut off"):
        await take_in(store, Recording(io.BytesIO(data[:-40]), "x"))
    await store.close()


async def test_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    file = tmp_path / "db.signals"
    file.write_bytes(await filled(tmp_path / "one"))

    async def run(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dogwatch", "signals", "import", *arguments, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    code, out, err = await run(str(file), "--data", str(tmp_path / "new"), "--json")
    assert code == 0, err
    assert json.loads(out) == [{"file": str(file), "results": 3800, "transitions": 1, "samples": 190, "means": 0}]
    code, _, err = await run(str(file), "--data", str(tmp_path / "new"))
    assert (code, "there is history of db" in err) == (11, True)
    assert (await run(str(tmp_path / "none"), "--data", str(tmp_path / "new")))[0] == 2
    # A folder that somebody uses is left alone.
    store = await opened(tmp_path / "one")
    code, _, err = await run(str(file), "--data", str(tmp_path / "one"))
    await store.close()
    assert code == 11, err
