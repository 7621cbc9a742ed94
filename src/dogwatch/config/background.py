"""One thread at a time for work that may block or take long: disks hang, and big configurations take CPU."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from running, in every thread, while many objects are made that all stay.

    It would walk all of them again and again, each time with the whole process standing still: 180 ms for 5,000
    probes, where nothing waits longer than 20 ms without it.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Lane:
    """Runs functions in a thread, one at a time. A thread that hangs holds the lane, so threads never pile up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def stuck(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    async def run(self, function: Callable[[], T], *, timeout_s: float) -> T:
        """Return the function's result. Cancelling leaves the thread to end by itself.

        Raises: TimeoutError if it takes longer, or the one before it still hangs; what the function raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 - it is raised again in the caller
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                # The loop closed while a disk hung; nobody waits any more.
                return

        async with asyncio.timeout(timeout_s):
            while self.stuck:  # noqa: ASYNC110 - a thread sets no event when it has ended
                # The thread before has given its result and ends within microseconds, unless it hangs.
                await asyncio.sleep(0.001)
            # A daemon thread: a hung disk must not keep the process from ending.
            self._thread = threading.Thread(target=work, name=self._name, daemon=True)
            self._thread.start()
            return await future
