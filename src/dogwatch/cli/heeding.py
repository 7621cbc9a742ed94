"""Ctrl-C and SIGTERM in commands that have something to finish first."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heeding(stop: Callable[[int], None]) -> Iterator[None]:
    """Call stop with the signal's number on the running event loop, in place of what is usual."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop = asyncio.get_running_loop()
    for number in before:
        loop.add_signal_handler(number, stop, int(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def interrupted() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, for loops without an event loop; the next Ctrl-C is the usual one.

    An exception could arrive inside a library that swallows it, and the loop would go on for ever.
    """
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def once(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        event.set()

    # Where it is ignored, as in a shell's background, it stays so.
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, once)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
