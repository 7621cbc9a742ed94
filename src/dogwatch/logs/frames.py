"""Blocks as frames of columns, and back. Loads polars; nothing on the way of unchanged lines does."""

from __future__ import annotations

import contextlib
import zlib

import msgspec
import polars as pl

from dogwatch.logs.block import Block
from dogwatch.logs.multiline import INNER
from dogwatch.logs.rows import ABSENT, Encoded, Rows, from_mappings

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


def of_made(made: pl.DataFrame | Rows | Encoded) -> pl.DataFrame:
    """Return what transforms made as columns."""
    if isinstance(made, pl.DataFrame):
        return made
    if isinstance(made, Rows):
        return of_rows(made)
    found = made.mappings()
    places = [str(one["id"]).rsplit(":", 2)[1:] for one in found]
    offsets, crcs = [int(at) for at, _crc in places], [int(crc, 16) for _at, crc in places]
    return of_rows(from_mappings(found, offsets, None, crcs))


def of_rows(rows: Rows) -> pl.DataFrame:
    """Return rows as columns; values that have no type in common become text."""
    columns = []
    for name in rows.shape.names:
        values = [None if value is ABSENT else value for value in rows.column(name) or ()]
        if name.startswith("@") or all(value is None for value in values):
            continue
        columns.append(_series(name, values))
    columns.append(pl.Series(OFFSET, rows.offsets, dtype=pl.UInt64))
    columns.append(pl.Series(CRC, rows.crcs, dtype=pl.UInt32))
    return pl.DataFrame(columns)


def _series(name: str, values: list[object]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) == 1:
        with contextlib.suppress(TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            return pl.Series(name, values, strict=False)
    texts = [
        value if value is None or isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
        for value in values
    ]
    return pl.Series(name, texts, dtype=pl.String)


def to_json_lines(block: Block) -> bytes:
    """Return the records as JSON lines with `id`, `source` and `file` first. Absent values are left out as null."""
    frame = block.frame
    assert frame is not None
    columns = [name for name in frame.columns if not name.startswith("@")]
    ids = frame.select(
        pl.Series("id", block.ids(), dtype=pl.String),
        pl.lit(block.source).alias("source"),
        pl.lit(block.path).alias("file"),
        *(pl.col(name) for name in columns if name not in ("id", "source", "file")),
    )
    return ids.write_ndjson().encode()
