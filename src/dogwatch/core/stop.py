"""SIGTERM and SIGINT: the first begins a graceful stop, the second makes it immediate."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import TracebackType

from dogwatch.core.supervisor import StopReport, Supervisor

_log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Installs handlers on the running loop (asyncio's or uvloop's) while its block runs, and puts back what was there.

    first: called once with the signal. again: called for every further one. Only in the main thread.
    """

    def __init__(self, first: Callable[[signal.Signals], None], again: Callable[[signal.Signals], None]) -> None:
        self._first = first
        self._again = again
        self._seen = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            before = signal.getsignal(number)
            loop.add_signal_handler(number, self._received, number)
            self._before[number] = before
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            # Removing sets the default; asyncio.Runner and supervisors above us had one of their own.
            if callable(before) or isinstance(before, signal.Handlers):
                signal.signal(number, before)
        self._before.clear()

    def _received(self, number: signal.Signals) -> None:
        self._seen += 1
        if self._seen == 1:
            self._first(number)
        else:
            self._again(number)


def exit_code(number: signal.Signals) -> int:
    """Return what a shell shows of a process that the signal ended: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + number


async def run_until_stopped(supervisor: Supervisor) -> StopReport:
    """Run the supervisor until a task ends unexpectedly, someone stops it, or a signal does."""

    def first(number: signal.Signals) -> None:
        supervisor.stop(number.name, exit_code(number))

    def again(number: signal.Signals) -> None:
        supervisor.hurry(f"second signal, {number.name}")

    with StopSignals(first, again):
        return await supervisor.run()
