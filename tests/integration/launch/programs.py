"""A launcher, what its programs print, and which of them are left."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dogwatch.engine.launch import tree
from dogwatch.engine.launch.command import Command, ExitStatus
from dogwatch.engine.launch.launcher import Launcher


class Output:
    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.seen = asyncio.Event()

    def __call__(self, stream: str, data: bytes) -> None:
        getattr(self, stream).extend(data)
        self.seen.set()


def sh(script: str, **more: object) -> Command:
    return Command(args=["bash", "-c", script], **more)


async def run(launcher: Launcher, command: Command) -> tuple[ExitStatus, Output]:
    output = Output()
    return await launcher.run(command, output), output


def programs(launcher: Launcher) -> list[tuple[int, int]]:
    """Return (shepherd, process) for what runs below the guard; shepherds may wait for another program."""
    found = []
    for shepherd in tree.children(launcher.guard_pid):
        found += [(shepherd, process) for process in tree.descendants(shepherd)]
    return found


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()
