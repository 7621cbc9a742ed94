"""A program of the user's own: the message on its standard input, its exit status is the answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Mapping
from typing import ClassVar

from dogwatch.core.units import Secret
from dogwatch.errors import PermanentError, TransientError
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.webhook import payload
from dogwatch.notify.message import Parcel

# As sysexits.h has them: wrong usage, data or configuration do not mend themselves.
_PERMANENT = frozenset({64, 65, 78})
_SHOWN_BYTES = 2000
_CHUNK = 65536
_LINGER_S = 0.5
# What a program needs to run at all; secrets of ours stay ours.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER")


class CommandChannel(Channel, frozen=True, kw_only=True):
    """Runs a program: JSON on its standard input, `DOGWATCH_TITLE` and the like in its environment.

    args: the program and its arguments, no shell. env: further variables. Exit status 0: delivered; 64, 65, 78: never
    will be; any other: try again.
    """

    kind: ClassVar[str] = "command"
    short: ClassVar[str] = "args"
    args: tuple[str, ...]
    env: Mapping[str, Secret] = {}

    def address(self) -> str:
        return self.args[0] if self.args else ""

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.args or not self.args[0]:
            yield ("args",), "names no program", ""
        for index, argument in enumerate(self.args):
            if "\0" in argument:
                yield ("args", index), "holds a NUL character", ""

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:  # noqa: ARG002 - it needs no HTTP
        try:
            process = await asyncio.create_subprocess_exec(
                *self.args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(parcel),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise PermanentError(f"cannot start {self.args[0]}: {getattr(error, 'strerror', None) or error}") from None
        reading = asyncio.ensure_future(_read(process))
        try:
            await _write(process, payload(parcel))
            status = await process.wait()
        finally:
            await _end(process)
            # What it left behind in a session of its own may still hold the pipe.
            await asyncio.wait([reading], timeout=_LINGER_S)
            reading.cancel()
        said = reading.result() if reading.done() and not reading.cancelled() else b""
        text = " ".join(said.decode("utf-8", "replace").split())
        if status == 0:
            return Receipt(detail=f"{self.args[0]} ended with 0")
        told = f"{self.args[0]} ended with {status}: {text[:200]}" if text else f"{self.args[0]} ended with {status}"
        raise PermanentError(told) if status in _PERMANENT else TransientError(told)

    def _environment(self, parcel: Parcel) -> dict[str, str]:
        message = parcel.message
        own = {
            "ID": parcel.message_id,
            "TYPE": message.type,
            "TITLE": parcel.title,
            "TEXT": parcel.text,
            "SEVERITY": message.severity,
            "URL": message.url,
            "DESTINATION": parcel.destination,
            "ATTEMPT": str(parcel.attempt),
        }
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        told = {f"DOGWATCH_{name}": value.replace("\0", " ") for name, value in own.items()}
        return {**kept, **told, **self.env}


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """Return the beginning of what it says, and drop the rest so that it never waits for us."""
    assert process.stdout is not None
    kept = b""
    while chunk := await process.stdout.read(_CHUNK):
        kept = (kept + chunk)[:_SHOWN_BYTES]
    return kept


async def _write(process: asyncio.subprocess.Process, body: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(body)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it does not care for its input
    finally:
        process.stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of its process group, and wait for the program itself."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        process.kill()
    await asyncio.shield(process.wait())
