"""`dogwatch fleet inspect`: look at many hosts without an agent, and tell what is wrong with which."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dogwatch.cli.durations import Duration
from dogwatch.cli.fleet_common import reaching
from dogwatch.cli.output import one_line, print_json, print_table, width
from dogwatch.errors import NotFound, UsageError
from dogwatch.inspection.script import TITLE

if TYPE_CHECKING:
    from dogwatch.fleet.results import HostResult
    from dogwatch.inspection.judging import Finding, Limits
    from dogwatch.inspection.reading import Reading


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one host. reading: None where it could not be looked at."""

    result: HostResult
    reading: Reading | None
    findings: list[Finding]
    at_s: float


class Share(click.ParamType[float]):
    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            number = float(str(value).removesuffix("%")) / (100 if str(value).endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            self.fail(f"'{value}' is no share; write 85%", param, ctx)
        return number


@click.command(short_help="Look at disks, memory, services, certificates, updates… without an agent.")
@click.option("--check-only", "checks", multiple=True, metavar="CHECK", help="Only this check; may be repeated.")
@click.option(
    "--disk", "disk_ratio", default="85%", show_default=True, type=Share(), help="A disk or its inodes above."
)
@click.option("--memory", "memory_ratio", default="95%", show_default=True, type=Share(), help="Memory above.")
@click.option("--load", default=2.0, show_default=True, help="Load by core above.")
@click.option("--offset", "offset_s", default="1s", show_default=True, type=Duration(), help="A clock further off.")
@click.option(
    "--expires", "certificate_s", default="14d", show_default=True, type=Duration(), help="A certificate within."
)
@click.option("--certificate", "certificates", multiple=True, metavar="PATTERN", help="Look at certificates there.")
@click.option("--where", default="", metavar="CEL", help="Only hosts for which this holds: 'disk_used_ratio > 0.85'.")
@click.option("--table", is_flag=True, help="One line for each host.")
@click.option("--again", metavar="RUN", help="Judge what was seen then; look at nothing now.")
@click.option("--server", metavar="URL", help="Have this daemon look, at its own inventory.")
@click.option("--context", metavar="NAME", help="Have the daemon of this context look.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 where something serious was found.")
@reaching
def inspect(**options: Any) -> int:
    """Look at many hosts by one command on each, and tell what is wrong where.

    Disks, memory, load, clock, failed services, certificates in files, waiting
    updates, reboots and errors in the log. Exits with 0 where all hosts were
    looked at, 3 where some could not be, 1 where none could.

    \b
    Checks: time, load, memory, disk, services, packages, reboot, errors,
    certificates.

    \b
    Examples:
      dogwatch fleet inspect -t all --disk 85%
      dogwatch fleet inspect -t @web --where 'security_updates > 0' --table
      dogwatch fleet inspect --again 0199f3 --disk 70%
    """
    from dogwatch.fleet.results import exit_code

    condition = _condition(options["where"])
    run_id, results, ended_by = _kept(options) if options["again"] else _looked(options)
    if results is None:
        return 128 + ended_by if ended_by else 0
    limits = _limits(options)
    looks = [look_of(one, limits) for one in results]
    shown = [one for one in looks if condition is None or _holds(condition, one)]
    if options["as_json"]:
        blind = [one.result.host for one in looks if one.reading is None]
        print_json({**plain(run_id, shown), "not_reached": blind})
    elif options["table"] or condition is not None:
        _table(shown, looks)
    else:
        where = f" --server {options['server']}" if options["server"] else ""
        _report(shown, f"{run_id}{where}")
    if ended_by:
        return 128 + ended_by
    serious = any(finding.serious for one in looks for finding in one.findings)
    return exit_code(results) or (1 if options["exit_code"] and serious else 0)


def _looked(options: Mapping[str, Any]) -> tuple[str, list[HostResult] | None, int]:
    from dogwatch.cli.fleet_carry import Deed, gather_results
    from dogwatch.inspection.script import CERTIFICATES, CHECKS, inspection_script

    script = inspection_script(options["checks"] or CHECKS, options["certificates"] or CERTIFICATES)
    if options["server"] or options["context"]:
        from dogwatch.cli.fleet_remote import run_remote, start_remote

        if options["only_check"]:
            run_remote(options, command=script.partition("\n")[0], env={})
            return "", None, 0
        ended = start_remote(options, command=script, env={})
        return (ended.run, None, 2) if ended.left else (ended.run, ended.results, 0)
    what = f"inspection of {', '.join(options['checks'] or ['everything'])}"
    carried = gather_results(Deed(kind="inspect", what=what, script=script), options)
    if carried is None:
        return "", None, 0
    return str(carried.key), carried.results, carried.ended_by


def _kept(options: Mapping[str, Any]) -> tuple[str, list[HostResult] | None, int]:
    """Return what was seen in a run. Raises: NotFound, UsageError."""
    given = options["again"]
    if options["server"] or options["context"]:
        from dogwatch.cli.fleet_remote import results_of

        run_id, what, results = results_of(options, given)
    else:
        run_id, what, results = _own_results(given)
    if not what.startswith(("inspection of ", TITLE)):
        raise UsageError(f"fleet run {run_id} was no inspection", hint=f"it was: {one_line(what)}")
    if not results:
        raise NotFound(f"fleet run {run_id} has looked at no host")
    return run_id, results, 0


def _own_results(given: str) -> tuple[str, str, list[HostResult]]:
    import asyncio

    from dogwatch.cli.fleet_carry import data_folder
    from dogwatch.fleet.book.own import own_book

    async def look() -> tuple[str, str, list[HostResult]]:
        async with own_book(data_folder(), make=False) as book:
            row = await book.show(await book.resolve(given))
            found = [one.result for one in await book.hosts(row.key) if one.result is not None]
            return str(row.key), row.what, found

    return asyncio.run(look())


def _limits(options: Mapping[str, Any]) -> Limits:
    from dogwatch.inspection.judging import Limits

    names = ("disk_ratio", "memory_ratio", "load", "offset_s", "certificate_s")
    return Limits(**{name: options[name] for name in names})


def look_of(result: HostResult, limits: Limits) -> Look:
    from dogwatch.fleet.connection import State
    from dogwatch.fleet.inspecting import reading_of
    from dogwatch.inspection.judging import judge

    if result.state not in (State.SUCCEEDED, State.NON_ZERO):
        return Look(result=result, reading=None, findings=[], at_s=0.0)
    reading, at_s = reading_of(result)
    return Look(result=result, reading=reading, findings=judge(reading, limits, at_s or time.time()), at_s=at_s)


def _condition(text: str) -> Any:
    if not text:
        return None
    from dogwatch.expressions.cel_syntax import ConditionError
    from dogwatch.expressions.conditions import compile_condition
    from dogwatch.inspection.reading import VARIABLES

    try:
        return compile_condition(text, VARIABLES)
    except ConditionError as error:
        raise UsageError(f"--where: {error}", hint=f"known: {', '.join(VARIABLES)}") from None


def _holds(condition: Any, one: Look) -> bool:
    return one.reading is not None and bool(condition.test(one.reading.values(one.at_s or time.time())))


def _report(looks: Sequence[Look], run_id: str) -> None:
    from dogwatch.fleet.inventory.ranges import fold

    seen = [one for one in looks if one.reading is not None]
    blind = [one for one in looks if one.reading is None]
    bad = [one for one in seen if any(finding.serious for finding in one.findings)]
    told = f"{len(seen)} host{'' if len(seen) == 1 else 's'} looked at, {len(bad)} with something serious"
    click.echo(click.style(told + (f", {len(blind)} not reached" if blind else ""), bold=True))
    groups: dict[tuple[bool, str], list[tuple[str, str]]] = {}
    for one in seen:
        for finding in one.findings:
            groups.setdefault((not finding.serious, finding.what), []).append((one.result.host, finding.message))
    for (minor, what), members in sorted(groups.items()):
        hosts = dict.fromkeys(host for host, _ in members)
        colour = "yellow" if minor else "red"
        click.echo(f"\n{click.style(what, fg=colour)}: {len(hosts)} host{'' if len(hosts) == 1 else 's'}")
        same: dict[str, list[str]] = {}
        for host, message in members:
            same.setdefault(message, []).append(host)
        _lines([(fold(names), one_line(text)) for text, names in same.items()])
    if blind:
        click.echo(f"\n{click.style('not reached', fg='red')}: {len(blind)} host{'' if len(blind) == 1 else 's'}")
        _lines([(one.result.host, f"{one.result.word}: {one_line(one.result.message)}") for one in blind])
    unknown: dict[str, list[str]] = {}
    for one in seen:
        for check, why in (one.reading.missing if one.reading is not None else {}).items():
            unknown.setdefault(f"{check}: {why}", []).append(one.result.host)
    if unknown:
        click.echo("\nnot known")
        for why, names in unknown.items():
            click.echo(f"  {one_line(why)}: {fold(names)}")
    click.echo(f"\nwith other limits: dogwatch fleet inspect --again {run_id}", err=True)


def _lines(rows: Sequence[tuple[str, str]]) -> None:
    """Print hosts and what is said of them, cut to the screen."""
    room = width() or 10_000
    names = min(max(len(name) for name, _ in rows), max(8, room // 3))
    for name, text in rows:
        shown = name if len(name) <= names else f"{name[: names - 1]}…"
        left = room - names - 4
        click.echo(f"  {shown:<{names}}  {text if len(text) <= left else text[: left - 1] + '…'}")


def _table(looks: Sequence[Look], of: Sequence[Look]) -> None:
    """Print those that were asked for, and which others nothing is known of."""
    rows = []
    for one in sorted(looks, key=lambda look: -len(look.findings)):
        if one.reading is None:
            rows.append((one.result.host, *["-"] * 8, one.result.word))
            continue
        values = one.reading.values(one.at_s or time.time())
        rows.append(
            (
                one.result.host,
                _share(values["disk_used_ratio"]),
                _share(values["memory_used_ratio"]),
                f"{values['load_per_core']:.1f}" if values["load_per_core"] >= 0 else "-",
                f"{values['time_offset_s']:.1f}",
                _number(values["services_failed"]),
                _number(values["security_updates"]),
                "yes" if values["reboot_required"] else "no",
                "-"
                if values["certificate_expires_in_s"] == -1
                else f"{values['certificate_expires_in_s'] / 86400:.0f} d",
                "; ".join(one_line(finding.what) for finding in one.findings),
            )
        )
    if rows:
        headers = ("HOST", "DISK", "MEM", "LOAD", "CLOCK", "FAILED", "SEC", "REBOOT", "CERT", "FINDINGS")
        print_table(headers, rows, cut=(9, 0))
    click.echo(f"{len(rows)} of {len(of)} hosts")
    blind = [one for one in of if one.reading is None and one not in looks]
    if blind:
        click.echo(f"\n{click.style('not reached', fg='red')}: {len(blind)} host{'' if len(blind) == 1 else 's'}")
        _lines([(one.result.host, f"{one.result.word}: {one_line(one.result.message)}") for one in blind])


def _share(value: float) -> str:
    return "-" if value < 0 else f"{value:.0%}"


def _days(value_s: float) -> str:
    return "-" if value_s == -1 else f"{value_s / 86400:.0f} d"


def _number(value: int) -> str:
    return "-" if value < 0 else str(value)


def plain(run_id: str, looks: Sequence[Look]) -> dict[str, Any]:
    """Return the report for programs."""
    return {
        "run": run_id,
        "hosts": [
            {
                "host": one.result.host,
                "state": str(one.result.state).replace(" ", "_").replace("-", "_"),
                "message": one.result.message,
                "looked_at_s": one.at_s or None,
                "values": None if one.reading is None else one.reading.values(one.at_s or time.time()),
                "reading": None if one.reading is None else msgspec.to_builtins(one.reading),
                "findings": [msgspec.to_builtins(finding) for finding in one.findings],
            }
            for one in looks
        ],
    }
