"""A block through the compiled transforms of a route: as rows as long as every step can, then as columns."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dogwatch.logs.block import Block
from dogwatch.logs.rows import Book, Rows, Unread, storable
from dogwatch.logs.transform import RowStep, Step


class Steps:
    """Compiled steps in their order; one thread at a time."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)
        writes = [name for step in steps if isinstance(step, RowStep) for name in step.writes]
        self._book = Book(filter(storable, writes))
        # From the first step that works on columns alone, everything does: there and back would cost more.
        self._by_rows = next((at for at, one in enumerate(steps) if not isinstance(one, RowStep)), len(steps))
        if not all(map(storable, writes)):
            self._by_rows = 0
        # Looked up once: whether a step is of this kind takes longer than some steps over a small block.
        self._rowed = tuple(one for one in self._steps[: self._by_rows] if isinstance(one, RowStep))

    def by_rows_alone(self, block: Block) -> bool:
        """Return whether steps, one at least, make rows of the block and nothing else."""
        return block.made is None and 0 < self._by_rows == len(self._steps)

    def apply(self, block: Block) -> Block:
        """Return the block as the steps leave it."""
        columns = block.made is not None and block.plain_rows is None
        if columns or (block.made is None and not self._by_rows):
            return self._columns(block, 0)
        made: Rows | Unread = Unread(block)
        if (rows := block.plain_rows) is not None:
            self._book.learn(rows.shape.names)
            made = rows.reshaped(self._book.shape, rows.mappings())
        for step in self._rowed:
            made = step.apply_rows(
                made if isinstance(made, Rows) or step.reads_lines else made.messages(self._book), self._book
            )
        if isinstance(made, Unread):
            made = made.messages(self._book)
        block = msgspec.structs.replace(block, made=made, data=b"")
        return self._columns(block, self._by_rows) if self._by_rows < len(self._steps) else block

    def _columns(self, block: Block, first: int) -> Block:
        from dogwatch.logs.frames import to_frame

        frame = to_frame(block) if block.made is None else block.frame
        assert frame is not None
        for step in self._steps[first:]:
            frame = step.apply(frame)
        return msgspec.structs.replace(block, made=frame, data=b"")


def through(block: Block, steps: Sequence[Step]) -> Block:
    """Return the block as the steps leave it."""
    return Steps(steps).apply(block)
