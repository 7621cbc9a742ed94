"""How the results of a command over the fleet are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dogwatch.cli.output import indented, one_line, print_json, print_table

if TYPE_CHECKING:
    from dogwatch.fleet.results import Gathered, HostResult

_COLOURS = {"succeeded": "green", "cancelled": "yellow", "not started": "bright_black"}


def tell(results: Sequence[HostResult], reason: str, *, as_json: bool, diff: bool) -> None:
    """Print the results: groups of equal output and a table, or one JSON object."""
    from dogwatch.fleet.results import counts, differences, gather

    if as_json:
        print_json({"hosts": [_plain(one) for one in results], "summary": counts(results), "stopped": reason})
        return
    groups = gather(results)
    if diff:
        for group in groups[-1:] if len(groups) == 1 else [max(groups, key=lambda one: len(one.hosts))]:
            _group(group)
        for _, lines in differences(groups):
            for line in lines:
                colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
                click.echo(click.style(one_line(line), fg=colour))
    else:
        for group in sorted(groups, key=lambda one: not one.sample.ok):
            if group.sample.stdout or group.sample.stderr or group.sample.message:
                _group(group)
    _summary(results)
    if reason:
        click.echo(click.style(f"stopped: {reason}", fg="yellow"))


def _group(group: Gathered) -> None:
    sample = group.sample
    many = f" ({len(group.hosts)} hosts)" if len(group.hosts) > 1 else ""
    colour = _COLOURS.get(str(sample.state), "red")
    click.echo(f"{click.style(group.names, bold=True)}{many}: {click.style(sample.word, fg=colour)}")
    if sample.message:
        click.echo(indented(sample.message))
    if sample.hint:
        click.echo(indented(f"hint: {sample.hint}"))
    for mark, data in (("", sample.stdout), ("! ", sample.stderr)):
        for line in data.decode(errors="replace").splitlines():
            click.echo(f"    {click.style(mark, fg='red')}{one_line(line.expandtabs())}")
    if sample.cut:
        click.echo(click.style(f"    output cut: {sample.cut} bytes were not kept", fg="yellow"))
    click.echo()


def _summary(results: Sequence[HostResult]) -> None:
    from dogwatch.fleet.inventory.ranges import fold

    states: dict[str, list[HostResult]] = {}
    for one in sorted(results, key=lambda one: not one.ok):
        states.setdefault(one.word, []).append(one)
    print_table(
        ("STATE", "HOSTS", "SLOWEST", "WHICH"),
        [
            (
                click.style(word, fg=_COLOURS.get(str(members[0].state), "red")),
                str(len(members)),
                f"{max(one.connect_s + one.run_s for one in members):.1f} s",
                fold(one.host for one in members),
            )
            for word, members in states.items()
        ],
        cut=(3,),
    )


def _plain(one: HostResult) -> dict[str, Any]:
    return {
        "host": one.host,
        "state": str(one.state).replace(" ", "_").replace("-", "_"),
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
