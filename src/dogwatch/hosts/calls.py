"""Calls that may hang for ever (statvfs of a dead NFS server): each in a daemon thread, one per key, bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from dogwatch.errors import TransientError

T = TypeVar("T")


class Refused(TransientError):
    """The call was not made: an earlier one of the same key still hangs, or too many hang."""

    code = "refused"


class BlockingCalls:
    """Runs functions that may never return. A key whose call hangs is not called again until it has returned.

    limit: threads at one time; what comes beyond is refused, so that a hundred dead mounts cost a bounded number of
    threads. A pool would be no help: its threads are joined at exit, and one that hangs would keep the program.
    """

    def __init__(self, *, limit: int = 16) -> None:
        self._limit = limit
        self._running: set[str] = set()

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, key: str, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call function in a thread of its own and return its future, of the running loop.

        Cancelling the future lets the thread be; its key stays taken until it returns.
        Raises: Refused.
        """
        if key in self._running:
            raise Refused(f"{key} still hangs")
        if len(self._running) >= self._limit:
            raise Refused(f"not asked: {len(self._running)} other calls hang")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        # An error that comes when nobody waits any more is no news.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

        def work() -> None:
            try:
                result: T | None = function()
                error: BaseException | None = None
            except OSError as failure:
                result, error = None, failure
            finally:
                # set.discard is atomic under the interpreter lock; the key is free even where the loop is gone.
                self._running.discard(key)
            if not loop.is_closed():
                _deliver(loop, future, result, error)

        self._running.add(key)
        try:
            threading.Thread(target=work, name=f"hosts {key}"[:60], daemon=True).start()
        except RuntimeError as error:
            self._running.discard(key)
            raise Refused(f"no thread for {key}: {error}") from error
        return future


def _deliver(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: T | None, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T is None or error is set

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        # The loop was closed since; nobody waits any more.
        return
