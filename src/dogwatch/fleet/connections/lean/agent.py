"""Keys that an agent keeps (draft-ietf-sshm-ssh-agent): it is asked which ones it has, and to sign."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Collection

from dogwatch.fleet.connections.lean.keys import Signer, kinds_of
from dogwatch.fleet.connections.lean.wire import Broken, Reader, string, uint32

_LIST, _LISTED, _SIGN, _SIGNED = 11, 12, 13, 14
_RSA_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}
_MOST_BYTES = 1 << 20
_MOST_KEYS = 1000


class Agent:
    """One connection to an agent. Without one, or with one that does not answer properly, there are no keys."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def signers(self, *, only: Collection[bytes] | None, but: Collection[bytes]) -> list[Signer]:
        """Return its keys; only: those of these public halves. but: without these."""
        answer = await self._ask(bytes((_LIST,)))
        if answer is None or not answer or answer[0] != _LISTED:
            return []
        found: list[Signer] = []
        try:
            read = Reader(answer)
            for _ in range(min(read.uint32(), _MOST_KEYS)):
                blob = read.string()
                read.string()
                kinds = kinds_of(blob)
                if kinds and blob not in but and (only is None or blob in only):
                    found.append(Signer(kinds, blob, ask=functools.partial(self._sign, blob)))
        except Broken:
            return []
        return found

    async def _sign(self, blob: bytes, kind: str, data: bytes) -> bytes | None:
        flags = _RSA_FLAGS.get(kind, 0)
        answer = await self._ask(bytes((_SIGN,)) + string(blob) + string(data) + uint32(flags))
        if answer is None or not answer or answer[0] != _SIGNED:
            return None
        try:
            return Reader(answer).string()
        except Broken:
            return None

    async def _ask(self, message: bytes) -> bytes | None:
        async with self._turn:
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_unix_connection(self._path)
                reader, writer = self._streams
                writer.write(string(message))
                size = int.from_bytes(await reader.readexactly(4), "big")
                return await reader.readexactly(size) if size <= _MOST_BYTES else None
            except (OSError, ValueError, asyncio.IncompleteReadError):
                return None

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
