"""What the world does to a log agent: full disks, sinks that are down or slow, clocks that jump, files that go away,
inodes that are used again, lines that are none, ten thousand files, permissions, a damaged checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.log_world import Agent as Process
from tests.receiver import Received, receiving

from dogwatch.config.load import Loader
from dogwatch.core.clock import SystemClock
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
FAST = "retry: {base: 10ms, cap: 50ms}"


def configured(folder: Path, *, source: str = "", sinks: str = "", state: Path | None = None) -> Path:
    path = folder / "c.yaml"
    source = source or f"file: {{paths: [{folder}/in/*.log], start: beginning, search: 50ms}}"
    sinks = sinks or f"    - {{name: o, file: {{path: {folder}/out.log}}, {FAST}}}\n"
    path.write_text(f"logs:\n  checkpoint: 50ms\n  sources: [{{name: s, {source}}}]\n  sinks:\n{sinks}")
    (folder / "in").mkdir(exist_ok=True)
    return path


@asynccontextmanager
async def running(config: Path, state: Path, clock: SystemClock | None = None) -> AsyncIterator[Agent]:
    agent = Agent(Loader([config], [LOGS], environ={}).load().get(LOGS), state, clock=clock)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


async def until(done: Callable[[], bool], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def counts(agent: Agent) -> dict[str, int]:
    return agent.status()[0][0].counts


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = Path(tempfile.mkdtemp(prefix="dogwatch-small-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "dogwatch", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


# -- full disks


async def test_no_room_for_the_checkpoint(tmp_path: Path, small_disk: Path) -> None:
    """Lines go on; the checkpoint is said to fail, and is written once there is room."""
    out = tmp_path / "out.log"
    config = configured(tmp_path)
    source = tmp_path / "in" / "a.log"
    source.write_text("one\n")
    async with running(config, small_disk / "state") as agent:
        await until(lambda: lines(out) == [b"one"] and (small_disk / "state" / "checkpoint").exists())
        fill(small_disk)
        with source.open("a") as file:
            file.write("two\n")
        await until(lambda: bool(agent._save_failed))
        assert "No space" in agent._save_failed
        (small_disk / "filler").unlink()
        with source.open("a") as file:
            file.write("three\n")
        await until(lambda: not agent._save_failed and len(lines(out)) == 3)
    async with running(config, small_disk / "state"):
        with source.open("a") as file:
            file.write("four\n")
        await until(lambda: len(lines(out)) == 4)
    assert lines(out) == [b"one", b"two", b"three", b"four"]


def fill(folder: Path) -> None:
    descriptor = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"x" * 4096):
            pass
    os.close(descriptor)


async def test_no_room_for_the_buffer(tmp_path: Path, small_disk: Path) -> None:
    """What does not fit on disk stays in the files; nothing is lost when the sink is back."""
    well = False
    async with receiving(answer=lambda _request: (200 if well else 503, {})) as receiver:
        buffer = "buffer: {memory: 64KiB, disk: 100MiB}"
        config = configured(
            tmp_path, sinks=f"    - {{name: o, http: {{url: {receiver.url}, compression: none}}, {buffer}, {FAST}}}\n"
        )
        # Twenty times what the disk holds, in files that are each a block or more.
        written = [f"line {number} {'x' * 900}" for number in range(20_000)]
        (tmp_path / "in" / "a.log").write_text("\n".join(written) + "\n")
        async with running(config, small_disk / "state") as agent:
            said: set[str] = set()

            def full() -> bool:
                said.add(agent._outlets["o"].failing)
                return any("buffer on disk" in one for one in said)

            await until(full, 60)
            await asyncio.sleep(0.3)
            assert counts(agent)["lines"] < 20_000
            refused = len(receiver.requests)
            well = True

            def taken() -> set[str]:
                found = (line for one in receiver.requests[refused:] for line in one.body.splitlines())
                return {json.loads(line)["message"] for line in found}

            await until(lambda: len(taken()) == 20_000, 60)
            assert agent.status()[1][0].dropped == 0
    assert taken() == set(written)


async def test_no_room_for_the_output(tmp_path: Path, small_disk: Path) -> None:
    out = small_disk / "out.log"
    config = configured(tmp_path, sinks=f"    - {{name: o, file: {{path: {out}}}, {FAST}}}\n")
    source = tmp_path / "in" / "a.log"
    fill(small_disk)
    source.write_text("".join(f"line {number}\n" for number in range(2000)))
    async with running(config, tmp_path / "state") as agent:
        await until(lambda: "No space" in agent.status()[1][0].failing)
        (small_disk / "filler").unlink()
        await until(lambda: len(lines(out)) == 2000)
    assert lines(out) == [b"line %d" % number for number in range(2000)]


# -- sinks that do not behave


@pytest.mark.parametrize("way", ["down", "hangs", "slow", "429", "500", "cut"])
async def test_a_sink_that_misbehaves_stops_no_other_and_gets_all(way: str, tmp_path: Path) -> None:
    well = False

    def answer(_request: Received) -> tuple[int, dict[str, str]] | str:
        if well or way == "slow":
            return 200, {}
        return {"hangs": "hang", "cut": "cut", "429": (429, {"Retry-After": "0"})}.get(way, (500, {}))  # type: ignore[return-value]

    async with receiving(answer=answer) as receiver:
        url = "http://127.0.0.1:1" if way == "down" else receiver.url
        receiver.delay_s = 0.05 if way == "slow" else 0.0
        config = configured(
            tmp_path,
            sinks=(
                f"    - {{name: o, file: {{path: {tmp_path}/out.log}}}}\n"
                f"    - {{name: away, http: {{url: {url}, compression: none, timeout: 300ms}}, {FAST}}}\n"
            ),
        )
        written = [f"line {number}" for number in range(3000)]
        (tmp_path / "in" / "a.log").write_text("\n".join(written) + "\n")
        async with running(config, tmp_path / "state") as agent:
            await until(lambda: len(lines(tmp_path / "out.log")) == 3000)
            if way != "slow":
                await until(lambda: agent.status()[1][1].retries > 2)
                assert agent.status()[1][1].failing
            well = True
            if way == "down":
                return
            before = 0 if way == "slow" else len(receiver.requests)

            def taken() -> list[str]:
                found = [line for one in receiver.requests[before:] for line in one.body.splitlines()]
                return [json.loads(line)["message"] for line in found]

            await until(lambda: set(taken()) == set(written))


# -- time and files


class Jumping(SystemClock):
    """A wall clock that can be moved."""

    shift_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.shift_s


@pytest.mark.parametrize("shift_s", [-86400.0, 86400.0])
async def test_the_clock_jumps(shift_s: float, tmp_path: Path) -> None:
    """By which files are timed, too: what was made and rotated between two searches is new by its time alone."""
    clock = Jumping()
    out = tmp_path / "out.log"
    source = tmp_path / "in" / "a.log"
    config = configured(tmp_path)

    def write(text: str) -> None:
        with source.open("a") as file:
            file.write(text)
        os.utime(source, (clock.now_s(), clock.now_s()))

    write("one\n")
    async with running(config, tmp_path / "state", clock):
        await until(lambda: len(lines(out)) == 1)
        # All at once, so that nobody looks meanwhile.
        clock.shift_s = shift_s
        write("two\n")
        source.rename(tmp_path / "in" / "a.log.2")
        write("three\n")
        source.rename(tmp_path / "in" / "a.log.1")
        write("four\n")
        await until(lambda: len(lines(out)) == 4)
    write("five\n")
    async with running(config, tmp_path / "state", clock):
        await until(lambda: len(lines(out)) == 5)
    assert sorted(lines(out)) == [b"five", b"four", b"one", b"three", b"two"]


async def test_a_file_is_deleted_while_it_is_read(tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    config = configured(tmp_path)
    source = tmp_path / "in" / "a.log"
    source.write_text("first\n")
    async with running(config, tmp_path / "state"):
        await until(lambda: len(lines(out)) == 1)
        with source.open("a") as file:
            source.unlink()
            file.write("".join(f"late {number}\n" for number in range(50_000)))
            file.flush()
            await until(lambda: len(lines(out)) == 50_001)
    assert lines(out)[-1] == b"late 49999"


def is_open(path: Path) -> bool:
    """Return whether this process has a deleted file open."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(one))  # noqa: PTH115
    return f"{path} (deleted)" in found


