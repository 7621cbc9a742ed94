"""How far a command over the fleet is, live on a terminal; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogwatch.fleet.results import HostResult
    from dogwatch.fleet.run import Watcher

_BAR = 24


class _Screen:
    """Two lines: how many have ended, how, and since when; below them the hosts that have been running longest."""

    def __init__(self, console: Any, total: int, done: int) -> None:
        self._console = console
        self._total, self._done = total, done
        self._since_s = time.monotonic()
        self._failed: Counter[str] = Counter()
        self._running: dict[str, float] = {}

    def started(self, host: str) -> None:
        self._running[host] = time.monotonic()

    def ended(self, result: HostResult) -> None:
        self._running.pop(result.host, None)
        self._done += 1
        if not result.ok:
            self._failed[str(result.state)] += 1

    def stopped(self, reason: str) -> None:
        self._console.print(f"stopping: {reason}", style="yellow", markup=False)

    def render(self) -> Any:
        from rich.text import Text

        room = max(20, self._console.width - 1)
        now_s = time.monotonic()
        seconds = int(now_s - self._since_s)
        filled = _BAR * self._done // max(1, self._total)
        first = Text("━" * filled, style="green")
        first.append("━" * (_BAR - filled), style="bright_black")
        first.append(f" {self._done}/{self._total}  {seconds // 60}:{seconds % 60:02}  ")
        first.append(", ".join(f"{count} {word}" for word, count in self._failed.items()), style="red")
        first.truncate(room, overflow="ellipsis")
        return Text("\n").join([first, Text(self._waiting(room, now_s), style="bright_black")])

    def _waiting(self, room: int, now_s: float) -> str:
        """Return as many of the hosts that are waited for as fit, and how many more there are."""
        if not self._running:
            return ""
        names = [f"{host} {int(now_s - since_s)}s" for host, since_s in list(self._running.items())[:20]]
        for shown in range(len(names), 0, -1):
            more = len(self._running) - shown
            text = f"on {', '.join(names[:shown])}{f' and {more} more' if more else ''}"
            if len(text) <= room:
                return text
        return f"on {names[0]}"[: room - 1] + "…"


@contextmanager
def progress(total: int, *, done: int = 0) -> Iterator[Watcher | None]:
    """Show progress while the block runs. done: how many hosts have their end before it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    screen = _Screen(console, total, done)
    with Live(console=console, transient=True, refresh_per_second=8, get_renderable=screen.render):
        yield screen
