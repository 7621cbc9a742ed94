"""The `exec` source."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from dogwatch.core.retry import backoff
from dogwatch.core.units import Seconds, Secret
from dogwatch.errors import TransientError
from dogwatch.logs.gathering import WAIT_S, Gathering, lines_of, new_stream
from dogwatch.logs.multiline import Multiline
from dogwatch.logs.programs import program
from dogwatch.logs.source import Intake, Source

_WELL_S = 60.0


class ExecSource(Source, frozen=True, kw_only=True):
    """Reads the output of a program, and starts it again when it ends.

    What was read and not accepted when the agent is killed is lost; a program that could say it again is better read
    through a file.

    command: the program and its arguments; no shell. every: start it at this interval instead of keeping it running; 0
    for keeping. stderr: read its standard error, too. environment: further variables. folder: where it runs. max_line:
    longer lines are cut into parts; default 256KiB. base, cap: before it is started again, a random time up to base,
    which doubles up to cap while it ends within a minute. multiline: which lines make one record.
    """

    kind: ClassVar[str] = "exec"
    short: ClassVar[str] = "command"

    command: tuple[str, ...]
    every: Seconds = 0.0
    stderr: bool = False
    environment: Mapping[str, Secret] = {}
    folder: str = ""
    max_line: Annotated[int, Meta(ge=256, le=64 * 1024 * 1024, extra={"unit": "size"})] = 256 * 1024
    base: Seconds = 1.0
    cap: Seconds = 60.0
    multiline: Multiline | None = None

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.command or not self.command[0]:
            yield ("command",), "names no program", "command: [dmesg, --follow]"
        if self.folder and not self.folder.startswith("/"):
            yield ("folder",), "is not an absolute path", ""
        if self.multiline is not None:
            yield from self.multiline.faults()

    async def run(self, intake: Intake) -> None:
        attempt = 0
        while True:
            began_s = intake.clock.monotonic_s()
            problem = await self._once(intake)
            lasted_s = intake.clock.monotonic_s() - began_s
            intake.count("starts")
            if self.every:
                await asyncio.sleep(max(0.0, self.every - lasted_s))
                continue
            attempt = 1 if lasted_s >= _WELL_S else attempt + 1
            wait_s = backoff(attempt, base_s=self.base, cap_s=self.cap, random=random.random)
            intake.trouble(f"{problem}; starts again in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)

    async def _once(self, intake: Intake) -> str:
        """Run it to its end, and say how it ended."""
        joiner = self.multiline.joiner() if self.multiline is not None else None
        gathering = Gathering(intake, new_stream("exec"), self.command[0], joiner)
        wait_s = WAIT_S if joiner is None else max(WAIT_S, joiner.timeout_s)
        try:
            async with program(
                self.command, environment=self.environment, folder=self.folder, stderr=self.stderr
            ) as process:
                assert process.stdout is not None
                intake.trouble("")
                await lines_of(process.stdout, gathering, line_bytes=self.max_line, wait_s=wait_s)
                code = await process.wait()
        except TransientError as error:
            return str(error)
        if code:
            intake.count("failures")
        return f"{self.command[0]} ended with {code}"
