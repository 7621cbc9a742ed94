"""`dogwatch probe run`."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from dogwatch.cli.adhoc import is_ad_hoc, parse
from dogwatch.cli.client import Client, json_option, server_option, target_path
from dogwatch.cli.durations import Duration
from dogwatch.cli.names import complete_names
from dogwatch.cli.output import milliseconds, one_line, print_json, print_table
from dogwatch.errors import Unreachable, UsageError

_PHASES = ("resolve_s", "connect_s", "tls_s", "first_byte_s", "transfer_s")
# Shorter runs end before anybody has read a line of progress.
_QUIET_S = 1.0


@click.command()
@click.argument("targets", nargs=-1, required=True, shell_complete=complete_names)
@click.option("--timeout", type=Duration(), default=5.0, show_default="5s", help="Bound of one attempt.")
@click.option("--expect", metavar="CEL", help="What must be true, such as 'status == 200'.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 10_000), help="Attempts at each target.")
@click.option("--interval", type=Duration(), default=1.0, show_default="1s", help="Time between attempts at a target.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set an option of the probe kind.")
@click.option("--forks", default=50, show_default=True, type=click.IntRange(1, 1000), help="Attempts at once.")
@server_option
@json_option
def run(
    client: Client,
    targets: tuple[str, ...],
    timeout: float,
    expect: str | None,
    count: int,
    interval: float,
    settings: tuple[str, ...],
    forks: int,
    as_json: bool,
) -> int:
    """Probe URLs right here, or a configured target through the daemon.

    A target is a URL (https://…, wss://…), kind://address (tcp://db-1:5432,
    icmp://10.0.0.1, dns://8.8.8.8/example.org?type=MX, tls://host:443,
    grpcs://host:443/service, docker://container, 'exec://date +%s'), host:port,
    or the name of a configured probe. Options are those of the configuration.

    Exits with 0 when all attempts succeeded, 1 when all failed, 3 when some did.

    \b
    Examples:
      dogwatch probe run https://example.org/ --expect 'tls_days_left > 14.0'
      dogwatch probe run db-1:5432 icmp://gateway --count 5 --interval 200ms
      dogwatch probe run https://10.0.0.5/ --set tls.verify=false --json
    """
    from dogwatch.cli.once import Pace, build_all, probe_all
    from dogwatch.probes.kinds import PROBES

    typed = _typed(settings, expect)
    jobs = []
    for text in targets:
        if is_ad_hoc(text):
            job = parse(text, PROBES)
            jobs.append(msgspec.structs.replace(job, typed={**job.typed, **typed}))
    build_all(jobs)
    names = [text for text in targets if not is_ad_hoc(text)]
    if names and typed:
        raise UsageError(f"'{names[0]}' is a configured probe: --set and --expect are for addresses typed here")
    _find(client, names)
    pace = Pace(count=count, interval_s=interval, timeout_s=timeout, forks=forks)
    results = _Results(total=len(targets) * count, quiet=as_json or not sys.stderr.isatty())
    stopped = False
    try:
        if jobs:
            asyncio.run(_with_progress(probe_all(jobs, pace, results.add), results))
        _ask_daemon(client, names, pace, results, first=len(jobs))
    except KeyboardInterrupt:
        stopped = True
    results.clear()
    rows = results.rows()
    if as_json:
        print_json(rows)
    elif rows:
        _print_results(rows)
        if count > 1:
            _print_summaries(results)
    if stopped:
        return 130
    failed = sum(not row["success"] for row in rows)
    return 0 if not failed else 1 if failed == len(rows) else 3


class _Results:
    """What was found so far, by target, and the line of progress on a terminal."""

    def __init__(self, *, total: int, quiet: bool) -> None:
        self.by_target: dict[int, list[dict[str, Any]]] = {}
        self._total = total
        self._quiet = quiet
        self._started_s = time.monotonic()
        self._shown = False

    def add(self, index: int, row: dict[str, Any]) -> None:
        self.by_target.setdefault(index, []).append(row)
        self.show()

    def rows(self) -> list[dict[str, Any]]:
        """Return every result, target by target as they were typed within their sort."""
        return [row for _index, rows in sorted(self.by_target.items()) for row in rows]

    def show(self) -> None:
        if self._quiet or time.monotonic() - self._started_s < _QUIET_S:
            return
        rows = self.rows()
        failed = sum(not row["success"] for row in rows)
        text = f"{len(rows)}/{self._total} attempts" + (f", {failed} failed" if failed else "")
        click.echo(f"\r{text}\x1b[K", nl=False, err=True)
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)


async def _with_progress(work: Any, results: _Results) -> None:
    async def tell() -> None:
        while True:
            await asyncio.sleep(0.2)
            results.show()

    teller = asyncio.create_task(tell())
    try:
        await work
    finally:
        teller.cancel()


def _typed(settings: Sequence[str], expect: str | None) -> dict[str, str]:
    typed = {"expect": expect} if expect else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: write it as KEY=VALUE", hint="such as --set tls.verify=false")
        typed[key] = value
    return typed


def _find(client: Client, names: Sequence[str]) -> None:
    """Ask the daemon for every name before anything is run."""
    for name in names:
        try:
            client.get(target_path(name))
        except Unreachable as error:
            others = "" if "/" in name else f", {name}:443 or icmp://{name}"
            raise Unreachable(
                f"'{name}' is not an address, so it must be a configured probe, but: {error}",
                hint=f"write an address such as https://{name}{others}, or {error.hint}",
            ) from None


def _ask_daemon(client: Client, names: Sequence[str], pace: Any, results: _Results, *, first: int) -> None:
    started_s = time.monotonic()
    for number in range(pace.count if names else 0):
        time.sleep(max(0.0, started_s + number * pace.interval_s - time.monotonic()))
        for index, name in enumerate(names):
            results.add(first + index, {"target": name, **client.post(f"{target_path(name)}/run")})


def _print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    with_phases = any(row.get("phases") for row in rows)
    headers = ["RESULT", "TARGET", "TOOK", *(["DNS", "TCP", "TLS", "WAIT", "READ"] if with_phases else [])]
    lines = []
    for row in rows:
        mark = click.style("✔ ok", fg="green") if row["success"] else click.style("✖ failed", fg="red")
        phases = row.get("phases") or {}
        columns = [f"{phases.get(phase, 0.0) * 1000:.1f}" for phase in _PHASES] if with_phases else []
        lines.append([mark, one_line(row["target"]), milliseconds(row["duration_s"]), *columns])
    print_table(headers, lines, cut=(1,), below=[row["message"] or row["reason"] for row in rows])
    if with_phases:
        click.echo(click.style("phases in milliseconds", dim=True))


def _print_summaries(results: _Results) -> None:
    click.echo()
    for _index, rows in sorted(results.by_target.items()):
        name = one_line(rows[0]["target"])
        click.echo(name if len(name) <= 80 else f"{name[:79]}…")
        click.echo(f"    {summary(rows)}")


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many attempts succeeded, and how long those took: min/median/p95/max."""
    took = sorted(row["duration_s"] * 1000 for row in rows if row["success"])
    text = f"{len(rows)} attempt{'s' if len(rows) != 1 else ''}, {len(took)} ok, {len(rows) - len(took)} failed"
    if not took:
        return text
    p95 = took[max(0, -(-95 * len(took) // 100) - 1)]
    figures = "/".join(f"{one:.1f}" for one in (took[0], statistics.median(took), p95, took[-1]))
    return f"{text}; min/median/p95/max {figures} ms"