@pytest.mark.parametrize("down", [False, True])
async def test_an_inode_is_used_again_at_once(down: bool, tmp_path: Path) -> None:
    """Made, written and deleted again and again: the file system gives the same inode to the next one."""
    out = tmp_path / "out.log"
    source = f"file: {{paths: [{tmp_path}/in/*.log], start: beginning, search: 50ms, poll: 50ms, quiet: 100ms}}"
    config = configured(tmp_path, source=source)
    path = tmp_path / "in" / "a.log"
    inodes = []

    async def one(number: int) -> None:
        path.write_text(f"header\nline {number}\n")
        inodes.append(path.stat().st_ino)
        await until(lambda: b"line %d" % number in lines(out))

    if down:
        for number in range(12):
            async with running(config, tmp_path / "state"):
                await one(number)
            path.unlink()
    else:
        async with running(config, tmp_path / "state"):
            for number in range(12):
                await one(number)
                path.unlink()
                await until(lambda: not is_open(path))
    assert [one for one in lines(out) if one != b"header"] == [b"line %d" % number for number in range(12)]
    if len(set(inodes)) == 12:
        pytest.skip("this file system uses no inode again")


async def test_copy_truncate_loses_only_what_nobody_can_read(tmp_path: Path) -> None:
    """Measured: lines written between the copy and the truncation are in no file any more."""
    out = tmp_path / "out.log"
    config = configured(tmp_path)
    source = tmp_path / "in" / "a.log"
    source.write_text("begin\n")
    chance = random.Random(4)
    written, in_between = ["begin"], set()
    async with running(config, tmp_path / "state") as agent:
        await until(lambda: len(lines(out)) == 1)
        for turn in range(15):
            for number in range(chance.randrange(1, 400)):
                written.append(f"{turn} {number} {'x' * 50}")
            with source.open("a") as file:
                file.write("".join(one + "\n" for one in written if one.startswith(f"{turn} ")))
            await asyncio.sleep(chance.random() * 0.1)
            shutil.copyfile(source, tmp_path / "in" / f"a.log.{turn}")
            if turn % 3 == 0:
                with source.open("a") as file:
                    file.write(f"between {turn}\n")
                in_between.add(b"between %d" % turn)
            os.truncate(source, 0)
        with source.open("a") as file:
            file.write("end\n")
        written.append("end")
        await until(lambda: set(lines(out)) >= {one.encode() for one in written})
        lost = in_between - set(lines(out))
        logging.getLogger(__name__).info("lost to copy-truncate: %d of %d", len(lost), len(in_between))
        assert counts(agent)["truncated"] >= 1
    assert set(lines(out)) - in_between == {one.encode() for one in written}


