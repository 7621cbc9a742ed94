"""Keeps small secrets on disk, sealed: secret parameters of runs, above all."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from dogwatch.errors import PermanentError, Unreachable, UsageError

_NONCE = 12
_KEY = 32
_KEYS_KEPT = 20
_VERSION = b"\x01"


class KeySealer:
    """Seals with ChaCha20-Poly1305 under a key of 32 bytes. former: keys that only open what they sealed."""

    def __init__(self, key: bytes, *former: bytes) -> None:
        self._key = key
        self._former = former

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
        for key in (self._key, *self._former) if sealed[:1] == _VERSION else ():
            try:
                return ChaCha20Poly1305(key).decrypt(nonce, text, _VERSION)
            except (InvalidTag, ValueError):
                continue
        raise PermanentError(
            "a secret parameter cannot be opened: it was sealed with another key",
            hint="engine.key, or state.key beside the state, must be the one of then",
        )


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

    def exists(self) -> bool:
        return self._path.exists()

    def _found(self) -> KeySealer:
        if self._sealer is None:
            self._sealer = KeySealer(*_keys_of(self._path))
        return self._sealer


class OldSealer:
    """Opens what was sealed with the key of a file, too. newest: seals; None: nothing new can be sealed."""

    def __init__(self, newest: KeySealer | None, older: FileSealer) -> None:
        self._newest, self._older = newest, older

    def seal(self, data: bytes) -> bytes:
        """Raises: UsageError where there is no key for it."""
        if self._newest is None:
            raise UsageError(
                "there is no key to keep secret parameters with", hint="set engine.key, the same for every process"
            )
        return self._newest.seal(data)

    def open(self, sealed: bytes) -> bytes:
        """Raises: PermanentError."""
        if self._newest is None:
            return self._older.open(sealed)
        try:
            return self._newest.open(sealed)
        except PermanentError:
            return self._older.open(sealed)


def rotate_key(path: Path) -> int:
    """Put a new key before those of a file, and return how many it holds now. What was sealed can still be opened.

    Whoever has the file open goes on with the old key until it starts again.
    Raises: PermanentError, Unreachable.
    """
    keys = [secrets.token_bytes(_KEY), *_keys_of(path)][:_KEYS_KEPT]
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        _write(new, b"".join(keys))
        new.replace(path)
    except OSError as error:
        raise Unreachable(f"cannot use the key {path}: {error.strerror}") from error
    return len(keys)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _keys_of(path: Path) -> list[bytes]:
    """Return the keys of a file, the newest first; made with one if it is not there."""
    try:
        if not path.exists():
            # Whole or not at all: a key that was cut off would lose what it sealed.
            new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            _write(new, secrets.token_bytes(_KEY))
            os.link(new, path)
            new.unlink()
        key = path.read_bytes()
    except FileExistsError:
        key = path.read_bytes()
    except OSError as error:
        raise Unreachable(f"cannot use the key {path}: {error.strerror}") from error
    if not key or len(key) % _KEY:
        raise PermanentError(f"{path} is not a key of Dogwatch's", hint="restore it from a backup")
    return [key[at : at + _KEY] for at in range(0, len(key), _KEY)]
