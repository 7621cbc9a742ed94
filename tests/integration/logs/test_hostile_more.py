"""More of what the world does to a log agent: encodings cut anywhere, a store's disk that is full, no good checkpoint,
a terminal that never ends its line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.logs.test_hostile import configured, fill, lines, running, small_disk, until

from dogwatch.logs.checkpoint import Checkpoint, CheckpointFile
from dogwatch.logs.sources.docker import _frames
from dogwatch.logs.store.query import LogStore, Query

pytestmark = pytest.mark.allow_leak("*:*", reason="the libraries of columns last as long as the process")
_ = small_disk


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-16-le", "größe ☃ 𝄞"),
        ("utf-16", "größe ☃ 𝄞"),
        ("utf-32-be", "größe ☃ 𝄞"),
        ("latin-1", "größe ÿ"),
        ("shift_jis", "ログの表"),
        ("gb18030", "日志 𝄞"),
        ("utf-8", "größe ☃ 𝄞"),
    ],
)
async def test_encodings_cut_anywhere(encoding: str, text: str, tmp_path: Path) -> None:
    """Written in pieces that end inside of characters, rotated in the middle, with a mark at the beginning."""
    out = tmp_path / "out.log"
    source = f"file: {{paths: [{tmp_path}/in/*.log], start: beginning, search: 50ms, encoding: {encoding}}}"
    config = configured(tmp_path, source=source)
    path = tmp_path / "in" / "a.log"
    wanted = [f"{number} {text}" for number in range(40)]
    data = "".join(f"{line}\n" for line in wanted[:20]).encode(encoding)
    async with running(config, tmp_path / "state"):
        with path.open("ab", buffering=0) as file:
            for at in range(0, len(data), 101):
                file.write(data[at : at + 101])
                await asyncio.sleep(0.06)
        await until(lambda: len(lines(out)) == 20)
    path.rename(tmp_path / "in" / "a.log.1")
    path.write_bytes("".join(f"{line}\n" for line in wanted[20:]).encode(encoding))
    async with running(config, tmp_path / "state"):
        await until(lambda: len(lines(out)) == 40)
    assert [line.decode() for line in lines(out)] == wanted


async def test_copy_truncate_beside_a_writer_loses_only_what_is_in_no_file(tmp_path: Path) -> None:
    """The worst instant: the writer goes on between the copy and the truncation. What was read until then is saved."""
    out = tmp_path / "out.log"
    config = configured(tmp_path)
    path = tmp_path / "in" / "a.log"
    path.touch()
    ended = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with path.open("ab", buffering=0) as file:
            while not ended.is_set():
                file.write(b"".join(b"%d %s\n" % (written + at, b"x" * 60) for at in range(5)))
                written += 5
                ended.wait(0.001)

    def rotate(number: int) -> None:
        shutil.copyfile(path, tmp_path / "in" / f"a.log.{number}")
        time.sleep(0.3)
        os.truncate(path, 0)

    async with running(config, tmp_path / "state") as agent:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                await asyncio.sleep(0.4)
                await asyncio.to_thread(rotate, number)
        finally:
            ended.set()
            writer.join()
        held = {line for one in (tmp_path / "in").iterdir() for line in lines(one)}
        await until(lambda: held <= set(lines(out)))
        # Also one that a busy agent sees late, when the file has grown past where it was.
        await until(lambda: agent.status()[0][0].counts["truncated"] == 5)
    found = lines(out)
    saved = len(set(found) - held)
    twice = len(found) - len(set(found))
    words = "in no file: %d, saved of them: %d, twice: %d"
    logging.getLogger(__name__).info(words, written - len(held), saved, twice)
    assert twice == 0, "a copy was taken for a file of its own"
    assert saved > 0


async def limited(config: Path, state: Path, limit: str) -> asyncio.subprocess.Process:
    """Run the agent as its command does, with so many descriptors."""
    words = ["prlimit", f"--nofile={limit}", sys.executable, "-m", "dogwatch", "logs", "run", "-c", str(config)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*words, "--folder", str(state), stderr=pipe)


@pytest.mark.parametrize("limit", ["256:2048", "256:256"])
async def test_more_files_than_may_be_open(tmp_path: Path, limit: str) -> None:
    """The limit is raised where that is allowed; else what is open is read, and the others when there is room."""
    out = tmp_path / "out.log"
    source = f"file: {{paths: [{tmp_path}/in/*.log], start: beginning, search: 50ms, poll: 100ms, quiet: 200ms}}"
    config = configured(tmp_path, source=source)
    for number in range(500):
        (tmp_path / "in" / f"{number:03d}.log").write_text(f"line {number}\n")
    agent = await limited(config, tmp_path / "state", limit)
    assert agent.stderr is not None
    try:
        if limit == "256:256":
            await until(lambda: len(lines(out)) > 100)
            seen: set[bytes] = set()

            def make_room() -> bool:
                """Delete what has been delivered, as those do who rotate."""
                found = set(lines(out))
                for line in found - seen:
                    (tmp_path / "in" / f"{int(line.split()[1]):03d}.log").unlink()
                seen.update(found)
                return len(found) == 500

            await until(make_room, 120)
        else:
            await until(lambda: len(lines(out)) == 500, 60)
        await until((tmp_path / "state" / "checkpoint").exists)
    finally:
        agent.terminate()
        said = (await agent.communicate())[1].decode()
    assert agent.returncode == 0, said
    assert sorted(lines(out)) == sorted(b"line %d" % number for number in range(500))
    assert said.count("more files than may be open") == (limit == "256:256")
    assert "checkpoint" not in said


async def test_no_room_for_the_store(tmp_path: Path, small_disk: Path) -> None:
    """A real disk without room: records wait, each is there once when there is room, and queries go on."""
    store = small_disk / "store"
    sinks = f"    - {{name: o, store: {{path: {store}, seal: 64KiB}}, retry: {{base: 10ms, cap: 50ms}}}}\n"
    config = configured(tmp_path, sinks=sinks)
    source = tmp_path / "in" / "a.log"
    source.write_text("first\n")

    def found() -> list[str]:
        return [one["message"] for one in LogStore(store).run(Query(limit=10_000)).records] if store.exists() else []

    async with running(config, tmp_path / "state") as agent:
        await until(lambda: found() == ["first"])
        fill(small_disk)
        with source.open("a") as file:
            file.write("".join(f"line {number} {'x' * 80}\n" for number in range(2000)))
        await until(lambda: "No space" in agent.status()[1][0].failing)
        assert found()[0] == "first", "what is there can be read"
        (small_disk / "filler").unlink()
        await until(lambda: len(found()) == 2001, 60)
    assert sorted(found()) == sorted(["first", *(f"line {number} {'x' * 80}" for number in range(2000))])


async def test_without_a_good_checkpoint_it_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both are damaged: what is there comes again rather than that something never comes."""
    out = tmp_path / "out.log"
    config = configured(tmp_path, source=f"file: {{paths: [{tmp_path}/in/*.log], start: end, search: 50ms}}")
    source = tmp_path / "in" / "a.log"
    state = tmp_path / "state"
    source.write_text("before the first start\n")
    async with running(config, state):
        await until((state / "checkpoint").exists)
        with source.open("a") as file:
            file.write("one\n")
        await until(lambda: lines(out) == [b"one"])
    with source.open("a") as file:
        file.write("while it was down\n")
    for path in state.glob("checkpoint*"):
        path.write_bytes(b"\0" * 100)
    async with running(config, state) as agent:
        assert agent.checkpoint_problem.count("cannot be used") == 2
        await until(lambda: b"while it was down" in lines(out))
    assert "from their beginning" in caplog.text


