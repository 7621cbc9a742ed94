"""A program of the user's own: the message on its standard input, its exit status is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from dogwatch.core.units import Secret
from dogwatch.engine.launch.command import Command
from dogwatch.errors import PermanentError, TransientError
from dogwatch.notify.channel import Channel, Receipt, Tools
from dogwatch.notify.channels.answers import veiled
from dogwatch.notify.channels.webhook import payload
from dogwatch.notify.message import Parcel

# As sysexits.h has them: wrong usage, data or configuration do not mend themselves.
_PERMANENT = frozenset({64, 65, 78})
_SHOWN_BYTES = 2000
_GRACE_S = 1.0
# Shorter values of variables are no secrets: true, 1, eu.
_SHORT = 5


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

    async def send(self, parcel: Parcel, tools: Tools) -> Receipt:
        said = bytearray()

        def output(_stream: str, data: bytes) -> None:
            if len(said) < _SHOWN_BYTES:
                said.extend(data[:_SHOWN_BYTES])

        # It ends in time, or is ended: a message must not wait for a program's grace.
        command = Command(args=self.args, env=self._environment(parcel), stdin=payload(parcel), grace_s=_GRACE_S)
        status = await tools.run(command, output)
        text = " ".join(said[:_SHOWN_BYTES].decode("utf-8", "replace").split())
        if status.code == 0:
            return Receipt(detail=f"{self.args[0]} ended with 0")
        how = f"signal {status.signal}" if status.signal else str(status.code)
        told = f"{self.args[0]} ended with {how}: {text[:200]}" if text else f"{self.args[0]} ended with {how}"
        told = veiled(told, [secret for secret in self.env.values() if len(secret) > _SHORT])
        raise PermanentError(told) if status.code in _PERMANENT else TransientError(told)

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
        told = {f"DOGWATCH_{name}": value.replace("\0", " ") for name, value in own.items()}
        return {**told, **self.env}
