"""`dogwatch fleet plan | apply | drift | plans` through a daemon: its inventory, keys, permissions and trail."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from dogwatch.cli.client import Client, chosen, client_of
from dogwatch.cli.fleet_remote import wait_run
from dogwatch.cli.listing import Wanted
from dogwatch.cli.output import ago, one_line, print_json, print_table
from dogwatch.errors import DogwatchError, UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.plans.going import Went
    from dogwatch.fleet.plans.plan import HostPlan, Plan

_PLANS = "/api/v1/fleet/plans"
_PAGE = 200
_COLOURS = {
    "ready": "yellow", "applied": "green", "rolled back": "green", "planning": "blue", "applying": "blue",
}  # fmt: skip
# Options that are about this machine; the daemon has its own.
_LOCAL = {
    "paths": "-c",
    "sources": "-i",
    "user": "--user",
    "key": "--key",
    "sudo": "--sudo",
    "sudo_user": "--sudo-user",
    "sudo_password_file": "--sudo-password-file",
    "accept_new_host_keys": "--accept-new-host-keys",
    "ssh_config": "--ssh-config",
    "known_hosts": "--known-hosts",
    "output": "-o",
    "origin": "--origin",
}


def _client(options: Mapping[str, Any]) -> Client:
    """Raises: UsageError for options that a daemon cannot heed."""
    for name, shown in _LOCAL.items():
        if options.get(name):
            hint = "the playbook's become:" if name.startswith("sudo") else "leave it out, or --server"
            raise UsageError(f"{shown} is about this machine; the daemon has its own", hint=hint)
    return client_of(*chosen(options["server"], options["context"]))


def plan_remote(options: Mapping[str, Any], *, drift: bool) -> int:
    """Have a plan made there, show it, and return the exit code."""
    from dogwatch.cli.fleet_plans import plan_exit_code, variables_of
    from dogwatch.cli.fleet_plans_output import plain_plan, tell_drift, tell_plan

    client = _client(options)
    body = {
        **_playbook(options["playbook"], options.get("files", ())),
        "targets": ",".join(options["targets"]),
        "vars": variables_of(options["variables"]),
        "drift": drift,
        "forks": options["forks"],
        "timeout": f"{options['timeout']}s",
        "connect_timeout": f"{options['connect_timeout']}s",
    }
    started = client.post(_PLANS, body)
    row = _followed(client, started, options, step="plan")
    if row is None:
        return 130
    plan = plan_of(client, row)
    if options["as_json"]:
        print_json({**plain_plan(plan, ""), "approval": row["approval"], "digest": row["digest"]})
    elif drift:
        tell_drift(plan, diff=options["diff"])
    else:
        tell_plan(plan, diff=not options["no_diff"], output="")
        _tell_next(client, row)
    return plan_exit_code(plan, pending=options["exit_code"])


def _tell_next(client: Client, row: Mapping[str, Any]) -> None:
    """Say what can be done with a plan."""
    if row["kind"] != "plan" or row["state"] != "ready" or not row["hosts"].get("changes"):
        return
    command = f"dogwatch fleet apply {row['plan']} --server {client.server}"
    if row["waits"]:
        click.echo(f"somebody else must agree to it: {command} --approve")
    else:
        click.echo(f"apply it: {command}")


def _playbook(given: str, more: tuple[str, ...]) -> dict[str, Any]:
    """Return what names or holds a playbook: a file here is sent along, anything else is a name there."""
    path = Path(given)
    if not path.is_file():
        if "/" in given or given.endswith((".yaml", ".yml")):
            raise UsageError(f"there is no file {given}", hint="a name without a path is one of the daemon's playbooks")
        return {"playbook": given}
    names = {path.name, *_beside(path)}
    for one in more:
        relative = Path(one).absolute()
        if not relative.is_relative_to(path.absolute().parent):
            raise UsageError(f"--file {one} is not below the playbook's folder")
        names.add(str(relative.relative_to(path.absolute().parent)))
    files = {name: base64.b64encode((path.parent / name).read_bytes()).decode() for name in sorted(names)}
    return {"main": path.name, "files": files}


def _beside(path: Path) -> Iterator[str]:
    """Yield the files that a playbook names. Raises: ConfigError with every mistake of the playbook."""
    try:
        from dogwatch.fleet.operations import OPERATIONS
        from dogwatch.fleet.playbook.load import load_playbook
        from dogwatch.fleet.playbook.templates import Engine
    except ImportError:
        raise UsageError("playbooks are not installed here", hint="pip install 'dogwatch[fleet]'") from None
    for play in load_playbook(path, OPERATIONS, Engine()).plays:
        for entry in (*play.operations, *play.handlers):
            for field in OPERATIONS.get(entry.kind).local_files:
                name = entry.fields.get(field)
                # One that is filled in on the way is known to nobody yet: --file names it.
                if isinstance(name, str) and "{" not in name:
                    yield str(Path(name))


def _followed(
    client: Client, started: Mapping[str, Any], options: Mapping[str, Any], *, step: str
) -> Mapping[str, Any] | None:
    """Wait for the end of a plan's run and return the plan; None where Ctrl-C left it going."""
    run_id, plan = started["run_id"], started["plan"]
    if not options["as_json"]:
        click.echo(f"started {run_id}: plan {plan}", err=True)
    try:
        ended = wait_run(client, run_id, f"{run_id}/{step}")
    except KeyboardInterrupt:
        click.echo(
            f"\nThe run goes on.\n  See it      dogwatch fleet plans {plan} --server {client.server}\n"
            f"  Cancel it   dogwatch run cancel {run_id} --server {client.server}",
            err=True,
        )
        return None
    row: Mapping[str, Any] = client.get(_path(plan))
    if row["made_s"] is None or (step == "apply" and row["apply_run"] != run_id):
        raise DogwatchError(one_line(row["reason"] or ended["reason"]) or f"run {run_id} {ended['state']}")
    return row


