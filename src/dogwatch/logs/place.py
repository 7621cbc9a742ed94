"""Where a configuration's log store is."""

from __future__ import annotations

from pathlib import Path

from dogwatch.logs.section import LogsSpec
from dogwatch.logs.sinks.store import StoreSink


def store_folder(spec: LogsSpec, folder: Path) -> Path | None:
    """Return the folder of the first `store` sink, None without one. folder: of the agent."""
    for one in spec.sinks:
        if isinstance(one.sink, StoreSink):
            return Path(one.sink.path) if one.sink.path else folder / "store"
    return None
