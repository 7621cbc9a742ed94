"""The head of a packed block. Not in columns.py, which may be compiled: structs lose their options there."""

from __future__ import annotations

import msgspec


class BlockHeader(msgspec.Struct, frozen=True, array_like=True):
    version: int
    count: int
    words: list[str]
