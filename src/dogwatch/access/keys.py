"""The key that signs heads of the audit trail: Ed25519, in the data folder, readable to the daemon's user only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dogwatch.errors import PermanentError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIT_KEY = "audit.key"
AUDIT_PUBLIC_KEY = "audit.pub"
_BYTES = 32


def secret_file(path: Path, size: int) -> bytes:
    """Return the random bytes of a file, made if it is not there (mode 0600).

    Raises: PermanentError where it cannot be read or is not such a file.
    """
    try:
        if not path.exists():
            _write_new(path, os.urandom(size).hex().encode() + b"\n")
        mode = path.stat().st_mode
        if mode & 0o077:
            raise PermanentError(f"others may read {path}", hint=f"chmod 600 {path}")
        content = bytes.fromhex(path.read_text("ascii").strip())
    except OSError as error:
        raise PermanentError(f"cannot use {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise PermanentError(f"{path} is not one of our key files", hint="restore it from a backup") from error
    if len(content) != size:
        raise PermanentError(f"{path} is not one of our key files", hint="restore it from a backup")
    return content


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all; of two who make it, the first one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass  # another process was first, with a key of its own
    finally:
        fresh.unlink()


class Signer:
    """Signs with the key of a folder. The key is made at once; cryptography is loaded for the first signature."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seed = secret_file(folder / AUDIT_KEY, _BYTES)
        self._key: Ed25519PrivateKey | None = None
        self._public = ""

    def _load(self) -> Ed25519PrivateKey:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            self._key = Ed25519PrivateKey.from_private_bytes(self._seed)
            self._public = self._key.public_key().public_bytes_raw().hex()
            (self._folder / AUDIT_PUBLIC_KEY).write_text(f"{self._public}\n")
        return self._key

    @property
    def public(self) -> str:
        """The public key in hexadecimal, which is also its id: keep it elsewhere, too."""
        self._load()
        return self._public

    def sign(self, content: bytes) -> str:
        return self._load().sign(content).hex()


def signed_by(public: str, content: bytes, signature: str) -> bool:
    """Return whether a signature (hexadecimal) is that of the public key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True
