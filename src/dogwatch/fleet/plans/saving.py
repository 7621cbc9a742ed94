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


def prune(folder: Path, keep: int) -> None:
    """Take away the oldest plans of a folder, and what lies beside them, until no more than so many are left."""
    found = sorted(folder.glob("*.plan"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[keep:]:
        for one in (path, path.with_name(path.name + ".journal"), path.with_name(path.name + ".approved")):
            one.unlink(missing_ok=True)
