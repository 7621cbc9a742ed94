"""Packets (RFC 4253 §6): in the clear until keys are there, AES-GCM (RFC 5647) from then on."""

from __future__ import annotations

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dogwatch.fleet.connections.lean.wire import Broken

# As much as any implementation sends: 32 KiB of data in 35,000 bytes, twice over for those that count otherwise.
_MOST_BYTES = 256 * 1024
_HEAD = struct.Struct(">IB")
_LENGTH = struct.Struct(">I")
_TAG_BYTES = 16


class Cipher:
    """AES-GCM in one direction. A nonce is four fixed bytes and a count of packets: no key sees one twice."""

    __slots__ = ("_aead", "_count", "_fixed")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:4]
        self._count = int.from_bytes(iv[4:12], "big")

    def _nonce(self) -> bytes:
        found = self._fixed + self._count.to_bytes(8, "big")
        self._count = (self._count + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return found

    def seal(self, head: bytes, data: bytes) -> bytes:
        return self._aead.encrypt(self._nonce(), data, head)

    def open(self, head: bytes, data: bytes) -> bytes:
        """Raises: Broken where it was not made by who has the key."""
        try:
            return self._aead.decrypt(self._nonce(), data, head)
        except InvalidTag:
            raise Broken("a packet was changed on its way") from None


class Sealer:
    """Turns messages into packets. count: since the beginning, or since keys under strict key exchange."""

    __slots__ = ("bytes", "cipher")

    def __init__(self) -> None:
        self.cipher: Cipher | None = None
        self.bytes = 0

    def seal(self, message: bytes) -> bytes:
        cipher = self.cipher
        size = len(message)
        if cipher is None:
            pad = 8 - (size + 5) % 8
            pad += 8 if pad < 4 else 0
            return b"".join((_HEAD.pack(size + 1 + pad, pad), message, os.urandom(pad)))
        pad = 16 - (size + 1) % 16
        pad += 16 if pad < 4 else 0
        head = _LENGTH.pack(size + 1 + pad)
        self.bytes += size
        return head + cipher.seal(head, b"".join((bytes((pad,)), message, os.urandom(pad))))


class Opener:
    """Turns what comes in into messages. number: of the last one, as UNIMPLEMENTED names it."""

    __slots__ = ("_at", "_buffer", "bytes", "cipher", "number")

    def __init__(self) -> None:
        self.cipher: Cipher | None = None
        self.number = -1
        self.bytes = 0
        self._buffer = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def line(self, most_bytes: int) -> bytes | None:
        """Return a line of what stands before the first packet, without its end; None where it is not there yet."""
        end = self._buffer.find(b"\n", self._at, self._at + most_bytes + 1)
        if end < 0:
            if len(self._buffer) - self._at > most_bytes:
                raise Broken("it does not speak SSH")
            return None
        found, self._at = self._buffer[self._at : end], end + 1
        return found.removesuffix(b"\r")

    def next(self) -> bytes | None:
        """Return the next message, None where it is not whole yet. Raises: Broken."""
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 4:
            return None
        size = _LENGTH.unpack_from(buffer, at)[0]
        cipher = self.cipher
        if not 12 <= size <= _MOST_BYTES or (size % 16 if cipher else (size + 4) % 8):
            raise Broken("a packet has no possible length")
        end = at + 4 + size + (_TAG_BYTES if cipher else 0)
        if len(buffer) < end:
            return None
        data = buffer[at + 4 : end]
        if cipher is not None:
            data = cipher.open(buffer[at : at + 4], data)
        self._at = end
        self.bytes += size
        self.number = (self.number + 1) & 0xFFFF_FFFF
        pad = data[0]
        if pad < 4 or pad + 2 > size:
            raise Broken("a packet has no possible padding")
        return data[1 : size - pad]
