"""Follows a run at a terminal: its steps and its output as they come, until it has ended."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import click

from dogwatch.cli.client import Client
from dogwatch.cli.output import one_line, status_text, waits_text, width
from dogwatch.core.units import format_duration
from dogwatch.errors import Unreachable

# A daemon that restarts is back within that time.
PATIENCE_S = 30.0
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_ENDED = ("succeeded", "failed", "cancelled", "skipped")


def run_path(run_id: str) -> str:
    """Return the API path of a run."""
    return f"/api/v1/runs/{quote(run_id, safe='')}"


def exit_code(run: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> int:
    """Return 0 for success, 3 where steps failed that were allowed to, 1 for everything else."""
    if run["state"] != "succeeded":
        return 1
    return 3 if any(step["state"] == "failed" for step in steps) else 0


def took(one: Mapping[str, Any]) -> str:
    """Return how long a run or a step worked, so far or in all; "-" where it has not begun."""
    if one["started_s"] is None:
        return "-"
    seconds = (one["ended_s"] or time.time()) - one["started_s"]
    return format_duration(max(0.0, seconds))


class Screen(Protocol):
    """Where a followed run is shown."""

    def line(self, step: str, text: str, stream: str) -> None: ...

    def step(self, step: Mapping[str, Any]) -> None: ...

    def run(self, run: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def follow(client: Client, run_id: str, screen: Screen, *, step: str = "", after: int = 0) -> Mapping[str, Any]:
    """Show a run on a screen until it has ended, and return it. A daemon that restarts meanwhile is waited for.

    Raises: Unreachable where it stays away.
    """
    lines = Lines(screen.line)
    lost_s: float | None = None
    try:
        while True:
            try:
                for name, data in client.stream(f"{run_path(run_id)}/events", step=step or None, after=after):
                    lost_s = None
                    if name == "output":
                        after = data["sequence"]
                        lines.add(data)
                    elif name == "step":
                        if data["state"] in _ENDED:
                            lines.flush(data["name"])
                        screen.step(data)
                    elif name == "run":
                        screen.run(data)
                    elif name == "problem":
                        raise Unreachable(data["detail"], hint=data["hint"])
                    elif name == "end":
                        lines.flush()
                        return data  # type: ignore[no-any-return]
            except Unreachable:
                lost_s = lost_s or time.monotonic()
                if time.monotonic() - lost_s > PATIENCE_S:
                    raise
            time.sleep(0.3)
    finally:
        screen.close()


class Lines:
    """Puts pieces of output together to whole lines, each step's by itself."""

    def __init__(self, show: Callable[[str, str, str], None]) -> None:
        self._show = show
        self._rest: dict[tuple[str, str], str] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        key = (chunk["step"], chunk["stream"])
        *whole, rest = (self._rest.get(key, "") + chunk["text"]).split("\n")
        for line in whole:
            self._show(*key[:1], clean(line), key[1])
        # A note of Dogwatch's is a line by itself.
        if rest and chunk["stream"] == "note":
            self._show(key[0], clean(rest), key[1])
            rest = ""
        self._rest[key] = rest

    def flush(self, step: str | None = None) -> None:
        """Show the lines that have no end."""
        for key in [key for key in self._rest if step in (None, key[0])]:
            rest = self._rest.pop(key)
            if rest:
                self._show(key[0], clean(rest), key[1])


def clean(line: str) -> str:
    """Return a line of a program's output without what a terminal would obey; what it overwrote is left out."""
    return one_line(_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]).replace("\t", "    "))


