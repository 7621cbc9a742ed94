"""Keeps small secrets on disk, sealed: secret parameters of runs, above all."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from dogwatch.errors import PermanentError, Unreachable

_NONCE = 12
_VERSION = b"\x01"


class KeySealer:
    """Seals with ChaCha20-Poly1305 under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, data: bytes) -> bytes:
        """Return what may be stored. Two seals of the same data differ."""
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + ChaCha20Poly1305(self._key).encrypt(nonce, data, _VERSION)

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed.

        Raises: PermanentError where it was changed, or sealed with a key that is not here.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        nonce, text = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            if sealed[:1] != _VERSION:
                raise InvalidTag
            return ChaCha20Poly1305(self._key).decrypt(nonce, text, _VERSION)
        except (InvalidTag, ValueError):
            raise PermanentError(
                "a secret parameter cannot be opened: it was sealed with another key",
                hint="engine.key, or state.key beside the state, must be the one of then",
            ) from None


def sealer_of_text(text: str) -> KeySealer:
    """Return the sealer of a key that configuration has as text. It must be as good as a key, not a word."""
    return KeySealer(hashlib.blake2b(text.encode(), digest_size=32, person=b"dogwatch-seal").digest())


class FileSealer:
    """Seals with the key of a file, which is made at the first use, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sealer: KeySealer | None = None

    def seal(self, data: bytes) -> bytes:
        return self._found().seal(data)

    def open(self, sealed: bytes) -> bytes:
        """Raises: PermanentError."""
        return self._found().open(sealed)

    def _found(self) -> KeySealer:
        if self._sealer is None:
            self._sealer = KeySealer(_key_of(self._path))
        return self._sealer


def _key_of(path: Path) -> bytes:
    try:
        if not path.exists():
            # Whole or not at all: a key that was cut off would lose what it sealed.
            new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            os.link(new, path)
            new.unlink()
        key = path.read_bytes()
    except FileExistsError:
        key = path.read_bytes()
    except OSError as error:
        raise Unreachable(f"cannot use the key {path}: {error.strerror}") from error
    if len(key) != 32:
        raise PermanentError(f"{path} is not a key of Dogwatch's", hint="restore it from a backup")
    return key
