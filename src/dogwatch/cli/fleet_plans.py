"""`dogwatch fleet plan | apply | drift | facts`."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.durations import Duration
from dogwatch.cli.fleet_common import chosen_hosts, inventory_of
from dogwatch.cli.fleet_going import (
    Interrupted,
    facts_of,
    facts_option,
    going,
    joined_targets,
    login_variables,
    server_options,
    targets_option,
    timeout_option,
    whoami,
    with_dialer,
)
from dogwatch.cli.fleet_plans_output import (
    plain_done,
    plain_plan,
    tell_done,
    tell_drift,
    tell_facts,
    tell_origin,
    tell_plan,
)
from dogwatch.cli.listing import list_options
from dogwatch.cli.output import print_json
from dogwatch.errors import Conflict, NotFound, UsageError

if TYPE_CHECKING:
    from dogwatch.fleet.book.own import OwnBook
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.plans.apply import Applying
    from dogwatch.fleet.plans.going import Went
    from dogwatch.fleet.plans.make import Making
    from dogwatch.fleet.plans.plan import Plan
    from dogwatch.fleet.pool import Dialer

_VAR = click.option("--var", "variables", multiple=True, metavar="K=V", help="A variable, stronger than all others.")


@click.command("plan")
@click.argument("playbook")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the plan here, for `fleet apply`.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 where changes are pending.")
@click.option("--no-diff", is_flag=True, help="Leave the diffs out.")
@click.option("--origin", metavar="HOST", help="Only show the host's variables, and where each comes from.")
@_VAR
@targets_option
@facts_option
@timeout_option
@server_options
@going
def plan_(**options: Any) -> int:
    """Connect, read, and tell what a playbook would change on which host. Nothing is changed.

    Equal changes are told once, under the folded names of their hosts. Secrets
    are not shown, and the plan file holds their names in their place. With
    --server the daemon makes and keeps the plan: of a playbook that it names
    in its configuration, or of a file of this machine, which is sent along.

    \b
    Examples:
      dogwatch fleet plan site.yaml
      dogwatch fleet plan site.yaml -t @eu -o site.plan && \\
        dogwatch fleet apply site.plan
      dogwatch fleet plan site --server https://dogwatch.example
    """
    if options["server"] or options["context"]:
        from dogwatch.cli.fleet_plans_remote import plan_remote

        return plan_remote(options, drift=False)
    from dogwatch.fleet.plans.plan import encoded
    from dogwatch.fleet.plans.saving import write_whole

    making = making_of(options)
    if options["origin"]:
        return _origin(making, options)
    plan, ended_by = _made(making, options)
    if options["output"]:
        write_whole(Path(options["output"]), encoded(plan))
    if options["as_json"]:
        print_json(plain_plan(plan, options["output"] or ""))
    else:
        tell_plan(plan, diff=not options["no_diff"], output=options["output"] or "")
    return 128 + ended_by if ended_by else plan_exit_code(plan, pending=options["exit_code"])


@click.command("apply")
@click.argument("plan")
@click.option("--resume", is_flag=True, help="Go on where an apply of this plan ended; finish exactly the rest.")
@click.option("--roll-back", is_flag=True, help="Take back what the last apply of this plan did.")
@click.option("--approve", is_flag=True, help="Agree to the plan, without applying it.")
@click.option("--reject", is_flag=True, help="Reject a plan of the daemon, for good.")
@click.option("--comment", default="", metavar="TEXT", help="Why; kept by the daemon.")
@click.option("--batch", metavar="SIZES", help="Batches in place of the playbook's: '1,10%,100%'.")
@click.option("--max-fail", metavar="N|N%", help="In place of the playbook's: how many hosts may fail.")
@click.option("--timeout", default="10m", show_default=True, type=Duration(), help="Of the changes on each host.")
@click.option("--server", metavar="URL", help="The daemon whose plan it is; of a file: whose probes watch the hosts.")
@click.option("--context", metavar="NAME", help="The daemon of this context.")
@targets_option
@going
def apply_(**options: Any) -> int:
    """Apply a saved plan: exactly its changes, on hosts that are still as it was made for.

    Exits with 11 where hosts have changed since, or another apply holds them;
    with 3 where some failed. What it does is kept in PLAN.journal.

    \b
    Examples:
      dogwatch fleet apply site.plan --batch 1,10%,100% --max-fail 5%
      dogwatch fleet apply site.plan --resume
      dogwatch fleet apply site.plan --roll-back
      dogwatch fleet apply 0199f3 --server https://dogwatch.example
    """
    path = Path(options["plan"])
    if (options["server"] or options["context"]) and not path.is_file():
        from dogwatch.cli.fleet_plans_remote import apply_remote

        return apply_remote(options)
    if options["reject"] or options["comment"]:
        raise UsageError("--reject and --comment are for plans of a daemon", hint="name it with --server")
    from dogwatch.fleet.plans.approval import approve, check_approved
    from dogwatch.fleet.plans.journal import Journal
    from dogwatch.fleet.plans.plan import read_plan

    plan, digest = read_plan(path)
    if options["resume"] and options["roll_back"]:
        raise UsageError("--resume and --roll-back cannot both be")
    if options["approve"]:
        approve(path, plan, digest, whoami(), time.time())
        click.echo(f"approved {path} as {whoami()}", err=True)
        return 0
    check_approved(path, plan, digest)
    inventory = inventory_of(options["paths"], options["sources"])
    journal = Journal(path.with_name(path.name + ".journal"))
    with journal.held():
        return _apply(plan, digest, inventory, journal, options)


def _apply(plan: Plan, digest: str, inventory: Inventory, journal: Any, options: Mapping[str, Any]) -> int:
    from dogwatch.cli.fleet_carry import data_folder
    from dogwatch.cli.fleet_probes import gate_of
    from dogwatch.cli.fleet_progress import progress
    from dogwatch.fleet.book.own import own_book
    from dogwatch.fleet.plans.apply import Applier
    from dogwatch.fleet.plans.going import Goer, Going, exit_code, rollout_of
    from dogwatch.fleet.plans.journal import Line, states

    lines = journal.lines(touched=options["resume"] or options["roll_back"])
    applying = _applying(plan, digest, lines, inventory, options)
    before = states(lines) if options["resume"] else {}
    more = Going(
        inventory=inventory,
        more=login_variables(options),
        forks=options["forks"],
        batches=options["batch"],
        max_fail=options["max_fail"],
        only=_only(plan, inventory, options["targets"]),
        back=options["roll_back"],
    )
    for play in plan.plays:
        rollout_of(play, more)
    gate = gate_of(plan, inventory, options["server"], options["context"])
    what = "back" if options["roll_back"] else "begun"
    journal.add(
        Line(what=what, apply_id=applying.apply_id, plan=digest, at_s=time.time(), by=whoami())
        if not options["resume"]
        else Line(what="resumed", at_s=time.time(), by=whoami()),
        sync=True,
    )

    async def work(dialer: Dialer, interrupted: Interrupted) -> Any:
        applier = Applier(applying, journal)
        async with own_book(data_folder()) as book:
            note = _noting(book, plan, digest, applying, back=options["roll_back"])
            await note(None)  # no audit, no change
            with progress(len(plan.hosts)) as watcher:
                goer = Goer(plan, more, applier, journal, dialer, gate=gate, watcher=watcher, heed=interrupted.heed)
                went = await goer.go(before)
            await note(went)
        return went

    went, ended_by = with_dialer(options, work)
    if not ended_by and all(one.ok for one in went.done):
        journal.add(Line(what="over", at_s=time.time()), sync=True)
    if options["as_json"]:
        print_json(plain_done(went))
    else:
        tell_done(went, options["plan"])
    return 128 + ended_by if ended_by else exit_code(went.done)


def _noting(
    book: OwnBook, plan: Plan, digest: str, applying: Applying, *, back: bool
) -> Callable[[Went | None], Awaitable[None]]:
    """Return what writes an audit event: that it begins, and how it went."""
    from dogwatch.access.actor import Subject
    from dogwatch.cli.fleet_carry import this_actor
    from dogwatch.fleet.plans.going import told_hosts

    async def note(went: Went | None) -> None:
        about: dict[str, Any] = {"apply": applying.apply_id, "playbook": plan.playbook, "digest": digest}
        if went is not None:
            about["hosts"] = {state: hosts[:1000] for state, hosts in told_hosts(went.done).items()}
        well = went is None or all(one.ok for one in went.done)
        await book.note(
            this_actor(),
            "roll back" if back else "apply",
            Subject(noun="fleet-plan", name=plan.plan_id),
            outcome="begun" if went is None else "done" if well else "failed",
            reason="" if went is None else went.stopped,
            after=about,
        )

    return note


def _applying(
    plan: Plan, digest: str, lines: Sequence[Any], inventory: Inventory, options: Mapping[str, Any]
) -> Applying:
    """Return what is applied. Raises: Conflict where the journal says that something else must come first."""
    from dogwatch.fleet.operations import OPERATIONS
    from dogwatch.fleet.plans.apply import Applying
    from dogwatch.fleet.plans.driving import plan_secrets
    from dogwatch.fleet.plans.going import folders_of
    from dogwatch.fleet.plans.journal import unfinished

    begun = next((line for line in lines if line.what == "begun"), None)
    again = options["resume"] or options["roll_back"]
    if again and begun is None:
        raise NotFound("this plan was never applied from here", hint="without --resume it is applied")
    if begun is not None and again and begun.plan != digest:
        raise Conflict("the plan file is another than the one that was applied")
    if begun is not None and not again and unfinished(list(lines)) and begun.plan == digest:
        raise Conflict(
            "an apply of this plan was not finished", hint="--resume finishes the rest, --roll-back takes it back"
        )
    hosts = [host.host for host in plan.hosts]
    apply_id = begun.apply_id if again and begun is not None else secrets.token_hex(8)
    return Applying(
        apply_id=apply_id,
        salt=plan.salt,
        holder=f"apply {apply_id} of {whoami()}",
        plans={host.host: host for host in plan.hosts},
        secrets=plan_secrets(plan, inventory),
        operations=OPERATIONS,
        folders=folders_of(inventory, hosts),
        resume=options["resume"],
        timeout_s=options["timeout"],
    )


def _only(plan: Plan, inventory: Inventory, targets: tuple[str, ...]) -> frozenset[str] | None:
    if not targets:
        return None
    chosen = frozenset(chosen_hosts(inventory, targets))
    planned = {host.host for host in plan.hosts}
    if not chosen & planned:
        raise NotFound("no host of the plan is chosen")
    return chosen


@click.command("plans")
@click.argument("plan", required=False, metavar="[PLAN]")
@click.option("--drift", is_flag=True, help="Tell which hosts are not as the playbooks say, by the newest looks.")
@list_options("/api/v1/fleet/plans", limit=30)
@click.option("--no-diff", is_flag=True, help="Leave the diffs out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--server", envvar="DOGWATCH_SERVER", metavar="URL", help="The daemon that keeps them.")
@click.option("--context", envvar="DOGWATCH_CONTEXT", metavar="NAME", help="The daemon of this context.")
def plans(**options: Any) -> int:
    """List the plans of a daemon, or show one: what it changes where, and what came of it.

    \b
    Examples:
      dogwatch fleet plans --server https://dogwatch.example
      dogwatch fleet plans 0199f3
      dogwatch fleet plans --drift
    """
    from dogwatch.cli.fleet_plans_remote import tell_plans

    return tell_plans(options)


@click.command("drift")
@click.argument("playbook")
@click.option("--exit-code", is_flag=True, help="Exit with 4 where a host has wandered.")
@click.option("--diff", is_flag=True, help="Show what differs, line by line.")
@_VAR
@targets_option
@facts_option
@timeout_option
@server_options
@going
def drift(**options: Any) -> int:
    """Tell which hosts are not, or not any more, as a playbook says. Nothing is changed.

    \b
    Example:
      dogwatch fleet drift site.yaml --exit-code
    """
    if options["server"] or options["context"]:
        from dogwatch.cli.fleet_plans_remote import plan_remote

        return plan_remote(options, drift=True)
    plan, ended_by = _made(making_of(options), options)
    if options["as_json"]:
        print_json(plain_plan(plan, ""))
    else:
        tell_drift(plan, diff=options["diff"])
    return 128 + ended_by if ended_by else plan_exit_code(plan, pending=options["exit_code"])


@click.command("facts")
@click.argument("host", required=False)
@click.option("--refresh", is_flag=True, help="Gather them anew.")
@targets_option
@facts_option
@timeout_option
@going
def facts(**options: Any) -> int:
    """Show what hosts are: system, processors, memory, addresses. Gathered once, and kept for --facts-age.

    \b
    Examples:
      dogwatch fleet facts web01
      dogwatch fleet facts -t @web --json
    """
    from dogwatch.fleet.connection import Connection, Ended, HostFailed, State
    from dogwatch.fleet.login import Login
    from dogwatch.fleet.operations.state import CannotRead
    from dogwatch.fleet.plans.make import logins_of
    from dogwatch.fleet.run import FleetRun, Order

    inventory = inventory_of(options["paths"], options["sources"])
    targets = (options["host"],) if options["host"] else options["targets"]
    if not targets:
        raise UsageError("no host is named", hint="dogwatch fleet facts web01; or -t all")
    hosts = chosen_hosts(inventory, targets)
    source = facts_of({**options, "facts_age": 0.0 if options["refresh"] else options["facts_age"]}, options["timeout"])
    found: dict[str, Mapping[str, Any]] = {host: kept for host in hosts if (kept := source.kept(host)) is not None}
    failed: dict[str, str] = {}

    async def work(dialer: Dialer, interrupted: Interrupted) -> None:
        async def one(host: str, login: Login, connection: Connection) -> Ended:
            try:
                found[host] = await source.of(host, login, connection)
            except CannotRead as error:
                raise HostFailed(State.MISCONFIGURED, str(error), hint=error.hint) from None
            return Ended(state=State.SUCCEEDED)

        rest = [host for host in hosts if host not in found]
        logins = logins_of(rest, inventory, become=None, become_user="", more=login_variables(options))
        running = FleetRun(Order(script="", forks=options["forks"]), logins, dialer, work=one)
        interrupted.heed(running)
        failed.update((result.host, result.message or result.word) for result in await running.run() if not result.ok)

    ended_by = 0
    if len(found) < len(hosts):
        _, ended_by = with_dialer(options, work)
    if options["as_json"]:
        print_json({"hosts": {host: found[host] for host in hosts if host in found}, "failed": failed})
    else:
        tell_facts({host: found[host] for host in hosts if host in found}, failed)
    if ended_by:
        return 128 + ended_by
    return 0 if not failed else 3 if found else 1


def making_of(options: Mapping[str, Any]) -> Making:
    """Return what a plan is made of. Raises: UsageError, ConfigError with every mistake of the playbook."""
    try:
        from dogwatch.fleet.playbook.load import load_playbook
        from dogwatch.fleet.playbook.templates import Engine
    except ImportError:
        raise UsageError("playbooks are not installed here", hint="pip install 'dogwatch[fleet]'") from None
    from dogwatch.fleet.operations import OPERATIONS
    from dogwatch.fleet.plans.make import Making

    engine = Engine()
    playbook = load_playbook(Path(options["playbook"]), OPERATIONS, engine)
    return Making(
        playbook=playbook,
        inventory=inventory_of(options["paths"], options["sources"]),
        engine=engine,
        operations=OPERATIONS,
        facts=facts_of(options, options["timeout"]),
        environ=dict(os.environ),
        targets=joined_targets(options["targets"]),
        extra=variables_of(options["variables"]),
        more=login_variables(options),
        forks=options["forks"],
        timeout_s=options["timeout"],
        made_by=whoami(),
    )


def variables_of(settings: Sequence[str]) -> dict[str, Any]:
    """Return the variables of --var; a value that is YAML for a number, a list and the like is that."""
    import yaml

    found: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name.isidentifier():
            raise UsageError(f"--var '{setting}' is not NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError:
            found[name] = value
    return found


def _made(making: Making, options: Mapping[str, Any]) -> tuple[Plan, int]:
    from dogwatch.cli.fleet_progress import progress
    from dogwatch.fleet.plans.make import hosts_of, make_plan

    count = sum(len(hosts) for hosts in hosts_of(making).values())
    if not count:
        raise NotFound("no host is chosen", hint="`dogwatch fleet list` shows what there is")

    async def work(dialer: Dialer, interrupted: Interrupted) -> Plan:
        with progress(count) as watcher:
            return await make_plan(making, dialer, watcher=watcher, heed=interrupted.heed)

    return with_dialer(options, work)


def plan_exit_code(plan: Plan, *, pending: bool) -> int:
    """Return 0 where every host can be changed, 3 where some cannot, 1 where none can; 4 as --exit-code asks."""
    bad = sum(bool(host.problems) for host in plan.hosts) + sum(len(play.unread) for play in plan.plays)
    good = sum(not host.problems for host in plan.hosts)
    if bad:
        return 3 if good else 1
    return 4 if pending and any(host.changes for host in plan.hosts) else 0


def _origin(making: Making, options: Mapping[str, Any]) -> int:
    from dogwatch.fleet.plans.make import hosts_of
    from dogwatch.fleet.playbook.expand import read_secrets, scope_of

    host = options["origin"]
    for at, hosts in hosts_of(making).items():
        if host in hosts:
            play = making.playbook.plays[at]
            hidden = read_secrets(play.secrets, making.playbook.folder, making.environ)
            scope = scope_of(
                play, making.inventory, host, making.engine, secrets=hidden, extra=making.extra, facts=None
            )
            tell_origin(host, scope, as_json=options["as_json"])
            return 0
    raise NotFound(f"{host} is not among the hosts of {options['playbook']}")
