"""What tests of programs share: a worker that can be killed, and looks into /proc."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# A worker: argv: lock file, ttl or "-", mark; then programs, one shell text each, run side by side. It says what ended.
_WORKER = """
import asyncio, os, sys
from pathlib import Path
from dogwatch.engine.launch.command import Command
from dogwatch.engine.launch.launcher import Launcher

async def main(lock, ttl, mark, *scripts):
    launcher = Launcher(Path(lock), ttl_s=None if ttl == "-" else float(ttl))
    await launcher.open()
    async def one(script):
        command = Command(args=["bash", "-c", script], env={"MARK": mark}, grace_s=30)
        try:
            await launcher.run(command, lambda stream, data: print(data.decode(), end="", flush=True))
        except Exception as error:
            print("ended:", error, flush=True)
    async def beat():
        while ttl != "-":
            launcher.renew()
            await asyncio.sleep(float(ttl) / 4)
    beating = asyncio.create_task(beat())
    await asyncio.gather(*(one(script) for script in scripts))
    beating.cancel()
    print("all ended", flush=True)
    await launcher.close()

asyncio.run(main(*sys.argv[1:]))
"""


def alive(pid: int) -> bool:
    """Say whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def marked(mark: str) -> list[int]:
    """Return the processes whose environment has MARK=mark: those that a worker's programs have become."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            try:
                if f"MARK={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def until(what: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Wait for it, and return how long that took, in seconds."""
    began_s = time.monotonic()
    while not what():
        assert time.monotonic() - began_s < timeout_s, "it did not come about in time"
        time.sleep(0.005)
    return time.monotonic() - began_s


class Worker:
    """A process that runs programs, and everything below it."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.process = process
        self.mark = mark
        self.pid = process.pid
        assert process.stdout is not None
        self.stdout = process.stdout

    def wait_for(self, line: str) -> None:
        for text in self.stdout:
            if text.strip() == line:
                return
        raise AssertionError(f"the worker ended without '{line}'")

    def guard(self) -> int:
        (guard,) = children(self.pid)
        return guard

    def programs(self) -> list[int]:
        return marked(self.mark)


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def worker(lock: Path, *scripts: str, ttl: str = "-", mark: str) -> Iterator[Worker]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(lock), ttl, mark, *scripts],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    with process:
        try:
            yield Worker(process, mark)
        finally:
            process.kill()
            for pid in marked(mark):  # only where the test failed
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
