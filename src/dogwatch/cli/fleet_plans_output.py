"""How plans and applies are shown: equal changes once, under the folded names of their hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.output import indented, one_line, print_json, print_table
from dogwatch.core.units import format_size

if TYPE_CHECKING:
    from dogwatch.fleet.plans.going import Went
    from dogwatch.fleet.plans.plan import HostPlan, Plan
    from dogwatch.fleet.playbook.expand import Scope

_COLOURS = {"applied": "green", "unchanged": "green", "rolled back": "green", "not started": "bright_black"}
_MASK = "(hidden)"


def tell_plan(plan: Plan, *, diff: bool, output: str) -> None:
    """Print what would be changed where."""
    from dogwatch.fleet.inventory.ranges import fold

    for play in plan.plays:
        groups: dict[Any, list[HostPlan]] = {}
        for host in play.hosts:
            groups.setdefault(_same(host), []).append(host)
        for members in sorted(groups.values(), key=lambda one: (bool(one[0].problems), not one[0].changes)):
            first = members[0]
            names = click.style(fold(host.host for host in members), bold=True)
            many = f" ({len(members)} hosts)" if len(members) > 1 else ""
            if first.problems:
                click.echo(f"{names}{many}: {click.style('cannot be planned', fg='red')}")
                for problem in first.problems:
                    click.echo(indented(problem))
            elif first.changes:
                click.echo(f"{names}{many}: {click.style(_count(first), fg='yellow')}")
                _changes(first, diff)
            else:
                click.echo(f"{names}{many}: {click.style('nothing to do', fg='green')}, {first.total} operations")
        _unread(play.unread)
    pending = sum(host.changes for host in plan.hosts)
    click.echo(f"\n{pending} of {len(plan.hosts)} hosts would be changed")
    if output:
        click.echo(f"written to {output}: dogwatch fleet apply {output}")


def tell_drift(plan: Plan, *, diff: bool) -> None:
    """Print which hosts are not as the playbook says."""
    rows = []
    for host in plan.hosts:
        if host.problems:
            rows.append((host.host, click.style("cannot be told", fg="red"), host.problems[0]))
        elif host.changes:
            rows.append((host.host, click.style("wandered", fg="yellow"), ", ".join(item.name for item in host.items)))
    rows += [
        (name, click.style("not read", fg="red"), told) for play in plan.plays for name, told in play.unread.items()
    ]
    if rows:
        print_table(("HOST", "STATE", "WHAT"), [(name, state, one_line(what)) for name, state, what in rows], cut=(2,))
    if diff:
        for host in plan.hosts:
            if host.changes:
                click.echo(f"\n{click.style(host.host, bold=True)}")
                _changes(host, diff=True)
    well = sum(not host.problems and not host.changes for host in plan.hosts)
    click.echo(
        f"{well} of {len(plan.hosts) + sum(len(play.unread) for play in plan.plays)} hosts are as they should be"
    )


def tell_done(went: Went, plan: str) -> None:
    """Print what became of each host."""
    from dogwatch.fleet.inventory.ranges import fold

    states: dict[tuple[str, str], list[str]] = {}
    for one in sorted(went.done, key=lambda one: not one.ok):
        states.setdefault((one.state, one.message), []).append(one.host)
    rows, below = [], []
    for (state, message), hosts in states.items():
        rows.append((click.style(state, fg=_COLOURS.get(state, "red")), str(len(hosts)), fold(hosts)))
        below.append(message)
    print_table(("STATE", "HOSTS", "WHICH"), rows, cut=(2,), below=below)
    if went.stopped:
        click.echo(click.style(f"stopped: {went.stopped}", fg="yellow"))
    if any(not one.ok for one in went.done):
        click.echo(f"finish the rest: dogwatch fleet apply {plan} --resume; take it back: --roll-back")


def tell_facts(found: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> None:
    """Print facts: all of one host, a line for each of many."""
    if len(found) == 1 and not failed:
        for host, facts in found.items():
            click.echo(click.style(host, bold=True))
            for name, value in facts.items():
                told = ", ".join(map(str, value)) if isinstance(value, list) else value
                told = "; ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else told
                told = format_size(value) if name.endswith("_bytes") else told
                click.echo(f"  {name:<16}{one_line(str(told))}")
        return
    rows = [
        (
            host,
            one_line(str(facts["os"]["name"] or facts["kernel"])),
            str(facts["cpus"]),
            format_size(facts["memory_bytes"]),
            one_line(", ".join(facts["ipv4"][:2])) or "-",
        )
        for host, facts in found.items()
    ]
    rows += [(host, click.style("not read", fg="red"), "", "", one_line(told)) for host, told in failed.items()]
    print_table(("HOST", "SYSTEM", "CPUS", "MEMORY", "ADDRESSES"), rows, cut=(4, 1))


def tell_origin(host: str, scope: Scope, *, as_json: bool) -> None:
    """Print a host's variables in a play, and where each comes from; the strongest has won."""
    from dogwatch.errors import DogwatchError
    from dogwatch.fleet.login import SECRET_WORDS

    rows = []
    for name, origin in sorted(scope.origin.items()):
        try:
            value: Any = scope.values[name]
        except DogwatchError as error:
            value = f"(cannot be filled in: {error})"
        hidden = name in scope.secrets or SECRET_WORDS.search(name)
        rows.append((name, _MASK if hidden else value, origin))
    if as_json:
        print_json(
            {"host": host, "variables": {name: {"value": value, "from": origin} for name, value, origin in rows}}
        )
        return
    print_table(
        ("VARIABLE", "VALUE", "FROM"), [(name, one_line(str(value)), origin) for name, value, origin in rows], cut=(1,)
    )


