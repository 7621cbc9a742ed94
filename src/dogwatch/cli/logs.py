"""`dogwatch logs`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from dogwatch.cli.config import Excerpts, find_paths
from dogwatch.cli.logs_query import query
from dogwatch.cli.output import print_json
from dogwatch.config.load import Loader
from dogwatch.core.component import nearest
from dogwatch.daemon.paths import default_data_dir
from dogwatch.errors import ConfigError, NotFound, UsageError
from dogwatch.logs.section import LOGS, LogsSpec

_config = click.option(
    "-c",
    "--config",
    "paths",
    multiple=True,
    metavar="PATH",
    help="File or folder; may be repeated. Default: as for `config check`.",
)
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


@logs.command()
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
    for route in routes:
        click.echo(" → ".join(", ".join(route[key]) for key in ("from", "do", "to") if route[key]))
    click.echo(f"ok: {len(spec.sources)} sources, {len(spec.sinks)} sinks")
    return 0


@logs.command()
@click.argument("file")
@click.option("--with", "sample", required=True, type=click.Path(exists=True, dir_okay=False), help="Lines to try.")
@_config
def test(file: str, sample: str, paths: tuple[str, ...]) -> int:
    """Show what each transform does to each line of a sample, as if FILE held them.

    FILE is a path that a `file` source follows, or the name of a source.

    \b
    Example:
      dogwatch logs test /var/log/shop.log --with sample.log
    """
    from dogwatch.logs.trial import source_of, trial

    spec: LogsSpec = _loader(paths).load().get(LOGS)
    source = source_of(spec, file)
    if source is None:
        known = [one.name for one in spec.sources]
        raise NotFound(f"no source follows '{file}'", hint=nearest(file, known) if known else "there are no sources")
    for shown in trial(spec, source, Path(sample).read_bytes()):
        click.echo(shown)
    return 0


@logs.command()
@_config
@click.option("--folder", metavar="PATH", help="Where its checkpoint and buffers are. Default: `logs.folder`.")
def run(paths: tuple[str, ...], folder: str | None) -> int:
    """Run the log agent alone, until TERM or until its sources have ended.

    \b
    Example:
      dogwatch logs run -c dogwatch.yaml
    """
    spec, default = load_logs(paths)
    if not spec.sources:
        raise UsageError("the configuration has no log sources", hint="'logs:' with sources and sinks adds some")
    where = Path(folder) if folder else default
    import gc
    import resource

    import uvloop

    # Each file that is followed is open: the usual 1,024 are soon used up, and the system allows more to those who ask.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
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
    ended = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(agent.finished())]
    try:
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in ended:
            one.cancel()
        await agent.stop()
    sources, _sinks = agent.status()
    return 1 if any(one.failing for one in sources) else 0
