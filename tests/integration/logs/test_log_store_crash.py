"""The store under kill -9, full disks, torn files, clock steps, and retention while somebody queries."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.sinks import store as store_sink
from dogwatch.logs.sinks.store import StoreSink
from dogwatch.logs.store import sealing
from dogwatch.logs.store.keeping import Keep, Keeper, Steady
from dogwatch.logs.store.layout import Index, wal_path
from dogwatch.logs.store.query import LogStore, Query
from dogwatch.logs.store.wal import header
from dogwatch.logs.tools import SinkTools

PROGRAM = Path(__file__).with_name("agent_process.py")
NOW_US = 1_795_000_000_000_000


@pytest.fixture(scope="module", autouse=True)
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both libraries begin threads with their first use that last as long as the process."""
    folder = tmp_path_factory.mktemp("first")
    for number in range(8):
        put(folder, number, [{"a": 1}])
        sealing.seal(folder, number)
    sealing.merge(folder, Index(folder).contents().segments)
    LogStore(folder).run(Query())


def put(folder: Path, number: int, records: list[dict[str, Any]], at_us: int = NOW_US) -> None:
    lines = [{"id": f"x:{number}:{at}", "source": "s", "file": "/f", **one} for at, one in enumerate(records)]
    wal_path(folder, number).write_bytes(header(at_us + number) + msgspec.json.Encoder().encode_lines(lines))


def keeper(folder: Path, keep: Keep | None = None) -> Keeper:
    wall, monotonic = [NOW_US / 1e6], [0.0]
    return Keeper(folder, keep or Keep(), Steady(lambda: wall[0], lambda: monotonic[0]))


def ids(folder: Path) -> list[str]:
    return sorted(one["id"] for one in LogStore(folder).run(Query(limit=10_000)).records)


async def test_kill_at_random_instants_gives_each_line_exactly_once(tmp_path: Path) -> None:
    draw = random.Random(7)
    source, state, store = tmp_path / "in.log", tmp_path / "state", tmp_path / "store"
    config = tmp_path / "c.yaml"
    config.write_text(
        "logs:\n  checkpoint: 50ms\n"
        f"  sources: [{{name: a, file: {{paths: [{source}], start: beginning}}}}]\n"
        # Small files: the kills fall into sealing and merging, too.
        f"  sinks: [{{name: o, store: {{path: {store}, seal: 16KiB, wait: 0s}}, batch: {{size: 4KiB, wait: 5ms}}}}]\n"
    )
    number = 0
    with source.open("a", buffering=1) as file:
        for round_ in range(12):
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(PROGRAM), str(config), str(state), stdin=-1, stdout=-1
            )
            assert process.stdout is not None
            await process.stdout.readline()
            end_s = asyncio.get_running_loop().time() + draw.uniform(0.05, 1.2)
            while asyncio.get_running_loop().time() < end_s:
                file.write("".join(f"line {number + one} {'x' * draw.randrange(90)}\n" for one in range(60)))
                number += 60
                await asyncio.sleep(0.02)
            if round_ < 11:
                process.send_signal(signal.SIGKILL)
                await process.wait()
            else:
                async with asyncio.timeout(60):
                    # The agent still seals and merges: only a query knows how to read beside that.
                    while await asyncio.to_thread(stored, store) < number:  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
                await process.communicate(b"\n")
            process._transport.close()  # type: ignore[attr-defined]
    found = Counter(await asyncio.to_thread(messages, store))
    assert {int(line.split()[1]) for line in found} == set(range(number))
    assert set(found.values()) == {1}
    assert not (store / "broken").exists()
    assert list(store.glob("seg-*.parquet")), "nothing was sealed: the test did not reach what it is for"


def stored(store: Path) -> int:
    return LogStore(store).run(Query(limit=0, bucket_us=1_000_000)).matched


def messages(store: Path) -> list[str]:
    """Return what the files hold, read without the store's queries; nobody may write meanwhile."""
    contents = Index(store).contents()
    found = [line for path in contents.wals.values() for line in _plain(path)]
    import polars as pl

    for one in contents.segments:
        column = one.meta.columns["message"][0]
        found.extend(pl.read_parquet(one.parquet, columns=[column])[column].to_list())
    return found