def _path(plan: str) -> str:
    return f"{_PLANS}/{quote(plan, safe='')}"


def _hosts(client: Client, plan: str) -> Iterator[Mapping[str, Any]]:
    yield from client.each(f"{_path(plan)}/hosts", page=_PAGE)


def plan_of(client: Client, row: Mapping[str, Any]) -> Plan:
    """Return a daemon's plan as far as people are told of it."""
    from dogwatch.fleet.plans.plan import Plan, PlayPlan

    hosts = list(_hosts(client, row["plan"]))
    play = PlayPlan(
        name=row["playbook"],
        targets=row["targets"],
        hosts=tuple(_host_plan(one) for one in hosts if one["state"] != "unread"),
        unread={one["host"]: one["message"] for one in hosts if one["state"] == "unread"},
        approval=row["approval"],
    )
    return Plan(
        plan_id=row["plan"],
        made_at_s=row["made_s"],
        made_by=row["actor"],
        playbook=row["playbook"],
        folder="",
        salt="",
        plays=(play,),
    )


def _host_plan(one: Mapping[str, Any]) -> HostPlan:
    from dogwatch.fleet.operations.steps import Remove
    from dogwatch.fleet.plans.plan import HostPlan, Item

    items = tuple(
        Item(
            at=at,
            name=item["name"],
            kind=item["kind"],
            handler=item["handler"],
            later=item["later"],
            # Only what people are told: what is done stays there.
            steps=tuple(Remove(title=step["title"], diff=step["diff"], path="") for step in item["steps"]),
        )
        for at, item in enumerate(one["items"])
    )
    return HostPlan(host=one["host"], problems=tuple(one["problems"]), total=one["operations"], items=items)


def went_of(client: Client, row: Mapping[str, Any]) -> Went:
    """Return what became of the hosts of a plan that was applied."""
    from dogwatch.fleet.plans.apply import Done
    from dogwatch.fleet.plans.going import Went

    done = tuple(
        Done(host=one["host"], state=one["result"], message=one["message"])
        for one in _hosts(client, row["plan"])
        if one["result"]
    )
    return Went(done=done, stopped=row["reason"])


