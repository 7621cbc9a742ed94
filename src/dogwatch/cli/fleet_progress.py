"""How far a command over the fleet is, live on a terminal; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogwatch.fleet.results import HostResult
    from dogwatch.fleet.run import Watcher


class _Bar:
    """Counts on a bar of rich, with the hosts that have been running longest: those are what one waits for."""

    def __init__(self, bar: Any, total: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, completed=done, failed="", waiting="")
        self._failed: Counter[str] = Counter()
        self._running: dict[str, None] = {}

    def started(self, host: str) -> None:
        self._running[host] = None
        self._draw(0)

    def ended(self, result: HostResult) -> None:
        self._running.pop(result.host, None)
        if not result.ok:
            self._failed[str(result.state)] += 1
        self._draw(1)

    def stopped(self, reason: str) -> None:
        self._bar.console.print(f"stopping: {reason}", style="yellow", markup=False)

    def _draw(self, more: int) -> None:
        failed = ", ".join(f"{count} {word}" for word, count in self._failed.items())
        waiting = list(self._running)[:3]
        rest = len(self._running) - len(waiting)
        told = f"on {', '.join(waiting)}{f' and {rest} more' if rest else ''}" if waiting else ""
        self._bar.update(self._task, advance=more, failed=failed, waiting=told)


@contextmanager
def progress(total: int, *, done: int = 0) -> Iterator[Watcher | None]:
    """Show progress while the block runs. done: how many hosts have their end before it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        TextColumn("[bright_black]{task.fields[waiting]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, total, done)
