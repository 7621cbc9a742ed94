"""What workers of sinks are given: a thread, an HTTP client, dead letters, the checkpoint."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dogwatch.core.deadline import finished
from dogwatch.core.retry import backoff
from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.errors import TransientError, reason_of
from dogwatch.logs.checkpoint import SinkState

if TYPE_CHECKING:
    from dogwatch.engine.http_client import HttpClient

T = TypeVar("T")


class SinkTools:
    """Implements sink.Tools. dead_count: letters written since the start."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        save: Callable[[], Awaitable[object]],
        base_s: float = 0.5,
        cap_s: float = 60.0,
        dead_bytes: int = 64 * 1024 * 1024,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.folder = folder
        self.dead_count = 0
        self.committed: Callable[[SinkState], None] = lambda _state: None
        self._save = save
        self._base_s, self._cap_s = base_s, cap_s
        self._dead_path = folder / "dead" / f"{name}.ndjson"
        self._dead_bytes = dead_bytes
        self._sleep = sleep
        self._draw = draw
        self._threads = ThreadPoolExecutor(1, f"dogwatch-log-{name}")
        self._client: HttpClient | None = None

    async def thread(self, call: Callable[[], T]) -> T:
        return await finished(asyncio.get_running_loop().run_in_executor(self._threads, call))

    async def request(self, request: HttpRequest) -> HttpResponse:
        if self._client is None:
            from dogwatch.engine.http_client import HttpClient

            self._client = HttpClient(user_agent="dogwatch-logs")
        return await self._client.request(request)

    async def commit(self, state: SinkState) -> None:
        self.committed(state)
        if await self._save() is False:
            # What rests on it must not go on: after a crash the checkpoint would speak of something else.
            raise TransientError("the checkpoint cannot be written")

    async def dead(self, records: Sequence[Mapping[str, object]], reason: str) -> None:
        try:
            await self.thread(lambda: self._bury(records, reason))
        except OSError as error:
            raise TransientError(f"dead letters cannot be kept: {reason_of(error)}") from None
        self.dead_count += len(records)

    def _bury(self, records: Sequence[Mapping[str, object]], reason: str) -> None:
        self._dead_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._dead_path.exists() and self._dead_path.stat().st_size > self._dead_bytes:
            self._dead_path.replace(self._dead_path.with_suffix(".ndjson.1"))
        now_s = time.time()
        lines = [{"reason": reason, "time_s": now_s, "record": record} for record in records]
        with self._dead_path.open("ab") as file:
            file.write(msgspec.json.Encoder().encode_lines(lines))
            file.flush()
            os.fsync(file.fileno())

    async def pause(self, attempt: int, retry_after_s: float | None) -> None:
        jitter_s = backoff(attempt, base_s=self._base_s, cap_s=self._cap_s, random=self._draw)
        await self._sleep(jitter_s + max(0.0, retry_after_s or 0.0))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
