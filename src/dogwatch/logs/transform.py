"""The seam of every transform: its options, and the step that changes a frame of columns."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from dogwatch.core.component import Component

if TYPE_CHECKING:
    import polars as pl


class Step(Protocol):
    """A compiled transform. Called in a thread, for one block at a time. counts: what it did, by name."""

    counts: dict[str, int]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the changed frame. Columns whose names begin with @ are ours; they stay with their rows."""
        ...


class Transform(Component, frozen=True, kw_only=True):
    """Changes records; a verb."""

    @abc.abstractmethod
    def open(self) -> Step:
        """Compile it."""

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Find what types cannot say: (path below the options, message, hint). No I/O."""
        return ()
