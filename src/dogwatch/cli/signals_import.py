"""Files of signals into the store of a data folder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from dogwatch.core.clock import SystemClock
from dogwatch.daemon.paths import STORE_FILE
from dogwatch.errors import UsageError
from dogwatch.rules.importing import take_in
from dogwatch.rules.recording import Recording
from dogwatch.store.limits import Keep, StoreLimits
from dogwatch.store.sqlite import open_store

# What is brought in must not go again before anybody saw it.
_KEEP_S = 3650 * 86_400.0


def import_files(files: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Return what came in, by file, the oldest first. Raises: StoreLocked while a daemon uses the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        heads = {file: _head_s(file) for file in files}
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {(error.strerror or str(error)).lower()}") from None
    streams = [(str(file), file.open("rb")) for file in sorted(heads, key=lambda one: heads[one])]
    try:
        return asyncio.run(_import(streams, folder / STORE_FILE))
    finally:
        for _, stream in streams:
            stream.close()


async def _import(streams: Sequence[tuple[str, BinaryIO]], path: Path) -> list[dict[str, Any]]:
    store = await open_store(path, SystemClock(), StoreLimits(keep=Keep(raw=_KEEP_S)))
    found = []
    try:
        for name, stream in streams:
            taken = await take_in(store, Recording(stream, name))
            found.append({"file": name, **msgspec.structs.asdict(taken)})
    finally:
        await store.close()
    return found


def _head_s(file: Path) -> float:
    with file.open("rb") as stream:
        return Recording(stream, str(file)).head.since_s
