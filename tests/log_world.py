"""An agent in a process of its own that can be killed, and what writes logs beside it."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PROGRAM = Path(__file__).parent / "integration" / "logs" / "agent_process.py"


class Agent:
    def __init__(self, config: Path, folder: Path) -> None:
        self._arguments = (sys.executable, str(PROGRAM), str(config), str(folder))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._arguments, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"

    async def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]

    async def stop(self) -> int:
        assert self._process is not None
        await self._process.communicate(b"\n")
        assert self._process.returncode is not None
        return self._process.returncode


class Writer:
    """Writes numbered lines to files and rotates them by rename."""

    def __init__(self, folder: Path, files: int) -> None:
        self.folder = folder
        self.files = files
        self.written: dict[str, list[str]] = {f"f{one}": [] for one in range(files)}
        self.number = 0
        self.generation = 0

    def write(self, lines: int) -> None:
        for name in self.written:
            new = []
            for _ in range(lines):
                self.number += 1
                new.append(f"{name}.{self.generation} {self.number} {'x' * (self.number % 97)}")
            self.written[name] += new
            with (self.folder / f"{name}.log").open("a") as file:
                file.write("\n".join(new) + "\n")

    def rotate(self, name: str) -> None:
        self.generation += 1
        path = self.folder / f"{name}.log"
        for number in range(40, 0, -1):
            old = self.folder / f"{name}.log.{number}"
            if old.exists():
                old.rename(self.folder / f"{name}.log.{number + 1}")
        if path.exists():
            path.rename(self.folder / f"{name}.log.1")

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def all(self) -> set[str]:
        return {line for lines in self.written.values() for line in lines}


async def life(agent: Agent, writer: Writer, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    await agent.start()
    for _ in range(kills):
        for _ in range(chance.randrange(2, 8)):
            writer.write(chance.randrange(1, 300))
            if chance.random() < 0.4:
                writer.rotate(f"f{chance.randrange(writer.files)}")
            await asyncio.sleep(chance.random() * 0.15)
        await agent.kill()
        writer.write(5)
        if chance.random() < 0.5:
            writer.rotate(f"f{chance.randrange(writer.files)}")
        await agent.start()
    writer.write(3)


def in_order(found: list[str]) -> None:
    """Check the order of what came: of each file, the numbers only rise."""
    newest: dict[str, int] = {}
    for line in found:
        name, number, _rest = line.split(" ", 2)
        assert int(number) > newest.get(name, 0), f"out of order: {line}"
        newest[name] = int(number)