async def test_permission_comes_later(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who may not read")
    base = Path(tempfile.mkdtemp(prefix="dogwatch-denied-"))
    base.chmod(0o777)  # noqa: ASYNC240
    try:
        config = configured(base)
        (base / "in").chmod(0o755)
        (base / "in" / "open.log").write_text("open\n")
        closed = base / "in" / "closed.log"
        closed.write_text("closed\n")
        closed.chmod(0o000)
        program = Path(__file__).with_name("agent_process.py")
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"),
            *(sys.executable, str(program), str(config), str(base / "state")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            _out, said = await process.communicate()
            if b"Permission" in said:
                pytest.skip("the interpreter may be read by root alone")
            raise AssertionError(said.decode())
        await until(lambda: lines(base / "out.log") == [b"open"])
        closed.chmod(0o644)
        await until(lambda: sorted(lines(base / "out.log")) == [b"closed", b"open"])
        _out, said = await process.communicate(b"\n")
        assert said.count(b"cannot read") == 1, "it is said once"
    finally:
        shutil.rmtree(base)


# -- what is in the files


async def test_lines_that_are_none(tmp_path: Path) -> None:
    """Binary garbage, invalid UTF-8, NULs and CRLF come out as they went in; JSON of them is always JSON."""
    garbage = random.Random(1).randbytes(300_000).replace(b"\x1e", b"-")
    content = b"crlf\r\nnul \0 nul\n\xff\xfe bad \xc3\n\xe2\x82\n\n" + garbage + b"\nlast\n"
    config = configured(
        tmp_path,
        source=f"file: {{paths: [{tmp_path}/in/*.log], start: beginning, search: 50ms, max_line: 1MiB}}",
        sinks=(
            f"    - {{name: o, file: {{path: {tmp_path}/out.log}}}}\n"
            f"    - {{name: j, file: {{path: {tmp_path}/out.json, format: json}}}}\n"
        ),
    )
    (tmp_path / "in" / "a.log").write_bytes(content)
    async with running(config, tmp_path / "state"):
        await until(lambda: lines(tmp_path / "out.log")[-1:] == [b"last"])
        await until(lambda: len(lines(tmp_path / "out.json")) == content.count(b"\n"))
    assert (tmp_path / "out.log").read_bytes() == content
    found = [json.loads(line)["message"] for line in lines(tmp_path / "out.json")]
    assert found[:4] == ["crlf", "nul \0 nul", "�� bad �", "�"]


def peak(status: Path) -> int:
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


async def test_a_line_of_a_hundred_megabytes(tmp_path: Path) -> None:
    """Its beginning is delivered, the rest is counted, and memory stays bounded."""
    out = tmp_path / "out.log"
    config = configured(tmp_path)
    with (tmp_path / "in" / "a.log").open("wb") as file:
        file.write(b"before\n")
        for _ in range(100):
            file.write(b"y" * 1_000_000)
        file.write(b"\nafter\n")
    process = Process(config, tmp_path / "state")
    await process.start()
    assert process._process is not None
    status = Path(f"/proc/{process._process.pid}/status")
    await until(lambda: lines(out)[-1:] == [b"after"], 60)
    peak_kib = peak(status)
    assert await process.stop() == 0
    assert [len(line) for line in lines(out)] == [6, 256 * 1024, 5]
    assert peak_kib < 150 * 1024


async def test_ten_thousand_files(tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    config = configured(tmp_path, source=f"file: {{paths: [{tmp_path}/in/*.log], start: beginning, search: 500ms}}")
    for number in range(10_000):
        (tmp_path / "in" / f"{number}.log").write_text(f"first {number}\n")
    process = Process(config, tmp_path / "state")
    began_s = time.monotonic()
    await process.start()
    await until(lambda: len(lines(out)) == 10_000, 60)
    first_s = time.monotonic() - began_s
    for number in range(0, 10_000, 100):
        with (tmp_path / "in" / f"{number}.log").open("a") as file:
            file.write(f"second {number}\n")
    await until(lambda: len(lines(out)) == 10_100, 30)
    await process.kill()
    await process.start()
    with (tmp_path / "in" / "77.log").open("a") as file:
        file.write("third\n")
    await until(lambda: b"third" in lines(out) and len(lines(out)) >= 10_101, 60)
    assert await process.stop() == 0
    assert len(lines(out)) == len(set(lines(out))) == 10_101
    assert first_s < 45


# -- the checkpoint


@pytest.mark.parametrize("damage", ["cut", "zeroed", "other"])
async def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    async with receiving() as receiver:
        config = configured(
            tmp_path, sinks=f"    - {{name: o, http: {{url: {receiver.url}, compression: none}}, {FAST}}}\n"
        )
        source = tmp_path / "in" / "a.log"
        state = tmp_path / "state"

        def records() -> list[dict[str, str]]:
            return [json.loads(line) for one in receiver.requests for line in one.body.splitlines()]

        async with running(config, state):
            for number in range(5):
                with source.open("a") as file:
                    file.write(f"line {number}\n")
                await until(lambda number=number: len(records()) == number + 1)  # type: ignore[misc]
                await asyncio.sleep(0.15)
        path = state / "checkpoint"
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-7], "zeroed": b"\0" * len(data), "other": b"something else"}[damage])
        with source.open("a") as file:
            file.write("line 5\n")
        async with running(config, state) as agent:
            assert "cannot be used" in agent.checkpoint_problem
            await until(lambda: any(one["message"] == "line 5" for one in records()))
        ids: dict[str, set[str]] = {}
        for one in records():
            ids.setdefault(one["message"], set()).add(one["id"])
    assert sorted(ids) == [f"line {number}" for number in range(6)]
    assert all(len(known) == 1 for known in ids.values())
