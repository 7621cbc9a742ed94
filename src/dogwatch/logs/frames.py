"""Blocks as frames of columns, and back. Loads polars; nothing on the way of unchanged lines does."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import polars as pl

from dogwatch.logs.block import Block
from dogwatch.logs.multiline import INNER
from dogwatch.logs.transform import Step

_INNER = INNER.decode()
OFFSET, CRC, PATH = "@offset", "@crc", "@path"


def to_frame(block: Block) -> pl.DataFrame:
    """Return the block's lines as `message`, with what their ids are made of."""
    lines = block.lines()
    crc32 = zlib.crc32
    try:
        messages = block.data.decode().split("\n")
        messages.pop()
    except UnicodeDecodeError:
        messages = [line.decode("utf-8", "replace") for line in lines]
    if block.joined:
        messages = [text.replace(_INNER, "\n") for text in messages]
    return pl.DataFrame(
        {
            "message": pl.Series(messages, dtype=pl.String).str.strip_suffix("\r"),
            OFFSET: pl.Series(block.offsets(lines), dtype=pl.UInt64),
            CRC: pl.Series([crc32(line) for line in lines], dtype=pl.UInt32),
            PATH: pl.Series([block.path]).new_from_index(0, len(lines)),
        }
    )


def through(block: Block, steps: Sequence[Step]) -> Block:
    """Return the block as the steps leave it."""
    frame = to_frame(block) if block.frame is None else block.frame
    for step in steps:
        frame = step.apply(frame)
    return msgspec.structs.replace(block, frame=frame, data=b"")


def to_json_lines(block: Block) -> bytes:
    """Return the records as JSON lines with `id`, `source` and `file` first. Absent values are left out as null."""
    assert block.frame is not None
    columns = [name for name in block.frame.columns if not name.startswith("@")]
    ids = block.frame.select(
        pl.Series("id", block.ids(), dtype=pl.String),
        pl.lit(block.source).alias("source"),
        pl.lit(block.path).alias("file"),
        *(pl.col(name) for name in columns if name not in ("id", "source", "file")),
    )
    return ids.write_ndjson().encode()
