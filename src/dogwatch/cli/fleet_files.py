"""`dogwatch fleet copy | fetch`."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.fleet_common import on_hosts, order_of, reaching
from dogwatch.errors import UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.connection import Connection, Ended
    from dogwatch.fleet.login import Login


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target")
@click.option("--mode", default="", help="Octal permissions; by default those of the file here.")
@reaching
def copy(**options: Any) -> int:
    """Copy a file to many hosts; on each it is replaced whole, or not at all.

    \b
    Example:
      dogwatch fleet copy motd /etc/motd -t @web --sudo --batch 1,100%
    """
    source, target = Path(options["source"]), options["target"]
    try:
        mode = int(options["mode"], 8) if options["mode"] else stat.S_IMODE(source.stat().st_mode)
    except ValueError:
        raise UsageError(f"--mode '{options['mode']}' is not octal", hint="write 644") from None
    if not 0 <= mode <= 0o7777:
        raise UsageError(f"--mode '{options['mode']}' is not a file's permissions", hint="write 644")

    async def work(_host: str, login: Login, connection: Connection) -> Ended:
        from dogwatch.fleet.files import copy_to

        return await copy_to(connection, login, source, target, mode=mode, timeout_s=options["timeout"])

    return on_hosts(order_of(options, ""), options, what=f"copy {source} to {target}", work=work)


@click.command()
@click.argument("path")
@click.argument("folder", type=click.Path(file_okay=False))
@reaching
def fetch(**options: Any) -> int:
    """Fetch a file from many hosts into FOLDER/HOST/NAME.

    \b
    Example:
      dogwatch fleet fetch /var/log/syslog logs/ -t 'web[01-20]'
    """
    path, folder = options["path"], Path(options["folder"])
    name = path.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise UsageError(f"'{path}' is not the path of a file")

    async def work(host: str, login: Login, connection: Connection) -> Ended:
        from dogwatch.fleet.files import fetch_from

        return await fetch_from(connection, login, path, folder / host / name, timeout_s=options["timeout"])

    return on_hosts(order_of(options, ""), options, what=f"fetch {path} into {folder}", work=work)
