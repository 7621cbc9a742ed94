"""The seam of every transform: its options, and the step that changes a frame of columns."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dogwatch.core.component import Component

if TYPE_CHECKING:
    import polars as pl

    from dogwatch.logs.rows import Book, Rows, Unread

# The metric of what steps count.
EVENTS = "dogwatch_logs_transform_events_total"
EVENTS_HELP = "What transforms counted: unread (passed as it was), dropped, unjudged, row_by_row, and more by kind."


class Step(Protocol):
    """A compiled transform. Called in a thread, for one block at a time. counts: what it did, by name."""

    counts: dict[str, int]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the changed frame. Columns whose names begin with @ are ours; they stay with their rows."""
        ...


@runtime_checkable
class RowStep(Protocol):
    """A step that can also do without columns. Rows are used as long as every step before and it can.

    writes: names that records may get from it. reads_lines: whether it is given lines where nothing was made of them
    yet; otherwise they are records with a message.
    """

    writes: tuple[str, ...]
    reads_lines: bool
    counts: dict[str, int]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame: ...

    def apply_rows(self, rows: Rows | Unread, book: Book) -> Rows:
        """Return the changed rows; the given ones may be changed in place."""
        ...


class Transform(Component, frozen=True, kw_only=True):
    """Changes records; a verb."""

    @abc.abstractmethod
    def open(self) -> Step:
        """Compile it."""

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Find what types cannot say: (path below the options, message, hint). No I/O."""
        return ()