def plain_plan(plan: Plan, output: str) -> dict[str, Any]:
    """Return a plan for --json: what changes, without contents and secrets."""
    return {
        "plan_id": plan.plan_id,
        "playbook": plan.playbook,
        "output": output,
        "hosts": [
            {
                "host": host.host,
                "problems": list(host.problems),
                "operations": host.total,
                "changes": [
                    {
                        "name": item.name,
                        "kind": item.kind,
                        "handler": item.handler,
                        "later": item.later,
                        "steps": [{"title": step.title, "diff": step.diff} for step in item.steps],
                    }
                    for item in host.items
                ],
            }
            for host in plan.hosts
        ],
        "unread": {name: told for play in plan.plays for name, told in play.unread.items()},
    }


def plain_done(went: Went) -> dict[str, Any]:
    """Return an apply for --json."""
    return {
        "hosts": [
            {
                "host": one.host,
                "state": one.state.replace(" ", "_"),
                "message": one.message,
                "changed": list(one.changed),
            }
            for one in went.done
        ],
        "stopped": went.stopped,
    }


def _same(host: HostPlan) -> Any:
    shown = tuple(
        (item.name, item.handler, item.later, tuple((step.title, step.diff) for step in item.steps))
        for item in host.items
    )
    return host.problems, host.total, shown


def _count(host: HostPlan) -> str:
    later = sum(bool(item.later) for item in host.items)
    told = f"{host.steps} {'change' if host.steps == 1 else 'changes'}"
    return f"{told}, {later} decided on the way" if later else told


def _changes(host: HostPlan, diff: bool) -> None:
    for item in host.items:
        mark = "handler " if item.handler else ""
        click.echo(f"  {mark}{click.style(one_line(item.name), bold=True)}")
        if item.later:
            click.echo(f"    ? decided when '{one_line(item.later)}' is done")
        for step in item.steps:
            click.echo(f"    {click.style('~', fg='yellow')} {one_line(step.title)}")
            for line in step.diff.splitlines() if diff else ():
                colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
                click.echo(f"        {click.style(one_line(line.expandtabs()), fg=colour)}")


def _unread(unread: Mapping[str, str]) -> None:
    from dogwatch.fleet.inventory.ranges import fold

    words: dict[str, list[str]] = {}
    for host, told in unread.items():
        words.setdefault(told, []).append(host)
    for told, hosts in words.items():
        click.echo(f"{click.style(fold(hosts), bold=True)}: {click.style('not read', fg='red')}")
        click.echo(indented(told))
