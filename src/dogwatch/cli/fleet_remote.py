"""`dogwatch fleet run --server`: a daemon carries it out, with its inventory, its keys and its permissions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec

from dogwatch.cli.client import Client, chosen, client_of
from dogwatch.cli.following import PATIENCE_S, run_path
from dogwatch.cli.listing import Wanted
from dogwatch.cli.output import one_line
from dogwatch.errors import DogwatchError, NotFound, Unreachable, UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.book.values import Kept
    from dogwatch.fleet.results import HostResult

# Options that are about this machine; the daemon has its own.
_LOCAL = {
    "paths": "-c",
    "sources": "-i",
    "key": "--key",
    "sudo_password_file": "--sudo-password-file",
    "ssh_config": "--ssh-config",
    "known_hosts": "--known-hosts",
}
_LOOK_S = 0.3
_PAGE = 200


def _path(run: str) -> str:
    return f"/api/v1/fleet/runs/{quote(run, safe='')}"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run there. left: whoever looked went away, and the run goes on."""

    run: str = ""
    results: list[Any] = []
    reason: str = ""
    left: bool = False


def run_remote(options: Mapping[str, Any], *, command: str, env: Mapping[str, str]) -> int:
    """Start it there, follow it to its end, tell the results; return the exit code. Raises: UsageError."""
    if options["only_check"]:
        return check_remote(options, command)
    return tell_ended(start_remote(options, command=command, env=env), options)


def client_for(options: Mapping[str, Any]) -> Client:
    """Raises: UsageError for options that a daemon cannot heed."""
    for name, shown in _LOCAL.items():
        if options[name]:
            raise UsageError(f"{shown} is about this machine; the daemon has its own", hint="leave it out, or --server")
    if not options["targets"]:
        raise UsageError("it is not said on which hosts", hint="-t all for every one; or -t 'web[01-20],!web07'")
    return client_of(*chosen(options["server"], options["context"]))


def start_remote(
    options: Mapping[str, Any],
    *,
    command: str,
    env: Mapping[str, str],
    more: Callable[[Client], Mapping[str, object]] | None = None,
) -> Ended:
    """Start it there and follow it to its end. more: what is done in place of a command. Raises: UsageError."""
    client = client_for(options)
    body: dict[str, object] = {
        "targets": ",".join(options["targets"]),
        "limit": options["limit"],
        "env": dict(env),
        "user": options["user"] or "",
        "sudo": options["sudo"],
        "sudo_user": options["sudo_user"] or "",
        "forks": options["forks"],
        "timeout": f"{options['timeout']}s",
        "connect_timeout": f"{options['connect_timeout']}s",
        "deadline": "" if options["deadline"] is None else f"{options['deadline']}s",
        "batch": options["batch"],
        "max_fail": "100%" if options["max_fail"] is None else options["max_fail"],
        "output_limit": options.get("output_limit", "512KiB"),
        "accept_new_host_keys": options["accept_new_host_keys"],
    }
    if more is not None:
        body |= more(client)
    elif options.get("script"):
        body |= {"script": Path(options["script"]).read_text(), "args": list(options["words"])}
    else:
        body["command"] = command
    return _followed(client, client.post("/api/v1/fleet/runs", body), options)


def again_remote(options: Mapping[str, Any], run: str, *, failed_only: bool) -> int:
    """Go on with a daemon's run, as a new run there."""
    client = client_of(*chosen(options["server"], options["context"]))
    found = client.get(_path(run))
    new = client.post(f"{_path(found['run'])}/again", {"what": "failed" if failed_only else "rest"})
    return tell_ended(_followed(client, new, options, step=found["step"]), options)


def check_remote(options: Mapping[str, Any], command: str) -> int:
    """Tell which hosts would have their turn, in which batches."""
    from dogwatch.cli.fleet_carry import tell_batches
    from dogwatch.fleet.rollout import Rollout, parse_batches

    client = client_for(options)

    def hosts(targets: str) -> list[str]:
        return [one["host"] for one in client.all("/api/v1/fleet/hosts", targets=targets)]

    chosen = hosts(",".join(options["targets"]))
    if options["limit"]:
        kept = set(hosts(options["limit"]))
        chosen = [one for one in chosen if one in kept]
    if not chosen:
        raise NotFound("no host is chosen", hint="`dogwatch fleet list` shows what there is")
    return tell_batches(command, chosen, Rollout(batches=parse_batches(options["batch"])), options["as_json"])


def _followed(client: Client, run: Mapping[str, Any], options: Mapping[str, Any], *, step: str = "hosts") -> Ended:
    """Wait for the end of a run. Ctrl-C leaves it going."""
    run_id = run["run_id"]
    name = f"{run_id}/{step}"
    if not options["as_json"]:
        click.echo(f"started {run_id}", err=True)
    try:
        ended = wait_run(client, run_id, name)
    except KeyboardInterrupt:
        click.echo(
            f"\nThe run goes on.\n  See it      dogwatch fleet runs {run_id} --server {client.server}\n"
            f"  Cancel it   dogwatch run cancel {run_id} --server {client.server}",
            err=True,
        )
        return Ended(left=True)
    try:
        row = client.get(_path(name))
    except NotFound:
        raise DogwatchError(one_line(ended["reason"]) or f"run {run_id} {ended['state']}") from None
    return _ended(client, row, ended)