def apply_remote(options: Mapping[str, Any]) -> int:
    """Agree to a daemon's plan, or have it applied; return the exit code."""
    from dogwatch.cli.fleet_plans_output import plain_done, tell_done
    from dogwatch.fleet.plans.going import exit_code

    client = _client(options)
    plan = options["plan"]
    if options["approve"] or options["reject"]:
        row = client.post(f"{_path(plan)}/decision", {"approve": options["approve"], "comment": options["comment"]})
        click.echo(f"{'approved' if options['approve'] else 'rejected'} plan {row['plan']}", err=True)
        return 0
    body = {
        "resume": options["resume"],
        "back": options["roll_back"],
        "targets": ",".join(options["targets"]),
        "forks": options["forks"],
        "batch": options["batch"] or "",
        "max_fail": options["max_fail"] or "",
        "timeout": f"{options['timeout']}s",
        "connect_timeout": f"{options['connect_timeout']}s",
        "reason": options["comment"],
    }
    found = _followed(client, client.post(f"{_path(plan)}/apply", body), options, step="apply")
    if found is None:
        return 130
    went = went_of(client, found)
    if options["as_json"]:
        print_json({**plain_done(went), "plan": found["plan"], "state": found["state"]})
    else:
        tell_done(went, f"{found['plan']} --server {client.server}")
    return exit_code(went.done) if went.done else 1


def tell_plans(options: Mapping[str, Any]) -> int:
    """Tell a daemon's plans, one of them, or which hosts wandered."""
    if options["drift"] and options["wanted"]:
        raise UsageError("--drift takes no filters")
    client = client_of(*chosen(options["server"], options["context"]))
    if options["drift"]:
        return _tell_drift(client, options["as_json"])
    if options["plan"] is None:
        return _list(client, options["wanted"], options["as_json"])
    return _show(client, options)


def _list(client: Client, wanted: Wanted, as_json: bool) -> int:
    found = wanted.items(client)
    if as_json:
        print_json(found)
        return 0
    if not found:
        click.echo("No plan matches." if wanted else "There is no plan yet.")
        return 0
    rows = [
        (
            _state(one),
            one["plan"],
            one["kind"],
            ago(one["created_s"]),
            str(sum(one["hosts"].values())),
            str(one["hosts"].get("changes", 0)),
            one_line(one["playbook"]),
        )
        for one in found
    ]
    print_table(("STATE", "PLAN", "KIND", "WHEN", "HOSTS", "CHANGE", "PLAYBOOK"), rows, cut=(6,))
    wanted.further(found)
    return 0


def _state(row: Mapping[str, Any]) -> str:
    told = "waits for approval" if row["waits"] else row["state"]
    return click.style(told, fg=_COLOURS.get(row["state"], "red"))


def _show(client: Client, options: Mapping[str, Any]) -> int:
    from dogwatch.cli.fleet_plans_output import plain_done, plain_plan, tell_done, tell_plan

    row = client.get(_path(options["plan"]))
    plan = plan_of(client, row)
    went = went_of(client, row)
    if options["as_json"]:
        print_json({**row, **plain_plan(plan, ""), "applied": plain_done(went) if went.done else None})
        return 0
    click.echo(f"{_state(row)}  {row['plan']}  {ago(row['created_s'])}, by {one_line(row['actor'])}")
    click.echo(f"  playbook  {one_line(row['playbook'])}")
    if row["targets"]:
        click.echo(f"  on        {one_line(row['targets'])}")
    if row["approved_by"]:
        click.echo(f"  agreed    {one_line(row['approved_by'])} {one_line(row['comment'])}")
    if row["reason"]:
        click.echo(f"  reason    {one_line(row['reason'])}")
    click.echo()
    tell_plan(plan, diff=not options["no_diff"], output="")
    if went.done:
        click.echo()
        tell_done(went, f"{row['plan']} --server {client.server}")
    else:
        _tell_next(client, row)
    return 0


def _tell_drift(client: Client, as_json: bool) -> int:
    found = client.all("/api/v1/fleet/drift")
    if as_json:
        print_json(found)
        return 0
    if not found:
        click.echo("Nobody has looked for drift yet: dogwatch fleet drift PLAYBOOK --server URL")
        return 0
    for one in found:
        total, away = one["hosts_total"], one["wandered"]
        click.echo(
            f"{click.style(one_line(one['playbook']), bold=True)}: {total - len(away) - len(one['unread'])} of {total} "
            f"hosts are as they should be, looked {ago(one['looked_s'])}"
        )
        rows = [
            (host["host"], "-" if host["since_s"] is None else ago(host["since_s"]), one_line(", ".join(host["what"])))
            for host in away
        ]
        rows += [(host, "-", "not read") for host in one["unread"]]
        if rows:
            print_table(("HOST", "SINCE", "WHAT"), rows, cut=(2,))
    return 0