class PlainScreen:
    """For pipes and files: output on stdout; changes of steps beside it on stderr."""

    def __init__(self, *, steps: bool, keep: Callable[[str], bool] = lambda _line: True, bare: bool = False) -> None:
        self._steps = steps
        self._keep = keep
        self._bare = bare
        self._told: dict[str, str] = {}

    def line(self, step: str, text: str, stream: str) -> None:
        if self._keep(text):
            click.echo(text if self._bare else prefixed(step, text, stream))

    def step(self, step: Mapping[str, Any]) -> None:
        if self._steps and self._told.get(step["name"]) != step["state"] and step["state"] != "pending":
            self._told[step["name"]] = step["state"]
            click.echo(step_text(step), err=True)

    def run(self, run: Mapping[str, Any]) -> None:
        if self._steps and run["waiting_for"] and self._told.get("") != run["waiting_for"]:
            click.echo(one_line(waits_text(run["waiting_for"])), err=True)
        self._told[""] = run["waiting_for"]

    def close(self) -> None:
        pass


def prefixed(step: str, text: str, stream: str) -> str:
    """Return `build │ text`; what Dogwatch says itself, and stderr, look different where there are colours."""
    mark = click.style(f"{one_line(step)} │ ", fg="cyan")
    return mark + (click.style(text, dim=True) if stream == "note" else text)


def step_text(step: Mapping[str, Any]) -> str:
    """Return `✔ succeeded  build  1.2s`, with the reason where there is one."""
    parts = [status_text(step["state"]), click.style(one_line(step["name"]), bold=True)]
    if step["started_s"] is not None and step["state"] in _ENDED:
        parts.append(took(step))
    if step["attempt"] > 1:
        parts.append(f"attempt {step['attempt']}")
    text = "  ".join(parts)
    return f"{text}: {one_line(step['reason'])}" if step["reason"] else text


class LiveScreen:
    """For a terminal: output scrolls, below it stand the steps that run or wait, with their time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
        self._steps: dict[str, Mapping[str, Any]] = {}
        self._told: dict[str, str] = {}
        self._waiting_for = ""
        self._live = Live(console=self._console, transient=True, refresh_per_second=5, get_renderable=self._status)
        self._live.start()

    def _status(self) -> Any:
        from rich.text import Text

        done = sum(one["state"] in _ENDED for one in self._steps.values())
        room = width() or 80
        lines = [
            f"{'▶' if one['state'] == 'running' else '◇'} {one_line(name)}  {took(one)}"[:room]
            for name, one in self._steps.items()
            if one["state"] in ("running", "waiting")
        ]
        more = [f"… and {len(lines) - 8} more"] if len(lines) > 8 else []
        last = f"{done} of {len(self._steps)} steps done"
        if self._waiting_for:
            last += f", {one_line(waits_text(self._waiting_for))}"
        return Text("\n".join([*lines[:8], *more, last[:room]]), style="dim")

    def _print(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text.from_ansi(text))

    def line(self, step: str, text: str, stream: str) -> None:
        self._print(prefixed(step, text, stream))

    def step(self, step: Mapping[str, Any]) -> None:
        self._steps[step["name"]] = step
        if self._told.get(step["name"]) != step["state"] and step["state"] != "pending":
            self._told[step["name"]] = step["state"]
            self._print(step_text(step))

    def run(self, run: Mapping[str, Any]) -> None:
        self._waiting_for = run["waiting_for"]

    def close(self) -> None:
        self._live.stop()


def screen(*, steps: bool = True) -> Screen:
    """Return the screen that fits where output goes."""
    return LiveScreen() if sys.stdout.isatty() else PlainScreen(steps=steps)


class Quiet:
    """Shows nothing: waits only."""

    def line(self, step: str, text: str, stream: str) -> None:
        pass

    def step(self, step: Mapping[str, Any]) -> None:
        pass

    def run(self, run: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def pieces(client: Client, run_id: str, step: str) -> Iterator[Mapping[str, Any]]:
    """Yield all output that was kept."""
    after: int | None = 0
    while after is not None:
        page = client.get(f"{run_path(run_id)}/output", step=step or None, after=after, limit=1000)
        yield from page["items"]
        after = page["next_after"]


def going_on(run_id: str) -> None:
    """Say, after Ctrl-C, that only the looking has ended."""
    click.echo(
        f"\nThe run goes on.\n  Follow it   dogwatch run logs -f {run_id}\n  Cancel it   dogwatch run cancel {run_id}",
        err=True,
    )
