"""`dogwatch up`, and the configuration commands over every section there is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.config import commands, find_paths, parse_settings
from dogwatch.cli.logging import log_options
from dogwatch.daemon.paths import STORE_FILE, admin_socket, default_data_dir
from dogwatch.errors import DogwatchError, UsageError

if TYPE_CHECKING:
    from dogwatch.config.load import Loaded, Loader
    from dogwatch.config.section import Section

QUICKSTART = Path("dogwatch-data")


def _sections() -> Sequence[Section[Any]]:
    from dogwatch.daemon.sections import SECTIONS

    return SECTIONS


_commands = commands(_sections)
config = _commands["config"]
init = _commands["init"]


@click.command()
@click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="File or folder; may be repeated.")
@click.option("--data", "data", metavar="FOLDER", help="Where history and the admin socket live.")
@click.option("--listen", metavar="ADDRESS", help="Where to serve, such as 127.0.0.1:8410.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a setting: --set store.batch=2s.")
@click.option("--quickstart", is_flag=True, help="Write a starter configuration to ./dogwatch-data first, if none.")
@click.option("--grace", default=10.0, show_default=True, help="Seconds that running work may take to finish.")
@log_options
@click.option("--check", is_flag=True, help="Only tell whether it could start.")
def up(
    paths: tuple[str, ...],
    data: str | None,
    listen: str | None,
    settings: tuple[str, ...],
    quickstart: bool,
    grace: float,
    log_level: str,
    log_format: str,
    check: bool,
) -> int:
    """Stand the watch: probe, collect, keep history, show it. Stops at Ctrl-C.

    SIGHUP reloads the configuration, SIGUSR2 replaces the program in place without refusing a request.

    \b
    Examples:
      dogwatch init && dogwatch up
      dogwatch up -c /etc/dogwatch --data /var/lib/dogwatch --listen :8410
    """
    from dogwatch.daemon import compiled
    from dogwatch.daemon.cores import no_core_dumps
    from dogwatch.daemon.descriptors import raise_limit
    from dogwatch.daemon.logs import start_logging

    compiled.activate()  # before anything that is compiled is imported; the log says how it went
    if quickstart:
        data = data or str(QUICKSTART)
        paths = paths or (str(_quickstart_file(Path(data), listen)),)
    folder = Path(data) if data else default_data_dir(os.environ)
    loader = _loader(paths, folder, listen, settings, given=bool(data))
    loaded = loader.load()
    if check:
        return _check(loaded)
    _make_folder(folder)
    start_logging(log_level, log_format)
    raise_limit()
    no_core_dumps()
    return _run(loader, loaded, folder, grace)


def _quickstart_file(folder: Path, listen: str | None) -> Path:
    """Return the starter configuration, written if it is not there."""
    from dogwatch.config.build import Catalog
    from dogwatch.config.starter import starter

    path = folder / "dogwatch.yaml"
    if not path.exists():
        _make_folder(folder)
        text = starter(Catalog(_sections()))
        # It watches itself: where it will listen, not where it would by default.
        path.write_text(text.replace("127.0.0.1:8410", listen) if listen else text)
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise DogwatchError(f"cannot make the data folder {folder}: {why}", hint="choose another with --data") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DogwatchError(f"may not write to the data folder {folder}", hint="choose another with --data")


def _loader(
    paths: tuple[str, ...], folder: Path, listen: str | None, settings: tuple[str, ...], *, given: bool
) -> Loader:
    """given: whether the command line names the folder; else the files may name another place for the store."""
    from dogwatch.config.load import Loader
    from dogwatch.config.overrides import RESERVED, Override

    overrides = parse_settings(settings)
    if not any(override.path == ("store", "path") for override in overrides):
        overrides.insert(0, Override(("store", "path"), str(folder / STORE_FILE), "--data", weak=not given))
    if listen:
        overrides.append(Override(("server", "listen"), listen, "--listen"))
    environ = dict(os.environ)
    return Loader(find_paths(paths, environ), _sections(), environ=environ, overrides=overrides, known=RESERVED)


def _check(loaded: Loaded) -> int:
    """Tell whether it could start: what a restart asks the next program before it trusts it."""
    from dogwatch.features import state_tables
    from dogwatch.store.files import check_file, migrations
    from dogwatch.store.limits import STORE
    from dogwatch.store.state import DATABASE, check_state

    check_file(Path(loaded.get(STORE).path), migrations()[-1][0])
    check_state(loaded.get(DATABASE), loaded.get(STORE).path, state_tables())
    click.echo("ok")
    return 0


def _run(loader: Loader, loaded: Loaded, folder: Path, grace_s: float) -> int:
    import uvloop

    from dogwatch.core.clock import SystemClock
    from dogwatch.daemon.run import Daemon, RunOptions, banner
    from dogwatch.daemon.sockets import execute_again, inherited

    sockets = inherited(os.environ)
    environ = dict(os.environ)
    options = RunOptions(loader=loader, data=folder, socket_path=_socket_path(folder), environ=environ, grace_s=grace_s)
    daemon = Daemon(options, clock=SystemClock(), inherited=sockets, said=lambda it: click.echo(banner(it), err=True))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ending = runner.run(daemon.run(loaded))
    if ending.restart is not None:
        sys.stderr.flush()
        execute_again(ending.restart, environ)
    return ending.exit_code


def _socket_path(folder: Path) -> Path:
    given = os.environ.get("DOGWATCH_SOCKET")
    if given and not Path(given).is_absolute():
        raise UsageError("DOGWATCH_SOCKET must be an absolute path")
    return Path(given) if given else admin_socket(folder)
