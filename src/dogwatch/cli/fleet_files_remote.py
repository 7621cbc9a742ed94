"""`dogwatch fleet copy | fetch --server`: files go through a daemon, in pieces."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from msgspec.structs import replace

from dogwatch.cli.client import Client
from dogwatch.cli.fleet_remote import check_remote, client_for, run_files, start_remote, tell_ended
from dogwatch.core.units import format_size
from dogwatch.errors import DogwatchError, UsageError

_PIECE_BYTES = 512 * 1024
_MOST_BYTES = 256 * 1024**2


def copy_remote(options: Mapping[str, Any], source: Path, target: str, mode: int) -> int:
    """Send a file to the daemon, have it copied, and return the exit code."""
    if options["only_check"]:
        return check_remote(options, f"copy {source} to {target}")
    if source.stat().st_size > _MOST_BYTES:
        raise UsageError(
            f"{source} is larger than {format_size(_MOST_BYTES)}", hint="copy it from here, without --server"
        )
    # A target that ends with `/` is a folder that the file goes into under its own name.
    path = target + source.name if target.endswith("/") else target

    def more(client: Client) -> Mapping[str, object]:
        return {"copy": _sent(client, source), "to": path, "mode": f"{mode:o}"}

    return tell_ended(start_remote(options, command="", env={}, more=more), options)


def _sent(client: Client, source: Path) -> str:
    """Send a file in pieces; return its id there."""
    name, place = "", 0
    with source.open("rb") as file:
        while (data := file.read(_PIECE_BYTES)) or place == 0:
            body = {"file": name, "place": place, "data": base64.b64encode(data).decode()}
            name = client.post("/api/v1/fleet/files", body)["file"]
            place += 1
    return name


def fetch_remote(options: Mapping[str, Any], path: str, folder: Path) -> int:
    """Have a file fetched from hosts, bring what came to FOLDER/HOST/NAME, and return the exit code."""
    if options["only_check"]:
        return check_remote(options, f"fetch {path}")
    ended = start_remote(options, command="", env={}, more=lambda _client: {"fetch": path})
    if ended.left:
        click.echo("what it fetches is not brought here", err=True)
        return tell_ended(ended, options)
    client = client_for(options)
    results = []
    for one in ended.results:
        told = _brought(client, ended.run, one.host, folder, path) if one.ok else ""
        results.append(replace(one, state=type(one.state).MISCONFIGURED, message=told) if told else one)
    return tell_ended(replace(ended, results=results), options)


def _brought(client: Client, run: str, host: str, folder: Path, path: str) -> str:
    """Write what was fetched from a host; return what went wrong, or ""."""
    if "/" in host or host in ("", ".", ".."):
        return f"'{host[:100]}' cannot be the name of a folder here"
    target = folder / host / path.rpartition("/")[2]
    part = target.with_name(f"{target.name}.dogwatch-part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            place, more = 0, True
            while more:
                piece = client.get(f"{run_files(run)}/{quote(host, safe='')}", place=place)
                file.write(base64.b64decode(piece["data"]))
                place, more = place + 1, piece["more"]
        part.replace(target)
    except (OSError, DogwatchError) as error:
        return f"it was fetched, but cannot be brought to {target}: {error}"
    finally:
        part.unlink(missing_ok=True)
    return ""
