"""`dogwatch logs`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import msgspec

from dogwatch.cli.config import Excerpts, find_paths
from dogwatch.cli.logging import log_options
from dogwatch.cli.logs_query import query
from dogwatch.cli.output import counted, print_json, width
from dogwatch.config.load import Loader
from dogwatch.core.component import nearest
from dogwatch.daemon.paths import default_data_dir
from dogwatch.errors import ConfigError, NotFound, UsageError
from dogwatch.logs.section import LOGS, LogsSpec

if TYPE_CHECKING:
    from dogwatch.logs.agent import Agent

_log = logging.getLogger(__name__)

_config = click.option(
    "-c",
    "--config",
    "paths",
    multiple=True,
    metavar="PATH",
    help="File or folder; may be repeated. Default: as for `config check`.",
)
_ENCODER = msgspec.json.Encoder(enc_hook=str)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def logs() -> None:
    """Check, try and run the log agent; search its store.

    \b
    Examples:
      dogwatch logs check
      dogwatch logs test /var/log/shop.log --with sample.log
      dogwatch logs query 'level == "error"' --since 2h
    """


logs.add_command(query)


def _loader(paths: Sequence[str]) -> Loader:
    from dogwatch.daemon.sections import SECTIONS

    environ = dict(os.environ)
    return Loader(find_paths(paths, environ), SECTIONS, environ=environ)


def load_logs(paths: Sequence[str]) -> tuple[LogsSpec, Path]:
    """Return the `logs:` section and the agent's folder."""
    environ = dict(os.environ)
    try:
        # An agent alone has nothing else in its configuration: what the other sections are made of stays unloaded.
        spec: LogsSpec = Loader(find_paths(paths, environ), (LOGS,), environ=environ).load().get(LOGS)
    except ConfigError:
        spec = _loader(paths).load().get(LOGS)
    return spec, Path(spec.folder or Path(default_data_dir(dict(os.environ))) / "logs")


@logs.command(short_help="Check the `logs:` section, say what goes where.")
@_config
@_json
def check(paths: tuple[str, ...], as_json: bool) -> int:
    """Check the `logs:` section, and say what goes where.

    \b
    Example:
      dogwatch logs check -c dogwatch.yaml
    """
    loader = _loader(paths)
    try:
        spec = loader.validate(loader.parse()).get(LOGS)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": [msgspec.to_builtins(one) for one in error.problems]})
            return error.exit_code
        excerpts = Excerpts(loader.catalog)
        for problem in error.problems:
            click.echo(f"{problem}\n{excerpts.of(problem)}", err=True, nl=False)
        return error.exit_code
    routes = [
        {"from": list(route.from_), "do": [one.kind for one in route.do], "to": list(route.to)}
        for route in spec.effective_routes()
        if spec.sources
    ]
    if as_json:
        print_json({"ok": True, "routes": routes})
        return 0
    if not spec.sources:
        click.echo("ok, but it collects no logs: there are no sources below `logs:`")
        return 0
    for route in routes:
        parts = [", ".join(route[key]) for key in ("from", "do", "to") if route[key]]
        click.echo(
            textwrap.fill(" → ".join(parts), width() or 10_000, subsequent_indent="    ", break_on_hyphens=False)
        )
    click.echo(f"ok: {counted(len(spec.sources), 'source')}, {counted(len(spec.sinks), 'sink')}")
    return 0


@logs.command(short_help="Show what each transform does to each line.")
@click.argument("file")
@click.option(
    "--with",
    "sample",
    required=True,
    type=click.File("rb"),
    help="Lines to try; - for standard input.",
)
@_config
@_json
def test(file: str, sample: IO[bytes], paths: tuple[str, ...], as_json: bool) -> int:
    """Show what each transform does to each line of a sample, as if FILE held them.

    FILE is a path that a `file` source follows, or the name of a source. With
    --json one line for each line of the sample and each route.

    \b
    Examples:
      dogwatch logs test /var/log/shop.log --with sample.log
      tail -5 /var/log/shop.log | dogwatch logs test shop --with -
    """
    from dogwatch.logs.trial import shown, source_of, trial

    spec: LogsSpec = _loader(paths).load().get(LOGS)
    source = source_of(spec, file)
    if source is None:
        known = [one.name for one in spec.sources]
        raise NotFound(f"no source follows '{file}'", hint=nearest(file, known) if known else "there are no sources")
    found = trial(spec, source, sample.read())
    for text in map(_ENCODER.encode, found) if as_json else shown(found):
        click.echo(text)
    return 0


@logs.command(short_help="Run the log agent alone.")
@_config
@click.option("--folder", metavar="PATH", help="Where its checkpoint and buffers are. Default: `logs.folder`.")
@log_options
def run(paths: tuple[str, ...], folder: str | None, log_level: str, log_format: str) -> int:
    """Run the log agent alone, until Ctrl-C, TERM, or the end of its sources.

    What it logs goes to standard error. It ends with 1 where a source failed, or
    where sources that cannot be read again ended before all of it was delivered.

    \b
    Examples:
      dogwatch logs run -c dogwatch.yaml
      journalctl -o cat | dogwatch logs run -c stdin.yaml --folder /tmp/state
    """
    spec, default = load_logs(paths)
    if not spec.sources:
        raise UsageError("the configuration has no log sources", hint="'logs:' with sources and sinks adds some")
    where = Path(folder) if folder else default
    import gc

    import uvloop

    from dogwatch.daemon.descriptors import raise_limit
    from dogwatch.daemon.logs import start_logging

    start_logging(log_level, log_format)
    raise_limit()
    # What is loaded by now lives as long as the process; blocks are not worth looking through again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    return uvloop.run(_run(spec, where))


async def _run(spec: LogsSpec, folder: Path) -> int:
    from dogwatch.logs.agent import Agent

    agent = Agent(spec, folder)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await agent.start()
    what = f"{counted(len(spec.sources), 'source')}, {counted(len(spec.sinks), 'sink')}"
    _log.info("%s, state in %s; Ctrl-C ends it", what, folder)
    ended = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(agent.finished())]
    try:
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    finally:
        by_itself = not stop.is_set()
        for one in ended:
            one.cancel()
        await agent.stop()
    return _judged(agent, by_itself=by_itself)


def _judged(agent: Agent, *, by_itself: bool) -> int:
    """Say what was done, and return the exit code. by_itself: whether all sources ended, so that nobody reads again."""
    sources, sinks = agent.status()
    lines = sum(one.counts.get("lines", 0) for one in sources)
    for one in sinks:
        more = [f"{counted(number, word)}" for number, word in ((one.dead, "dead letter"),) if number]
        more += [f"{one.dropped:,} dropped"] if one.dropped else []
        more += [f"not delivered: {one.failing}"] if one.waiting_bytes and one.failing else []
        _log.info(
            "%s read; to %s: %s", counted(lines, "line"), one.name, ", ".join([f"{one.written:,} written", *more])
        )
    lost = by_itself and any(one.waiting_bytes for one in sinks)
    if lost:
        _log.error("the sources have ended, and not all of what they said was delivered")
    return 1 if lost or any(one.failing for one in sources) else 0
