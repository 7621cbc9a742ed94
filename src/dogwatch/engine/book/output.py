"""Output of runs: compressed pieces, bounded per run; the beginning and the end stay, a note says what went."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from dogwatch.core.units import format_size
from dogwatch.engine.book import topics
from dogwatch.engine.book.setting import all_of, first_of
from dogwatch.engine.ledger import Fenced
from dogwatch.engine.values import Chunk
from dogwatch.store.database import Tx

DEFAULT_BYTES = 4 * 1024 * 1024
NOTE = "note"
# One piece of output is never longer: what is decompressed at once stays small.
_PIECE_BYTES = 64 * 1024


class _Line(msgspec.Struct, array_like=True, frozen=True):
    step: str
    attempt: int
    sequence: int
    time_s: float
    stream: str
    text: str


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[_Line]).decode


def append(tx: Tx, run_id: str, fence: int, chunks: Sequence[Chunk], bound_bytes: int) -> None:
    """Keep output under new numbers. A repeated append (the answer to the first was lost) adds nothing.

    chunks: numbered by their owner, growing from 1 since it claimed the run.
    Raises: Fenced.
    """
    row = first_of(
        tx,
        "SELECT o.next_sequence, o.kept_bytes, o.head_bytes, o.cut_bytes, o.cut_sequence, o.fence, o.given "
        "FROM runs r LEFT JOIN outputs o ON o.run_id = r.run_id "
        "WHERE r.run_id = :run_id AND r.fence = :fence AND r.worker <> ''",
        run_id=run_id,
        fence=fence,
    )
    if row is None:
        raise Fenced(f"run {run_id} is no longer this worker's")
    kept = _Kept(*(row if row[0] is not None else (1, 0, 0, 0, None, fence, 0)))
    if kept.fence != fence:
        kept.fence, kept.given = fence, 0
    fresh = [chunk for chunk in chunks if not chunk.sequence or chunk.sequence > kept.given]
    if not fresh:
        return
    kept.given = max(kept.given, *(chunk.sequence for chunk in fresh))
    for piece in _pieces(fresh):
        _put(tx, run_id, kept, piece, bound_bytes)
    _cut(tx, run_id, kept, bound_bytes)
    tx.run(
        "INSERT INTO outputs (run_id, next_sequence, kept_bytes, head_bytes, cut_bytes, cut_sequence, fence, given) "
        "VALUES (:run_id, :next_sequence, :kept_bytes, :head_bytes, :cut_bytes, :cut_sequence, :fence, :given) "
        "ON CONFLICT (run_id) DO UPDATE SET next_sequence = excluded.next_sequence, kept_bytes = excluded.kept_bytes, "
        "head_bytes = excluded.head_bytes, cut_bytes = excluded.cut_bytes, cut_sequence = excluded.cut_sequence, "
        "fence = excluded.fence, given = excluded.given",
        run_id=run_id,
        **msgspec.structs.asdict(kept),
    )
    tx.notify(topics.of_output(run_id))


class _Kept(msgspec.Struct):
    """cut_sequence: the number of the first chunk that is gone; the note stands in its place."""

    next_sequence: int
    kept_bytes: int
    head_bytes: int
    cut_bytes: int
    cut_sequence: int | None
    fence: int
    given: int


def _pieces(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    pieces: list[list[Chunk]] = []
    size = _PIECE_BYTES
    for chunk in chunks:
        if size >= _PIECE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(chunk)
        size += len(chunk.text)
    return pieces


def _put(tx: Tx, run_id: str, kept: _Kept, chunks: Sequence[Chunk], bound_bytes: int) -> None:
    lines = [
        _Line(chunk.step, chunk.attempt, kept.next_sequence + number, chunk.time_s, chunk.stream, _whole(chunk.text))
        for number, chunk in enumerate(chunks)
    ]
    size = sum(len(chunk.text.encode("utf-8", "replace")) for chunk in chunks)
    head = kept.head_bytes + size <= bound_bytes // 2 and not kept.cut_bytes and kept.head_bytes == kept.kept_bytes
    tx.run(
        "INSERT INTO output (run_id, first_sequence, last_sequence, text_bytes, head, data) "
        "VALUES (:run_id, :first, :last, :text_bytes, :head, :data)",
        run_id=run_id,
        first=lines[0].sequence,
        last=lines[-1].sequence,
        text_bytes=size,
        head=int(head),
        data=zlib.compress(_pack(lines), 3),
    )
    kept.next_sequence += len(lines)
    kept.kept_bytes += size
    kept.head_bytes += size if head else 0


def _whole(text: str) -> str:
    """Return text without half characters, which nothing can write."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _cut(tx: Tx, run_id: str, kept: _Kept, bound_bytes: int) -> None:
    """Drop the oldest pieces that are not of the head until the rest is within the bound."""
    if kept.kept_bytes <= bound_bytes:
        return
    for first, size in all_of(
        tx,
        "SELECT first_sequence, text_bytes FROM output WHERE run_id = :run_id AND head = 0 ORDER BY first_sequence",
        run_id=run_id,
    ):
        if kept.kept_bytes <= bound_bytes:
            return
        tx.run("DELETE FROM output WHERE run_id = :run_id AND first_sequence = :first", run_id=run_id, first=first)
        kept.kept_bytes -= size
        kept.cut_bytes += size
        kept.cut_sequence = first if kept.cut_sequence is None else kept.cut_sequence


def read(
    tx: Tx, run_id: str, *, step: str = "", after: int = 0, limit: int = 1000, search: str = ""
) -> tuple[list[Chunk], int]:
    """Return what was kept, oldest first, and the last number that was looked at.

    search: text that a chunk has in it, whatever its case.
    """
    row = first_of(tx, "SELECT cut_bytes, cut_sequence FROM outputs WHERE run_id = :run_id", run_id=run_id)
    if row is None:
        return [], after
    cut_bytes, cut_sequence = row
    wanted = search.casefold()
    out: list[Chunk] = []
    for first, last in all_of(
        tx,
        "SELECT first_sequence, last_sequence FROM output WHERE run_id = :run_id AND last_sequence > :after "
        "ORDER BY first_sequence",
        run_id=run_id,
        after=after,
    ):
        if cut_sequence is not None and after < cut_sequence < first and not search:
            out.append(_note(run_id, cut_sequence, cut_bytes))
            after = cut_sequence
        piece = first_of(
            tx, "SELECT data FROM output WHERE run_id = :run_id AND first_sequence = :first", run_id=run_id, first=first
        )
        for line in _unpack(zlib.decompress(bytes(piece[0]))):
            if (
                line.sequence <= after
                or (step and line.step != step)
                or (wanted and wanted not in line.text.casefold())
            ):
                continue
            if len(out) >= limit:
                return out, after
            out.append(Chunk(run_id=run_id, **msgspec.structs.asdict(line)))
            after = line.sequence
        after = max(after, last)
    return out, after


def _note(run_id: str, sequence: int, cut_bytes: int) -> Chunk:
    return Chunk(
        run_id=run_id,
        step="",
        attempt=0,
        sequence=sequence,
        time_s=0.0,
        stream=NOTE,
        text=f"… {format_size(cut_bytes)} of output were cut here: it was more than is kept of one run …\n",
    )
