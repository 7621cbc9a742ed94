"""What of a delivery lies on disk so that it can be replayed: sealed wherever there is a key."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.engine.masks import MASK, Masker
from dogwatch.errors import PermanentError, UsageError
from dogwatch.webhooks.request import Malformed, RawRequest, read_payload

# The first byte of what is stored. A sealer's own begins with 1, zlib's with 0x78.
_NOT_KEPT = b"\x00"
_SEALED = b"\x01"


class Sealer(Protocol):
    """Encrypts what must lie on disk and not be read there."""

    def seal(self, data: bytes) -> bytes:
        """Raises: UsageError where there is no key, PermanentError or Unreachable where it cannot be read."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """Raises: PermanentError where the key is another one now."""
        ...


class KeptPayload(msgspec.Struct, frozen=True, kw_only=True):
    """packed: the body, by zlib. headers, query: those that hold a secret, as they came. hidden: what is masked
    wherever the delivery is shown. opaque: a secret is in it that cannot be told from the rest.
    """

    packed: bytes
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    hidden: Sequence[str] = ()
    opaque: bool = False

    @property
    def secret(self) -> bool:
        return bool(self.hidden) or self.opaque

    def body(self) -> bytes:
        return zlib.decompress(self.packed)

    def beginning(self, size: int) -> bytes:
        return zlib.decompressobj().decompress(self.packed, size)


def stored(kept: KeptPayload, sealer: Sealer | None) -> bytes:
    """Return what may be written. Without a key, what holds a secret is not kept.

    Raises: PermanentError, Unreachable.
    """
    if sealer is not None:
        try:
            return sealer.seal(msgspec.msgpack.encode(kept))
        except UsageError:
            pass  # what an earlier key sealed can be opened, and nothing new be sealed
    return _NOT_KEPT if kept.secret else kept.packed


def opened(data: bytes, sealer: Sealer | None) -> KeptPayload:
    """Raises: PermanentError where it was not kept, or cannot be opened with the key of now."""
    if data[:1] == _NOT_KEPT:
        raise PermanentError(
            "it holds a secret, and there was no key to keep it with", hint="set engine.key; what comes then is kept"
        )
    if data[:1] != _SEALED:
        return KeptPayload(packed=data)
    if sealer is None:
        raise PermanentError("it is sealed, and there is no key to open it with", hint="set engine.key")
    try:
        return msgspec.msgpack.decode(sealer.open(data), type=KeptPayload)
    except PermanentError as error:
        raise PermanentError("it was sealed with another key", hint=error.hint) from None


def shown_text(kept: KeptPayload, headers: Mapping[str, str], most: int) -> str:
    """Return the beginning of a body as people may see it."""
    if not kept.hidden:
        return kept.beginning(most).decode("utf-8", "replace")
    masker = Masker(kept.hidden)
    try:
        payload = read_payload(RawRequest(headers=headers, body=kept.body()))
    except Malformed:
        return MASK
    if isinstance(payload.value, str):
        return masker.mask(payload.text)[:most]
    # A secret can be written in many ways; read, there is but one.
    return msgspec.json.encode(masker.clean(payload.value)).decode()[:most]
