"""Records as mappings and as JSON lines, for sinks that do not take blocks as they are."""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.multiline import INNER
from dogwatch.logs.wire import Pieces, made_pieces, plain_pieces

_ENCODER = msgspec.json.Encoder()


def text(line: bytes) -> str:
    """Return a line as text; what is not UTF-8 in it becomes U+FFFD, and a carriage return at its end goes."""
    return line.removesuffix(b"\r").decode("utf-8", "replace")


def records(block: Block) -> list[dict[str, object]]:
    """Return each record with `id`, `source` and `file`, and `message` or what transforms made of it."""
    if (encoded := block.encoded) is not None:
        return list(encoded.mappings())
    ids = block.ids()
    rows = block.plain_rows
    if rows is not None:
        source, path = block.source, block.path
        return [
            {**one, "id": name, "source": source, "file": path} for name, one in zip(ids, rows.mappings(), strict=True)
        ]
    if block.made is None:
        source, path = block.source, block.path
        return [
            {"id": one, "source": source, "file": path, "message": text(line)}
            for one, line in zip(ids, _whole(block), strict=True)
        ]
    frame = block.frame
    assert frame is not None
    frame = frame.select([name for name in frame.columns if not name.startswith("@")])
    return [
        {"id": one, "source": block.source, "file": block.path, **{k: v for k, v in row.items() if v is not None}}
        for one, row in zip(ids, frame.iter_rows(named=True), strict=True)
    ]


def _whole(block: Block) -> list[bytes]:
    """Return lines, with their inner newlines where some stand for several."""
    return [line.replace(INNER, b"\n") for line in block.lines()] if block.joined else block.lines()


def as_sent(block: Block, some: Pieces, *, json: bool) -> list[bytes]:
    """Return each record's bytes, for sinks that send them one by one: JSON, or the line as it was read."""
    return _whole(block) if block.made is None and not json else some.documents()


def with_ids(blocks: Sequence[Block], ids: Container[bytes]) -> list[dict[str, object]]:
    """Return the records with these ids. ids: as `pieces` has them."""
    found = []
    for block in blocks:
        found += [one for one, name in zip(records(block), pieces(block).ids, strict=True) if name in ids]
    return found


def json_lines(block: Block) -> bytes:
    """Return the block's records as JSON, each on a line."""
    rows = block.plain_rows
    if rows is not None:
        return rows.json_lines(block)
    if (encoded := block.encoded) is not None:
        return encoded.data
    if block.made is not None:
        from dogwatch.logs.frames import to_json_lines

        return to_json_lines(block)
    return plain_pieces(block).lines()


def pieces(block: Block) -> Pieces:
    """Return the block's records as JSON in pieces."""
    if block.made is None:
        return plain_pieces(block)
    found = made_pieces(block, json_lines(block))
    if found is None:
        # A library of columns may write the same text otherwise.
        order = dict.fromkeys(("id", "source", "file"))
        found = made_pieces(block, _ENCODER.encode_lines([{**order, **one} for one in records(block)]))
        assert found is not None
    return found


def plain_lines(block: Block) -> bytes:
    """Return lines as they were read; JSON where transforms made columns of them."""
    if block.made is not None:
        return json_lines(block)
    return block.data.replace(INNER, b"\n") if block.joined else block.data


def cut(blocks: Sequence[Block], rows: int) -> tuple[list[Block], list[Block]]:
    """Return the first so many records, and the rest."""
    first: list[Block] = []
    for at, block in enumerate(blocks):
        if rows < block.rows:
            if rows:
                first.append(_slice(block, 0, rows))
            return first, [_slice(block, rows, block.rows), *blocks[at + 1 :]]
        first.append(block)
        rows -= block.rows
    return first, []


def _slice(block: Block, begin: int, end: int) -> Block:
    replace = msgspec.structs.replace
    if (encoded := block.encoded) is not None:
        lines = encoded.data.splitlines(keepends=True)[begin:end]
        return replace(block, made=type(encoded)(b"".join(lines), end - begin))
    if (rows := block.plain_rows) is not None:
        return replace(block, made=rows.keep([begin <= at < end for at in range(len(rows))]))
    if block.made is not None:
        frame = block.frame
        assert frame is not None
        return replace(block, made=frame.slice(begin, end - begin))
    whole = block.lines()
    lines, starts = whole[begin:end], block.offsets(whole)[begin:end]
    return replace(block, data=b"".join(one + b"\n" for one in lines), starts=tuple(starts), count=end - begin)
