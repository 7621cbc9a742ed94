"""The inspection over the fleet: one command a host, whose output is kept and can be judged again by other limits."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import replace

from dogwatch.fleet.connection import Connection, Ended, RemoteCommand
from dogwatch.fleet.login import Login
from dogwatch.fleet.results import HostResult
from dogwatch.fleet.run import Work
from dogwatch.inspection.reading import Reading, read
from dogwatch.inspection.script import MARK

OUTPUT_BYTES = 512 * 1024
_WINDOW = f"{MARK}window ".encode()


def inspecting(script: str, *, timeout_s: float | None, now_s: Callable[[], float] = time.time) -> Work:
    """Return the work that looks at a host; its output begins with when it was asked and when it began to answer."""

    async def work(_host: str, login: Login, connection: Connection) -> Ended:
        answered_s: list[float] = []

        def output(stream: str, _data: bytes) -> None:
            if stream == "stdout" and not answered_s:
                answered_s.append(now_s())

        asked_s = now_s()
        command = RemoteCommand(script=script, become=login.become, timeout_s=timeout_s, limit_bytes=OUTPUT_BYTES)
        ended = await connection.run(command, output)
        window = b"%s%.6f %.6f\n" % (_WINDOW, asked_s, answered_s[0] if answered_s else now_s())
        return replace(ended, stdout=window + ended.stdout)

    return work


def reading_of(result: HostResult) -> tuple[Reading, float]:
    """Return what a host said of itself, and when, seconds since 1970; 0 where that is not known."""
    first, _, rest = result.stdout.partition(b"\n")
    if not first.startswith(_WINDOW):
        return read(result.stdout.decode(errors="replace")), 0.0
    asked_s, answered_s = map(float, first.removeprefix(_WINDOW).split())
    return read(rest.decode(errors="replace"), asked_s=asked_s, answered_s=answered_s), asked_s
