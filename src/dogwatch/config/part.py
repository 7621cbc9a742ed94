"""The life of a part that configuration can change: prepare everything, start the new, swap, stop the old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from dogwatch.config.section import Section

T = TypeVar("T")


class Configuration(Protocol):
    """A whole configuration that has been validated."""

    def get(self, section: Section[T]) -> T:
        """Return a section's value; its default where it was not written."""
        ...


class Prepared(Protocol):
    """A built change to one part, not yet in force. Exactly one of swap and discard is called."""

    async def start(self) -> None:
        """Start what is new beside what runs (open, connect, bind). May fail: then everything is discarded."""
        ...

    def swap(self) -> None:
        """Put the new in force. No waiting, and it cannot fail."""
        ...

    async def finish(self) -> None:
        """Stop what the swap replaced."""
        ...

    async def discard(self) -> None:
        """Undo start: the old stays in force."""
        ...


class Exchange:
    """A change that has nothing to start or to stop: what is new only has to be put in force."""

    def __init__(self, swap: Callable[[], None]) -> None:
        self._swap = swap

    async def start(self) -> None:
        """Nothing is begun."""

    def swap(self) -> None:
        self._swap()

    async def finish(self) -> None:
        """Nothing is left of what was in force before."""

    async def discard(self) -> None:
        """Nothing was begun."""


class Part(Protocol):
    """Something app.py builds and the daemon runs. It starts empty; the first configuration arrives by prepare, too."""

    name: str

    def prepare(self, configuration: Configuration) -> Prepared:
        """Validate and build everything that the configuration asks of this part, without any effect.

        Raises: ConfigError.
        """
        ...

    async def stop(self) -> None:
        """Take no new work, cancel what runs, flush. The caller bounds it in time."""
        ...
