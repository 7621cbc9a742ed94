"""`dogwatch fleet copy | fetch`."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import click

from dogwatch.cli.fleet_carry import Deed, on_hosts
from dogwatch.cli.fleet_common import elsewhere, reaching
from dogwatch.errors import UsageError


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target")
@click.option("--mode", default="", help="Octal permissions; by default those of the file here.")
@elsewhere
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

    if options["server"] or options["context"]:
        from dogwatch.cli.fleet_files_remote import copy_remote

        return copy_remote(options, source, target, mode)
    from dogwatch.fleet.files import digest

    arguments = {"source": str(source.absolute()), "target": target, "mode": mode, "digest": digest(source)}
    return on_hosts(Deed(kind="copy", what=f"copy {source} to {target}", arguments=arguments), options)


@click.command()
@click.argument("path")
@click.argument("folder", type=click.Path(file_okay=False))
@elsewhere
@reaching
def fetch(**options: Any) -> int:
    """Fetch a file from many hosts into FOLDER/HOST/NAME.

    \b
    Example:
      dogwatch fleet fetch /var/log/syslog logs/ -t 'web[01-20]'
    """
    path, folder = options["path"], Path(options["folder"])
    if path.rpartition("/")[2] in ("", ".", ".."):
        raise UsageError(f"'{path}' is not the path of a file")

    if options["server"] or options["context"]:
        from dogwatch.cli.fleet_files_remote import fetch_remote

        return fetch_remote(options, path, folder)
    arguments = {"path": path, "folder": str(folder.absolute())}
    return on_hosts(Deed(kind="fetch", what=f"fetch {path} into {folder}", arguments=arguments), options)