def _plain(path: Path) -> list[str]:
    lines = path.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line)["message"] for line in lines if not line.startswith(b"#")]


def test_killed_between_segments_and_the_end_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1, [{"message": "a"}, {"message": "b"}])

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    # The last step is what did not happen.
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            sealing.seal(tmp_path, 1)
    assert len(list(tmp_path.glob("seg-*.parquet"))) == 1
    assert ids(tmp_path) == ["x:1:0", "x:1:1"], "both are there, and only one counts"
    keeper(tmp_path).recover()
    assert not list(tmp_path.glob("seg-*"))
    assert ids(tmp_path) == ["x:1:0", "x:1:1"]


def test_killed_between_a_merge_and_the_end_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        put(tmp_path, number, [{"n": number}])
        sealing.seal(tmp_path, number)
    before = ids(tmp_path)
    parts = sealing.to_merge(Index(tmp_path).contents().segments)
    with monkeypatch.context() as patched:
        patched.setattr(sealing.Segment, "delete", lambda _self: None)
        sealing.merge(tmp_path, parts)
    assert len(list(tmp_path.glob("seg-*.parquet"))) == 9
    assert ids(tmp_path) == before
    keeper(tmp_path).recover()
    assert len(list(tmp_path.glob("seg-*.parquet"))) == 1
    assert ids(tmp_path) == before


@pytest.mark.parametrize("harm", ["cut", "empty", "no meta", "meta cut", "meta changed"])
def test_a_torn_segment_is_set_aside(tmp_path: Path, harm: str) -> None:
    for number in (1, 2):
        put(tmp_path, number, [{"message": f"m{number}"}])
        sealing.seal(tmp_path, number)
    parquet = next(tmp_path.glob("seg-00000001*.parquet"))
    meta = parquet.with_suffix(".meta")
    if harm == "cut":
        os.truncate(parquet, parquet.stat().st_size - 5)
    elif harm == "empty":
        os.truncate(parquet, 0)
    elif harm == "no meta":
        meta.unlink()
    elif harm == "meta cut":
        os.truncate(meta, meta.stat().st_size - 3)
    else:
        meta.write_bytes(meta.read_bytes().replace(b"message", b"massage"))
    one = keeper(tmp_path)
    one.recover()
    assert one.counts["set_aside"] == 1
    assert (tmp_path / "broken" / parquet.name).exists()
    assert ids(tmp_path) == ["x:2:0"]


def test_a_segment_torn_while_it_is_in_use_does_not_end_queries(tmp_path: Path) -> None:
    for number in (1, 2):
        put(tmp_path, number, [{"message": f"m{number}"}])
        sealing.seal(tmp_path, number)
    os.truncate(next(tmp_path.glob("seg-00000001*.parquet")), 10)
    answer = LogStore(tmp_path).run(Query())
    assert [one["id"] for one in answer.records] == ["x:2:0"]
    assert answer.unreadable == 1


def test_full_disk_while_sealing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1, [{"message": "a"}])
    put(tmp_path, 2, [{"message": "b"}])

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sealing, "write_meta", full)
        with pytest.raises(OSError, match="No space"):
            keeper(tmp_path).work(2)
    assert ids(tmp_path) == ["x:1:0", "x:2:0"]
    assert not list(tmp_path.glob("seg-*"))
    one = keeper(tmp_path)
    one.work(2)
    assert one.counts["sealed"] == 1
    assert ids(tmp_path) == ["x:1:0", "x:2:0"]


async def test_full_disk_while_writing_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def save() -> None:
        """Nothing is kept."""

    tools = SinkTools("o", tmp_path, save=save)
    worker = await StoreSink(path=str(tmp_path / "store")).open(tools, None)
    data = b"one\ntwo\n"
    block = Block(source="s", stream="f", path="/f", begin=0, end=8, data=data, count=2)
    write = os.pwrite
    room = [30]

    def little(fd: int, view: Any, at: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, bytes(view)[: room[0]], at)
        room[0] -= written
        return written

    try:
        with monkeypatch.context() as patched:
            patched.setattr(store_sink.os, "pwrite", little)
            with pytest.raises(TransientError, match="No space"):
                await worker.write([block])
        assert await asyncio.to_thread(ids, tmp_path / "store") == []
        await worker.write([block])
        assert len(await asyncio.to_thread(ids, tmp_path / "store")) == 2
    finally:
        await worker.close()
        await tools.close()


