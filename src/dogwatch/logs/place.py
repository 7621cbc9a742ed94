"""Where a configuration's log store is."""

from __future__ import annotations

from pathlib import Path

from dogwatch.logs.section import LogsSpec


def store_folder(spec: LogsSpec, folder: Path) -> Path | None:
    """Return the folder of the first `store` sink, None without one. folder: of the agent."""
    for one in spec.sinks:
        if one.sink.kind == "store":
            from dogwatch.logs.sinks.store import StoreSink

            assert isinstance(one.sink, StoreSink)
            return Path(one.sink.path) if one.sink.path else folder / "store"
    return None
