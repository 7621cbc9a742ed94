"""`dogwatch backtest` and `dogwatch signals`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.incident import clock_time
from dogwatch.cli.output import one_line, print_json
from dogwatch.core.units import format_duration, parse_duration
from dogwatch.errors import DogwatchError, UsageError

_SHOWN = 50
_POLL_S = 0.3
_LONGEST_S = 89 * 86_400.0


def seconds(text: str) -> float:
    """Return the seconds of a duration. Raises: UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _loaded(paths: Sequence[str]) -> Any:
    # Loading a configuration loads every feature: not for commands that only ask a daemon.
    from dogwatch.cli.config import find_paths
    from dogwatch.config.load import Loader
    from dogwatch.daemon.sections import SECTIONS

    environ = dict(os.environ)
    loader = Loader(find_paths(paths, environ), SECTIONS, environ=environ)
    return loader.validate(loader.parse())


def read_rules(paths: Sequence[str]) -> list[Any]:
    """Return the rules of configuration files. Raises: ConfigError."""
    from dogwatch.features import RULES

    return list(_loaded(paths).get(RULES))


class _Bar:
    """How far it is, on a terminal's last line."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._begun_s = time.monotonic()

    def show(self, share: float, what: str = "") -> None:
        if not self._shown:
            return
        passed_s = time.monotonic() - self._begun_s
        left = f", about {format_duration(round(passed_s / share - passed_s))} left" if share > 0.02 else ""
        filled = round(share * 30)
        click.echo(f"\r\x1b[K[{'█' * filled}{'░' * (30 - filled)}] {share:4.0%}{left} {what}", err=True, nl=False)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


@click.command()
@click.argument("rules", nargs=-1, metavar="[RULES]...")
@click.option("--since", default="30d", show_default=True, help="How far back.")
@click.option("--incident", type=click.IntRange(1, 2**53), help="Only the time around this incident.")
@click.option("--against", multiple=True, metavar="PATH", help="Files with other rules, to compare with.")
@click.option("--signals", multiple=True, metavar="FILE", help="Recorded signals, in place of a daemon's history.")
@click.option(
    "--labels", multiple=True, metavar="FILE", help="Outages that must be found; exit code 1 where one is not."
)
@click.option("-c", "--config", "paths", multiple=True, metavar="PATH", help="As RULES.")
@server_option
@json_option
def backtest(
    client: Client,
    rules: tuple[str, ...],
    since: str,
    incident: int | None,
    against: tuple[str, ...],
    signals: tuple[str, ...],
    labels: tuple[str, ...],
    paths: tuple[str, ...],
    as_json: bool,
) -> int:
    """Say what rules would have done with what was recorded: incidents, notices, what was told as one.

    RULES are configuration files; without any, the rules in force. The deciders are
    those that run live, with the times of the signals. Of each incident it says when
    it opened, how long after the first bad signal, how bad it was and for how long.

    With --signals no daemon is asked. Beside FILE.signals, FILE.yaml names the
    outages in it; one that the rules miss, or find too late, ends in exit code 1.

    \b
    Examples:
      dogwatch backtest --since 30d
      dogwatch backtest rules.yaml --against new.yaml
      dogwatch backtest rules.yaml --incident 42
      dogwatch backtest new.yaml --signals outages/*.signals
    """
    files = (*rules, *paths)
    if signals:
        return _from_files(signals, labels, files, against, as_json=as_json)
    body: dict[str, object] = {"since_s": seconds(since)}
    if incident is not None:
        body["incident"] = incident
    import msgspec

    from dogwatch.rules.remedy.text import on_wire

    if files:
        body["rules"] = [on_wire(one) for one in read_rules(files)]
    if against:
        body["against"] = [on_wire(one) for one in read_rules(against)]
    if labels:
        from dogwatch.rules.backtest_files import read_labels

        body["outages"] = msgspec.to_builtins([one for label in labels for one in read_labels(Path(label))])
    state = _followed(client, body, as_json=as_json)
    if as_json:
        print_json(state)
    else:
        _show_state(state)
    return 1 if _missed(state) else 0


def _followed(client: Client, body: Mapping[str, object], *, as_json: bool) -> Any:
    """Begin a backtest and wait for it; at Ctrl-C it is stopped."""
    state = client.post("/api/v1/backtests", body)
    bar = _Bar()
    try:
        while state["state"] == "running":
            time.sleep(_POLL_S)
            state = client.get(f"/api/v1/backtests/{state['backtest_id']}")
            if not as_json:
                bar.show(state["share"], f"{state['signals']} signals")
    except KeyboardInterrupt:
        bar.end()
        client.delete(f"/api/v1/backtests/{state['backtest_id']}")
        raise
    bar.end()
    if state["state"] != "done":
        raise DogwatchError(state["error"] or "the backtest was stopped")
    return state


def _missed(state: Mapping[str, Any]) -> list[str]:
    """Return the outages that the rules that are tried would miss: those to compare with, where there are any."""
    tried = state["outages_second"] if state["second"] is not None else state["outages"]
    return [one["name"] for one in tried if not one["number"]]


def _show_state(state: Mapping[str, Any]) -> None:
    _show(state["first"])
    _show_outages(state["outages"])
    if state["second"] is None:
        return
    click.echo("\nWith the other rules:")
    _show(state["second"])
    _show_outages(state["outages_second"])
    _show_difference(state["difference"])


def _show(found: Mapping[str, Any]) -> None:
    click.echo(f"{found['signals']} signals from {clock_time(found['since_s'])} to {clock_time(found['until_s'])}")
    for one in found["lost"]:
        width = format_duration(one["width_s"])
        click.echo(f"  {one['results']} of them are left as means over {width} only: shorter peaks are not seen")
    for item in found["incidents"][-_SHOWN:]:
        click.echo(f"  {line(item)}")
    shown = min(_SHOWN, len(found["incidents"]))
    if found["total_incidents"] > shown:
        click.echo(f"  and {found['total_incidents'] - shown} before these")
    alerts = sum(found["fired"].values())
    click.echo(
        f"{found['total_incidents']} incidents, {found['total_notices']} notices for {alerts} alerts; "
        f"{found['suppressed']} were told as a part of another"
    )
    _show_actions(found)


def _show_actions(found: Mapping[str, Any]) -> None:
    """Say what would have been done, taken to end well each time, and how often it would have been held back."""
    if not found["total_actions"] and not found["held"] and not found["planned"]:
        return
    for one in found["actions"][-_SHOWN:]:
        asks = " (if approved)" if one["mode"] == "approve" else ""
        click.echo(f"  {clock_time(one['time_s'])}  #{one['number']} {one['target']}: {one_line(one['says'])}{asks}")
    click.echo(
        f"{found['total_actions']} actions would have been started, {found['planned']} only planned; "
        f"budgets, waits and freezes would have held one back {found['held']} times"
    )


def _show_outages(outages: Sequence[Mapping[str, Any]]) -> None:
    for one in outages:
        if not one["number"]:
            click.echo(click.style(f"✖ {one_line(one['name'])}: missed", fg="red"))
            continue
        told = "nobody told" if one["told_after_s"] is None else f"told after {format_duration(one['told_after_s'])}"
        after = format_duration(one["after_s"])
        click.echo(click.style(f"✔ {one_line(one['name'])}: found after {after}, {told}", fg="green"))


def _show_difference(difference: Mapping[str, Any]) -> None:
    less = -difference["notices"]
    click.echo(f"\n{abs(less)} notices {'fewer' if less >= 0 else 'more'} with the other rules.")
    for title, items in (("No longer there:", difference["missed"]), ("New:", difference["new"])):
        if items:
            click.echo(title)
        for item in items[-_SHOWN:]:
            click.echo(f"  {line(item)}")
    for name, later_s in list(difference["later_s"].items())[-_SHOWN:]:
        when = f"{format_duration(abs(later_s))} {'later' if later_s > 0 else 'earlier'}" if later_s else "as soon"
        click.echo(f"  {one_line(name)}: opened {when}")


def line(item: Mapping[str, Any]) -> str:
    """Return an incident in one line: when, how long after the first bad signal, how bad, for how long, what."""
    ended = f"{format_duration(item['ended_s'] - item['began_s'])}" if item["ended_s"] else "open"
    after = "+" + format_duration(round(max(0.0, item["opened_s"] - item["began_s"]), 1))
    return f"{clock_time(item['opened_s'])}  {after:>6}  {item['severity']:8}  {ended:>8}  {one_line(item['summary'])}"


def _from_files(
    signals: Sequence[str], labels: Sequence[str], rules: Sequence[str], against: Sequence[str], *, as_json: bool
) -> int:
    """Go through files of recorded signals in this process."""
    import msgspec

    from dogwatch.cli.backtest_local import Tried, states

    if not rules:
        raise UsageError("with --signals nothing says which rules", hint="dogwatch backtest RULES --signals FILE")
    tried = [Tried.read(_loaded(one)) for one in (rules, against) if one]
    found, bar = [], _Bar()
    progress: Callable[[float], None] = bar.show if not as_json else (lambda _share: None)
    for name, reached in states(signals, labels, tried, progress):
        bar.end()
        state = msgspec.to_builtins(reached)
        found.append({"file": name, **state})
        if not as_json:
            click.echo(f"{name}:")
            _show_state(state)
    if as_json:
        print_json(found)
    missed = [f"{one['file']}: {name}" for one in found for name in _missed(one)]
    if missed and not as_json:
        click.echo(f"missed: {'; '.join(missed)}", err=True)
    return 1 if missed else 0


@click.group()
def signals() -> None:
    """Keep recorded signals as files: a library of past outages for new rules.

    \b
    Examples:
      dogwatch signals export --incident 42 -o outages/db.signals
      dogwatch backtest new.yaml --signals outages/db.signals
      dogwatch signals import outages/db.signals --data /srv/outages
    """


@signals.command()
@click.option("--since", default="1d", show_default=True, help="How far back.")
@click.option("--incident", type=click.IntRange(1, 2**53), help="The time around this incident, with a label for it.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where it is written.")
@server_option
@json_option
def export(client: Client, since: str, incident: int | None, output: str, as_json: bool) -> None:
    """Write what was recorded to a file; with --incident also FILE.yaml, which names the outage.

    \b
    Examples:
      dogwatch signals export --since 2d -o week.signals
      dogwatch signals export --incident 42 -o outages/db.signals
    """
    path = Path(output)
    until_s = time.time()
    since_s, label = until_s - seconds(since), ""
    if incident is not None:
        item = client.get(f"/api/v1/incidents/{incident}")["incident"]
        since_s = item["began_s"] - 3600.0
        # Of one that goes on, until now: the daemon's clock ends it.
        until_s = item["ended_s"] + 3600.0 if item["ended_s"] else since_s + _LONGEST_S
    size = 0
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as stream:
            for part in client.lines("/api/v1/signals", since_s=since_s, until_s=until_s):
                size += stream.write(part)
        head, _count = _checked(partial)
        if incident is not None:
            label = _label(item, head.until_s)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        partial.unlink(missing_ok=True)
    if label:
        path.with_suffix(".yaml").write_text(label, encoding="utf-8")
    if as_json:
        print_json({"file": str(path), "bytes": size, "since_s": since_s, "until_s": until_s})
    else:
        click.echo(f"{path}: {size} bytes" + (f"; {path.with_suffix('.yaml')} names the outage" if label else ""))


def _label(item: Mapping[str, Any], until_s: float) -> str:
    import json

    begin, end = (datetime.fromtimestamp(one, UTC).isoformat() for one in (item["began_s"], item["ended_s"] or until_s))
    name = json.dumps(f"#{item['number']} {item['summary']}", ensure_ascii=False)
    root = json.dumps(item["root"], ensure_ascii=False)
    return (
        "# What was wrong, and how soon it must be found.\n"
        f"outages:\n  - name: {name}\n    from: {begin}\n    to: {end}\n    targets: [{root}]\n    within: 10m\n"
    )


def _checked(path: Path) -> Any:
    from dogwatch.rules.recording import Recording

    with path.open("rb") as stream:
        recording = Recording(stream, str(path))
        count = sum(1 for _piece in recording.pieces())
    return recording.head, count


@signals.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Say what is in files, and that they are whole.

    \b
    Example:
      dogwatch signals check outages/*.signals
    """
    found = []
    for name in files:
        try:
            head, _count = _checked(Path(name))
        except OSError as error:
            raise UsageError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
        found.append(
            {
                "file": name,
                "since_s": head.since_s,
                "until_s": head.until_s,
                "targets": [node.name for node in head.targets],
                "hosts": list(head.hosts),
            }
        )
        if not as_json:
            click.echo(
                f"{name}: {clock_time(head.since_s)} to {clock_time(head.until_s)}, "
                f"{len(head.targets)} targets, {len(head.hosts)} hosts"
            )
    if as_json:
        print_json(found)


@signals.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--data", required=True, metavar="FOLDER", help="The data folder that takes them; no daemon may use it.")
@json_option
def import_(files: tuple[str, ...], data: str, as_json: bool) -> None:
    """Take files into the history of a data folder: older files first.

    A daemon on that folder shows them, and backtests them with --since. How long
    it keeps every result is said by store.keep.raw; means are kept longer.

    \b
    Example:
      dogwatch signals import outages/*.signals --data /srv/outages
    """
    from dogwatch.cli.signals_import import import_files

    found = import_files([Path(name) for name in files], Path(data))
    if as_json:
        print_json(found)
        return
    for one in found:
        means = f"; {one['means']} results of which only means were left are not in it" if one["means"] else ""
        counts = f"{one['results']} results, {one['transitions']} transitions, {one['samples']} samples"
        click.echo(f"{one['file']}: {counts}{means}")
