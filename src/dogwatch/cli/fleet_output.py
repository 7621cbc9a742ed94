"""How the results of a command over the fleet are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.output import indented, one_line, print_json, print_table

if TYPE_CHECKING:
    from dogwatch.fleet.results import Gathered, HostResult

_COLOURS = {
    "succeeded": "green",
    "cancelled": "yellow",
    "not started": "bright_black",
    "running": "blue",
    "waiting": "bright_black",
}

# So many messages of hosts that ended alike are told: keys of hosts, above all, which are compared one by one.
_MESSAGES = 50


def tell(results: Sequence[HostResult], reason: str, *, run_id: str, as_json: bool, diff: bool) -> None:
    """Print the results: groups of equal output and a table, or one JSON object."""
    from dogwatch.fleet.results import counts

    if as_json:
        plain = [plain_result(one) for one in results]
        summary = {_plain_state(state): count for state, count in counts(results).items()}
        print_json({"run": run_id, "hosts": plain, "summary": summary, "stopped": reason})
        return
    show_results(results, diff=diff)
    if reason:
        click.echo(click.style(f"stopped: {one_line(reason)}", fg="yellow"))
    _next(results, run_id)


def show_results(results: Sequence[HostResult], *, diff: bool) -> None:
    """Print groups of equal output, or how they differ from the largest one, and a table."""
    from dogwatch.fleet.results import differences, gather

    groups = gather(results)
    if diff:
        usual = max(groups, key=lambda one: len(one.hosts), default=None)
        for group in groups:
            # Where a command did not run there is no output that could differ.
            if group is usual or group.sample.message:
                _group(group)
        for _, lines in differences(groups):
            for line in lines:
                colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
                click.echo(click.style(one_line(line), fg=colour))
    else:
        for group in sorted(groups, key=lambda one: not one.sample.ok):
            if group.sample.stdout or group.sample.stderr or group.sample.message:
                _group(group)
    if results:
        show_states([(one.host, one, str(one.state)) for one in results])


def _next(results: Sequence[HostResult], run_id: str) -> None:
    """Say how to go on where not all went well."""
    from dogwatch.fleet.book.values import OPEN_STATES

    if any(one.state in OPEN_STATES for one in results):
        click.echo(f"go on: dogwatch fleet run --resume {run_id}", err=True)
    if any(not one.ok and one.state not in OPEN_STATES for one in results):
        click.echo(f"again where it failed: dogwatch fleet run --retry-failed {run_id}", err=True)


def _group(group: Gathered) -> None:
    sample = group.sample
    many = f" ({len(group.hosts)} hosts)" if len(group.hosts) > 1 else ""
    colour = _COLOURS.get(str(sample.state), "red")
    click.echo(f"{click.style(group.names, bold=True)}{many}: {click.style(sample.word, fg=colour)}")
    for message in group.messages[:_MESSAGES]:
        click.echo(indented(message))
    if len(group.messages) > _MESSAGES:
        click.echo(f"    … and {len(group.messages) - _MESSAGES} more; --json tells all")
    if sample.hint:
        click.echo(indented(f"hint: {sample.hint}"))
    for mark, data in (("", sample.stdout), ("! ", sample.stderr)):
        for line in data.decode(errors="replace").splitlines():
            click.echo(f"    {click.style(mark, fg='red')}{one_line(line.expandtabs())}")
    if sample.cut:
        click.echo(click.style(f"    output cut: {sample.cut} bytes were not kept", fg="yellow"))
    click.echo()


def show_states(hosts: Sequence[tuple[str, HostResult | None, str]]) -> None:
    """Print a table of how hosts ended, each (name, result, state); those that have not ended are told as they are."""
    from dogwatch.fleet.inventory.ranges import fold

    states: dict[str, list[tuple[str, HostResult | None]]] = {}
    for name, result, state in sorted(hosts, key=lambda one: one[1] is None or not one[1].ok):
        states.setdefault(state if result is None else result.word, []).append((name, result))
    rows = []
    for word, members in states.items():
        first = members[0][1]
        slowest = max((one.connect_s + one.run_s for _, one in members if one is not None), default=None)
        rows.append(
            (
                click.style(word, fg=_COLOURS.get(word if first is None else str(first.state), "red")),
                str(len(members)),
                "-" if slowest is None else f"{slowest:.1f} s",
                fold(name for name, _ in members),
            )
        )
    print_table(("STATE", "HOSTS", "SLOWEST", "WHICH"), rows, cut=(3,))


def _plain_state(state: str) -> str:
    return state.replace(" ", "_").replace("-", "_")


def plain_result(one: HostResult) -> dict[str, Any]:
    return {
        "host": one.host,
        "state": _plain_state(str(one.state)),
        "exit_code": one.exit_code,
        "signal": one.signal,
        "stdout": one.stdout.decode(errors="replace"),
        "stderr": one.stderr.decode(errors="replace"),
        "output_cut_bytes": one.cut,
        "message": one.message,
        "hint": one.hint,
        "batch": one.batch,
        "connect_s": round(one.connect_s, 6),
        "run_s": round(one.run_s, 6),
    }
