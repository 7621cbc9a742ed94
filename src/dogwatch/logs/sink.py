"""The seam of every sink: its options, and the worker that writes blocks until it is closed."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from dogwatch.core.component import Component
from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState

T = TypeVar("T")


class Tools(Protocol):
    """What a worker may use. None of it belongs to the worker."""

    @property
    def folder(self) -> Path: ...

    async def thread(self, call: Callable[[], T]) -> T:
        """Run blocking or heavy work in this sink's own thread, one after the other."""
        ...

    async def request(self, request: HttpRequest) -> HttpResponse:
        """Make an HTTP request; see engine.http_client."""
        ...

    async def commit(self, state: SinkState) -> None:
        """Put a state in the checkpoint and write it now.

        Raises: TransientError where it cannot be written.
        """
        ...

    async def dead(self, records: Sequence[Mapping[str, object]], reason: str) -> None:
        """Keep records that the other side will never take; returns when they are on disk."""
        ...

    async def pause(self, attempt: int, retry_after_s: float | None) -> None:
        """Wait before another try of a part: full jitter, and at least what the other side asked for."""
        ...


class Worker(Protocol):
    """An open sink. `write` is called for one batch at a time, in order."""

    async def write(self, blocks: Sequence[Block]) -> None:
        """Return when the blocks are accepted for good.

        Raises: TransientError (the same batch is given again), PermanentError (it becomes dead letters).
        """
        ...

    def state(self) -> SinkState | None:
        """Return what goes into the checkpoint beside the positions; None for a sink that has no state."""
        ...

    def sync(self) -> None:
        """Make durable what was written. Called in a thread, before a checkpoint."""
        ...

    async def close(self) -> None: ...


class Sink(Component, frozen=True, kw_only=True):
    """Where records go. batch_bytes, batch_wait_s: of batches where the configuration says nothing; 0 for the usual.
    concurrent: whether several workers may write at once.
    """

    concurrent: ClassVar[bool] = False
    batch_bytes: ClassVar[int] = 0
    batch_wait_s: ClassVar[float] = 0.0

    @abc.abstractmethod
    async def open(self, tools: Tools, state: SinkState | None) -> Worker:
        """Open it. state: of the last checkpoint.

        Raises: TransientError, OSError; it is tried again.
        """

    def takes_json(self) -> bool:
        """Return whether it wants nothing of changed records but their JSON lines."""
        return False

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Find what types cannot say: (path below the options, message, hint). No I/O."""
        return ()