def _ended(client: Client, row: Mapping[str, Any], ended: Mapping[str, Any]) -> Ended:
    from dogwatch.fleet.connection import State
    from dogwatch.fleet.results import HostResult

    kept = list(_hosts(client, row["run"]))
    results = [one.result or HostResult(host=one.host, state=State.NOT_STARTED) for one in kept]
    reason = row["reason"] or (ended["reason"] if ended["state"] == "cancelled" else "")
    return Ended(run=row["run"], results=results, reason=reason)


def tell_ended(ended: Ended, options: Mapping[str, Any]) -> int:
    from dogwatch.cli.fleet_output import tell
    from dogwatch.fleet.results import exit_code

    if ended.left:
        return 130
    diff = bool(options.get("diff"))
    tell(ended.results, ended.reason, run_id=ended.run, as_json=options["as_json"], diff=diff)
    return exit_code(ended.results)


def wait_run(client: Client, run_id: str, name: str) -> Mapping[str, Any]:
    """Return the run once it has ended; show how far it is. A daemon that restarts meanwhile is waited for."""
    lost_s: float | None = None
    shown = False
    try:
        while True:
            try:
                run: Mapping[str, Any] = client.get(run_path(run_id))
                lost_s = None
                if run["ended"]:
                    return run
                if sys.stderr.isatty():
                    shown = True
                    click.echo(f"\r\x1b[K{_line(client, run, name)}", nl=False, err=True)
            except Unreachable:
                lost_s = lost_s or time.monotonic()
                if time.monotonic() - lost_s > PATIENCE_S:
                    raise
            time.sleep(_LOOK_S)
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def _line(client: Client, run: Mapping[str, Any], name: str) -> str:
    from dogwatch.cli.output import width

    try:
        row = client.get(_path(name))
    except NotFound:
        return f"{run['state']}{': ' + run['waiting_for'] if run['waiting_for'] else ''}"
    told = ", ".join(f"{count} {state}" for state, count in row["counts"].items())
    return one_line(f"{row['hosts_total']} hosts: {told}")[: (width() or 80) - 1]


def _hosts(client: Client, run: str) -> Iterator[Kept]:
    from dogwatch.fleet.book.values import Kept

    for one in client.each(f"{_path(run)}/hosts", page=_PAGE):
        yield Kept(
            host=one["host"],
            place=one["place"],
            state=one["state"],
            attempt=one["attempt"],
            batch=one["batch"],
            labels={},
            result=_result(one),
            begun_s=one["begun_s"],
            ended_s=one["ended_s"],
        )


def _result(one: Mapping[str, Any]) -> HostResult | None:
    from dogwatch.fleet.connection import State
    from dogwatch.fleet.results import HostResult

    if one["state"] in ("waiting", "running"):
        return None
    given = {
        name: one[name] for name in ("host", "exit_code", "signal", "message", "hint", "batch", "connect_s", "run_s")
    }
    return msgspec.structs.replace(
        HostResult(state=State(one["state"]), **given),
        stdout=one["stdout"].encode(),
        stderr=one["stderr"].encode(),
        cut=one["output_cut_bytes"],
    )


def results_of(options: Mapping[str, Any], run: str) -> tuple[str, str, list[HostResult]]:
    """Return a run's name, what it was, and the results that it has."""
    client = client_of(*chosen(options["server"], options["context"]))
    row = client.get(_path(run))
    return row["run"], row["what"], [one.result for one in _hosts(client, row["run"]) if one.result is not None]


def list_remote(server: str | None, context: str | None, wanted: Wanted, *, as_json: bool) -> int:
    from dogwatch.cli.fleet_runs import tell_runs

    items = wanted.items(client_of(*chosen(server, context)))
    return tell_runs([_known(one) for one in items], as_json=as_json)


def _known(one: Mapping[str, Any]) -> dict[str, Any]:
    # A daemon's runs are taken over by another worker where theirs is lost.
    return {**one, "alive": one["state"] == "running"}


def show_remote(server: str | None, context: str | None, run: str, *, diff: bool, as_json: bool) -> int:
    from dogwatch.cli.fleet_runs import tell_run

    client = client_of(*chosen(server, context))
    row = client.get(_path(run))
    kept: Sequence[Kept] = list(_hosts(client, row["run"]))
    return tell_run(_known(row), kept, diff=diff, as_json=as_json)


def hosts_of_run(client: Client, run_id: str) -> list[dict[str, Any]]:
    """Return the fleet runs of an engine's run, for `run show`; none where the daemon has no fleet."""
    try:
        found: list[dict[str, Any]] = client.get("/api/v1/fleet/runs", of=run_id)["items"]
    except DogwatchError:
        return []
    return found


def print_hosts(client: Client, found: Sequence[Mapping[str, Any]]) -> None:
    """Print, below a run, every host of its steps with how it ended."""
    from dogwatch.cli.fleet_output import show_states

    for one in found:
        click.echo(f"\n  {click.style(one_line(one['step']), bold=True)}: {one_line(one['what'])}\n")
        show_states([(kept.host, kept.result, kept.state) for kept in _hosts(client, one["run"])])
        click.echo(f"\n  what they said: dogwatch fleet runs {one['run']} --server {client.server}")


def run_files(run: str) -> str:
    """Return the API path of the files that a run fetched."""
    return f"{_path(run)}/files"
