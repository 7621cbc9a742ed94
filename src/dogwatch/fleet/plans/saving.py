"""Files that only their owner reads, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from dogwatch.errors import UsageError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it into it. Raises: UsageError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UsageError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
