"""How the files of one source are followed."""

from __future__ import annotations

import msgspec

from dogwatch.logs.multiline import Multiline


class Follow(msgspec.Struct, frozen=True, kw_only=True):
    """How files are followed. See sources/file.py for what the options mean."""

    source: str
    lanes: tuple[str, ...]
    start: str = "end"
    encoding: str = ""
    block_bytes: int = 512 * 1024
    line_bytes: int = 256 * 1024
    turn_bytes: int = 4 * 1024 * 1024
    quiet_s: float = 5.0
    keep_s: float = 300.0
    multiline: Multiline | None = None
