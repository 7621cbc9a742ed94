"""The data types of RFC 4251 and the numbers of the messages."""

from __future__ import annotations

import struct

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 1, 2, 3, 4, 5, 6, 7
KEXINIT, NEWKEYS = 20, 21
KEX_INIT, KEX_REPLY = 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, USERAUTH_PK_OK = 50, 51, 52, 53, 60
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
CHANNEL_OPEN, CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE, CHANNEL_WINDOW_ADJUST = 90, 91, 92, 93
CHANNEL_DATA, CHANNEL_EXTENDED_DATA, CHANNEL_EOF, CHANNEL_CLOSE = 94, 95, 96, 97
CHANNEL_REQUEST, CHANNEL_SUCCESS, CHANNEL_FAILURE = 98, 99, 100

_UINT32 = struct.Struct(">I")
uint32 = _UINT32.pack


class Unusual(Exception):
    """This login or server needs what the lean lane does not have."""


class Broken(Exception):
    """The other side does not speak the protocol, or somebody is in between. The connection is of no use any more."""


def string(data: bytes) -> bytes:
    return _UINT32.pack(len(data)) + data


def boolean(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")


def unsigned(data: bytes) -> bytes:
    """Return big-endian bytes of a number that is not negative, as an mpint."""
    data = data.lstrip(b"\0")
    return string(b"\0" + data if data and data[0] & 0x80 else data)


def names(*listed: str) -> bytes:
    return string(",".join(listed).encode())


class Reader:
    """Reads a message from its second byte on. Raises: Broken where it is shorter than it says."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes, at: int = 1) -> None:
        self._data, self._at = data, at

    def byte(self) -> int:
        self._at += 1
        if self._at > len(self._data):
            raise Broken("a message ends too early")
        return self._data[self._at - 1]

    def boolean(self) -> bool:
        return self.byte() != 0

    def uint32(self) -> int:
        if self._at + 4 > len(self._data):
            raise Broken("a message ends too early")
        value: int = _UINT32.unpack_from(self._data, self._at)[0]
        self._at += 4
        return value

    def string(self) -> bytes:
        size = self.uint32()
        end = self._at + size
        if end > len(self._data):
            raise Broken("a message ends too early")
        found = self._data[self._at : end]
        self._at = end
        return found

    def text(self) -> str:
        return self.string().decode("utf-8", "replace")

    def names(self) -> list[str]:
        return self.string().decode("ascii", "replace").split(",")

    def mpint(self) -> int:
        return int.from_bytes(self.string(), "big", signed=True)

    def skip(self, count: int) -> None:
        self._at += count

    @property
    def rest(self) -> bytes:
        return self._data[self._at :]