def test_age_is_not_believed_after_a_step_of_the_clock(tmp_path: Path) -> None:
    wall, monotonic = [NOW_US / 1e6], [0.0]
    one = Keeper(tmp_path, Keep(age_s=86_400), Steady(lambda: wall[0], lambda: monotonic[0]))
    put(tmp_path, 1, [{"message": "a"}])
    sealing.seal(tmp_path, 1)

    def after(seconds: float, step_s: float = 0.0) -> int:
        wall[0] += seconds + step_s
        monotonic[0] += seconds
        one.retain()
        return len(ids(tmp_path))

    assert after(4000) == 1
    assert after(1, step_s=10 * 365 * 86_400) == 1, "ten years in a second"
    assert after(1000) == 1
    assert after(1, step_s=-10 * 365 * 86_400) == 1
    assert after(7200) == 1
    assert after(86_400) == 0


def test_a_record_of_the_future_is_not_kept_for_ever(tmp_path: Path) -> None:
    wall, monotonic = [NOW_US / 1e6], [0.0]
    one = Keeper(tmp_path, Keep(age_s=86_400), Steady(lambda: wall[0], lambda: monotonic[0]))
    put(tmp_path, 1, [{"message": "a", "timestamp": "2199-01-01T00:00:00Z"}])
    sealing.seal(tmp_path, 1)
    assert len(ids(tmp_path)) == 1
    wall[0] += 90_000
    monotonic[0] += 90_000
    one.retain()
    assert ids(tmp_path) == []


async def test_nothing_is_sealed_that_no_checkpoint_speaks_of(tmp_path: Path) -> None:
    """The checkpoint's disk is full: what was written after it must stay where a crash can cut it off."""
    well = True

    async def save() -> bool:
        return well

    tools = SinkTools("o", tmp_path, save=save)
    sink = StoreSink(path=str(tmp_path / "store"), seal=4096)
    worker = await sink.open(tools, None)
    try:
        line = b"x" * 3000 + b"\n"
        made = [
            Block(source="s", stream="s.0", path="/f", begin=at, end=at + len(line), data=line, count=1)
            for at in range(0, 5 * len(line), len(line))
        ]
        for one in made[:2]:
            await worker.write([one])
        well = False
        for _ in range(2):
            with pytest.raises(TransientError, match="checkpoint"):
                await worker.write([made[2]])
        await worker._work(worker._sealable)  # type: ignore[attr-defined]
        assert not list((tmp_path / "store").glob("seg-*"))
        well = True
        await worker.write([made[2]])
        await worker.write([made[3]])
        assert len(ids(tmp_path / "store")) == 4
    finally:
        await worker.close()
        await tools.close()


def test_retention_by_size_takes_the_oldest(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, number, [{"message": f"m{number}"}])
        sealing.seal(tmp_path, number)
    sizes = [one.size for one in Index(tmp_path).contents().segments]
    keeper(tmp_path, Keep(size_bytes=sum(sizes[-2:]) + 10)).retain()
    assert ids(tmp_path) == ["x:3:0", "x:4:0"]


def test_queries_go_on_while_files_are_sealed_merged_and_deleted(tmp_path: Path) -> None:
    """Every answer is whole: what was there before a query began and is not deleted is in it once."""
    keep = Keep(size_bytes=100_000)
    one = keeper(tmp_path, keep)
    stop = threading.Event()
    draw = random.Random(3)
    problems: list[str] = []
    answers = [0]

    def ask() -> None:
        store = LogStore(tmp_path)
        while not stop.is_set():
            found = [record["id"] for record in store.run(Query(limit=10_000)).records]
            answers[0] += 1
            if len(found) != len(set(found)):
                problems.append("a record came twice")
            numbers = sorted({int(name.split(":")[1]) for name in found})
            if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
                problems.append(f"a hole in {numbers}")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 60):
            path = wal_path(tmp_path, number)
            put(tmp_path, number, [{"message": f"m{number} {draw.randbytes(32).hex()}"} for _ in range(60)])
            assert path.exists()
            one.work(number)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert answers[0] > 5
    assert one.counts["deleted"] > 0
    assert one.counts["merged"] > 0
