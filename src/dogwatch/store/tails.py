"""The newest rows of every target and series, in memory until they are sealed into blocks. Owned by the event loop.

Readers get copies, and the writer gets pieces that nobody changes any more, so that nothing here is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from dogwatch.store.columns import Columns

C = TypeVar("C", bound=Columns)

# A block of one hour at 15 s. Fewer rows deflate worse, more take memory for each target.
BLOCK_ROWS: Final = 240
# An owner that has few rows is sealed by age, so that its journal can go.
BLOCK_AGE_S = 3600.0
# A row this far from its predecessor begins a new block: a block spans no jump of the clock.
_BACK_MS: Final = 60_000
_FORWARD_MS: Final = 6 * 3_600_000


class Piece(Generic[C]):
    """Rows of one owner that will be one block. last_seq: the journal number of its last row."""

    __slots__ = ("first_seq", "last_seq", "owner_id", "rows", "tail")

    def __init__(self, tail: Tail[C], rows: C, first_seq: int, last_seq: int) -> None:
        self.tail: Tail[C] = tail
        self.owner_id = tail.owner_id
        self.rows: C = rows
        self.first_seq = first_seq
        self.last_seq = last_seq


class Tail(Generic[C]):
    """One owner's unsealed rows: pieces on their way to the disk, and the open one."""

    __slots__ = ("first_seq", "last_seq", "limit", "make", "opened_s", "owner_id", "rows", "sealing", "touched_s")

    def __init__(self, owner_id: int, make: Callable[[], C], now_s: float) -> None:
        self.owner_id = owner_id
        self.make: Callable[[], C] = make
        self.rows: C = make()
        self.first_seq = 0
        self.last_seq = 0
        self.opened_s = now_s
        self.touched_s = now_s
        # The first block is shorter by chance, so that owners that began together do not seal together.
        self.limit = BLOCK_ROWS // 2 + owner_id * 37 % (BLOCK_ROWS // 2)
        self.sealing: list[Piece[C]] = []

    def ends_before(self, time_ms: int) -> bool:
        """Return whether the open piece must be cut before a row of that time is added."""
        rows = self.rows
        count = len(rows)
        if not count:
            return False
        return count >= self.limit or not -_BACK_MS <= time_ms - rows.last_ms() <= _FORWARD_MS

    def note(self, seq: int, now_s: float) -> None:
        """Take note of a row that was just added."""
        if len(self.rows) == 1:
            self.first_seq = seq
            self.opened_s = now_s
        self.last_seq = seq
        self.touched_s = now_s

    def cut(self) -> Piece[C]:
        """Begin a new open piece; return the old, to be sealed."""
        piece = Piece(self, self.rows, self.first_seq, self.last_seq)
        self.sealing.append(piece)
        self.rows = self.make()
        self.limit = BLOCK_ROWS
        return piece

    def sealed(self, piece: Piece[C]) -> None:
        """Let go of a piece that is on the disk."""
        self.sealing.remove(piece)

    def oldest_seq(self) -> int | None:
        """Return the journal number of the oldest unsealed row, or None."""
        if self.sealing:
            return self.sealing[0].first_seq
        return self.first_seq if len(self.rows) else None

    def snapshot(self, newest: int | None = None) -> list[Piece[C]]:
        """Return copies of the pieces, oldest first; where `newest` is given, at least that many newest rows."""
        pieces: list[Piece[C]] = []
        count = len(self.rows)
        if count:
            start = 0 if newest is None else max(0, count - newest)
            pieces.append(Piece(self, self.rows.slice(start, count), self.first_seq, self.last_seq))
        for piece in reversed(self.sealing):
            if newest is not None and count >= newest:
                break
            pieces.append(piece)
            count += len(piece.rows)
        pieces.reverse()
        return pieces


def overdue(tails: Iterator[Tail[C]], now_s: float, most: int) -> list[Piece[C]]:
    """Cut what is open for too long, at most `most` of them."""
    pieces: list[Piece[C]] = []
    for tail in tails:
        if len(pieces) >= most:
            break
        if len(tail.rows) and now_s - tail.opened_s >= BLOCK_AGE_S:
            pieces.append(tail.cut())
    return pieces
