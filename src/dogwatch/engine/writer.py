"""Output of a run's steps on its way to the ledger: masked, in order, in pieces, and never more of it in memory."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from dogwatch.core.deadline import watch_result
from dogwatch.core.units import format_size
from dogwatch.engine.values import Chunk, Json

EVERY_S = 0.2
AT_ONCE_BYTES = 64 * 1024
# What an action writes faster than the database takes is dropped, and said.
MOST_BYTES = 4 * 1024 * 1024
NOTE = "note"


class Masks(Protocol):
    """Replaces secrets in text."""

    def mask(self, text: str) -> str: ...

    def clean(self, value: Json) -> Json:
        """Return a value without secrets, whatever it is made of."""
        ...

    def unsure(self, text: str) -> int:
        """Return how many characters at the end of the text could be the beginning of a secret."""
        ...


class PlainMasks:
    """Replaces whole values. values: what is secret; what is too short to be told from other text is let through."""

    def __init__(self, values: Sequence[str]) -> None:
        self._values = sorted({value for value in values if len(value) >= 3}, key=len, reverse=True)

    def mask(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "***")
        return text

    def clean(self, value: Json) -> Json:
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        if isinstance(value, Mapping):
            return {key: self.clean(item) for key, item in value.items()}
        return value

    def unsure(self, text: str) -> int:
        longest = min(len(text), max((len(value) for value in self._values), default=1) - 1)
        for size in range(longest, 0, -1):
            if any(len(value) > size and value.startswith(text[-size:]) for value in self._values):
                return size
        return 0


class _Stream:
    """One stream of one step's attempt: what of it is not yet text, or not yet certain."""

    __slots__ = ("decode", "held")

    def __init__(self) -> None:
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.held = ""


class _Piece:
    """Output of one stream that follows itself without another's between."""

    __slots__ = ("key", "size", "texts", "time_s")

    def __init__(self, key: tuple[str, int, str], time_s: float) -> None:
        self.key, self.time_s = key, time_s
        self.texts: list[str] = []
        self.size = 0


class Writer:
    """append: keeps chunks, in order. now_s: the wall clock."""

    def __init__(
        self,
        run_id: str,
        append: Callable[[Sequence[Chunk]], Awaitable[None]],
        masks: Masks,
        now_s: Callable[[], float],
    ) -> None:
        self._run_id, self._append, self.masks, self._now_s = run_id, append, masks, now_s
        self._streams: dict[tuple[str, int, str], _Stream] = {}
        self._pieces: list[_Piece] = []
        self._bytes = 0
        self._dropped: dict[tuple[str, int], int] = {}
        self._sequence = 0
        self._flushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def mask(self, text: str) -> str:
        return self.masks.mask(text)

    def clean(self, value: Json) -> Json:
        return self.masks.clean(value)

    def write(self, step: str, attempt: int, stream: str, data: bytes | str) -> None:
        if not data:
            return
        key = (step, attempt, stream)
        state = self._streams.get(key)
        if state is None:
            state = self._streams[key] = _Stream()
        text = state.held + (data if isinstance(data, str) else state.decode(data))
        unsure = self.masks.unsure(text)
        state.held = text[len(text) - unsure :]
        self._keep(key, text[: len(text) - unsure])

    def end(self, step: str, attempt: int) -> None:
        """The attempt writes no more: what was held back is whole now."""
        for key in [key for key in self._streams if key[:2] == (step, attempt)]:
            state = self._streams.pop(key)
            self._keep(key, state.held + state.decode(b"", True))

    def _keep(self, key: tuple[str, int, str], text: str) -> None:
        if not text:
            return
        step, attempt, stream = key
        text = self.masks.mask(text)
        if self._bytes + len(text) > MOST_BYTES and stream != NOTE:
            self._dropped[step, attempt] = self._dropped.get((step, attempt), 0) + len(text)
            return
        lost = self._dropped.pop((step, attempt), 0)
        if lost:
            said = f"{format_size(lost)} of output were lost: it came faster than it was kept\n"
            self._add((step, attempt, NOTE), said)
        self._add(key, text)
        self._soon()

    def _add(self, key: tuple[str, int, str], text: str) -> None:
        piece = self._pieces[-1] if self._pieces else None
        if piece is None or piece.key != key or piece.size >= AT_ONCE_BYTES:
            piece = _Piece(key, self._now_s())
            self._pieces.append(piece)
        piece.texts.append(text)
        piece.size += len(text)
        self._bytes += len(text)

    def _soon(self) -> None:
        if self._task is not None:
            return
        if self._bytes >= AT_ONCE_BYTES:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self.flush(), name=f"output {self._run_id}")
            self._task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._task = None
        # What is lost to a lost lease is told by the next advance, too.
        watch_result(task)
        if self._pieces and not task.cancelled():
            self._soon()

    async def flush(self) -> None:
        """Return once all that was written until now is on disk. Raises: what append raises."""
        async with self._flushing:
            pieces, self._pieces = self._pieces, []
            self._bytes = 0
            if pieces:
                await self._append([self._chunk(piece) for piece in pieces])

    def _chunk(self, piece: _Piece) -> Chunk:
        self._sequence += 1
        step, attempt, stream = piece.key
        return Chunk(
            run_id=self._run_id,
            step=step,
            attempt=attempt,
            sequence=self._sequence,
            time_s=piece.time_s,
            stream=stream,
            text="".join(piece.texts),
        )

    async def close(self) -> None:
        """Stop; what is not on disk is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            task = self._task
            task.cancel()
            await asyncio.wait([task])