class Watched:
    """A checkpoint file whose disk is slow. most: how many wrote at once."""

    def __init__(self, inner: CheckpointFile) -> None:
        self._inner = inner
        self.now = self.most = 0

    def save(self, checkpoint: Checkpoint) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.1)
        self._inner.save(checkpoint)
        self.now -= 1


async def test_the_last_checkpoint_waits_for_one_that_was_under_way(tmp_path: Path) -> None:
    """A reload ends the agent while it writes one: two threads in one file would make a torn one."""
    async with running(configured(tmp_path), tmp_path / "state") as agent:
        watched = Watched(agent._file)
        agent._file = watched  # type: ignore[assignment]
        for _ in range(3):
            saving = asyncio.create_task(agent.save())
            await asyncio.sleep(0.03)
            saving.cancel()
            assert await agent.save()
            await asyncio.wait([saving])
    assert watched.most == 1
    assert not (tmp_path / "state" / "checkpoint.new").exists()


class Raw:
    """Stands for the engine's answer."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


async def test_a_terminal_that_never_ends_its_line_is_bounded() -> None:
    stamp = b"2026-11-21T07:00:00.000000001Z "
    parts = iter([stamp, *(b"x" * 65536 for _ in range(1600)), b"\n", stamp + b"next\n"])
    answer: Any = Raw(parts)
    found = [data async for _name, data in _frames(answer, tty=True, most=100_000)]
    assert [len(one) < 200_000 for one in found] == [True, True]
    assert found[1] == stamp + b"next\n"
