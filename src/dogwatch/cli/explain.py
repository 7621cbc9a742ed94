"""`dogwatch explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.incident import clock_time
from dogwatch.cli.output import one_line, print_json
from dogwatch.core.units import format_duration, format_size

_OUTCOMES = {"done": "green", "failed": "red", "declined": "yellow", "refused": "yellow", "": "cyan"}


@click.command()
@click.argument("subject", metavar="INCIDENT|RUN")
@click.option("--evidence", "with_evidence", is_flag=True, help="Print what was seen before each action, too.")
@server_option
@json_option
def explain(client: Client, subject: str, with_evidence: bool, as_json: bool) -> None:
    """Say why an incident or a run happened: signals, rule and version, what was done, what was not and why.

    \b
    Examples:
      dogwatch explain 42
      dogwatch explain 42 --evidence
      dogwatch explain 01jx
    """
    found = client.get(f"/api/v1/explain/{quote(subject, safe='')}")
    texts = _texts(client, found) if with_evidence else {}
    if as_json:
        print_json({**found, "evidence": [{**one, **_text(one, texts)} for one in found["evidence"]]})
        return
    _head(found)
    _rule(found["rule"])
    _actions(found)
    _not_done(found["not_done"])
    _evidence(found, texts)


def _text(one: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, str]:
    return {"text": texts[one["evidence_id"]]} if one["evidence_id"] in texts else {}


def _texts(client: Client, found: Mapping[str, Any]) -> dict[str, str]:
    if found["incident"] is None:
        return {}
    number = found["incident"]["number"]
    return {
        one["evidence_id"]: client.get(f"/api/v1/incidents/{number}/evidence/{quote(one['evidence_id'], safe='')}")[
            "text"
        ]
        for one in found["evidence"]
    }


def _head(found: Mapping[str, Any]) -> None:
    incident, run = found["incident"], found["run"]
    if run is not None:
        click.echo(f"Run {run['run_id']} of {run['job']}: {run['state']}, started by {run['started_by']}")
    if incident is not None:
        ended_s = incident["ended_s"]
        lasted = f", over after {format_duration(max(0.0, ended_s - incident['began_s']))}" if ended_s else ""
        since = f"since {clock_time(incident['began_s'])}{lasted}"
        click.echo(f"Incident #{incident['number']} ({incident['state']}), {since}")
    click.echo("\nWhy:")
    for line in found["because"]:
        click.echo(f"  {one_line(line)}")
    if found["alerts"]:
        click.echo("\nWhat is wrong, the first first:")
        for alert in found["alerts"]:
            reason = f" ({one_line(alert['reason'])})" if alert["reason"] else ""
            click.echo(f"  {clock_time(alert['since_s'])}  {alert['target']}: {one_line(alert['summary'])}{reason}")


def _rule(rule: Mapping[str, Any] | None) -> None:
    if rule is None:
        return
    click.echo(f"\nBy '{rule['name']}', version {rule['version']}, in use since {clock_time(rule['first_s'])}:")
    for key, value in (rule["text"] or {}).items():
        import json

        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"  {key}: {one_line(shown)}")


def _actions(found: Mapping[str, Any]) -> None:
    if found["actions"]:
        click.echo("\nDone:")
    for one in found["actions"]:
        outcome = one["outcome"] or "under way"
        word = click.style(outcome, fg=_OUTCOMES.get(one["outcome"], "white"))
        reason = f": {one_line(one['reason'])}" if one["reason"] else ""
        click.echo(f"  {clock_time(one['time_s'])}  {word}  {one_line(one['says'])}{reason}")
        about = f"{one['remedy']}, step {one['step']}, attempt {one['attempt']}, {one['mode']}"
        run = f"; run {one['run_id']}" if one["run_id"] else ""
        budget = f"; budget {one['budget']}: {one['left']} left before it" if one["budget"] else ""
        click.echo(f"      {about}{run}{budget}")
    for left in found["budgets"]:
        click.echo(f"  budget {left['budget']} now: {left['left']} left")


def _not_done(items: list[Mapping[str, Any]]) -> None:
    if items:
        click.echo("\nNot done:")
    for one in items:
        when = clock_time(one["time_s"]) if one["time_s"] else "now"
        target = f" for {one['target']}" if one["target"] else ""
        click.echo(f"  {when}  {one['what']}{target}: {one_line(one['why'])}")


def _evidence(found: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    if found["evidence"]:
        click.echo("\nSeen before it was done:" if texts else "\nSeen before it was done (--evidence prints it):")
    for one in found["evidence"]:
        note = f" ({one_line(one['note'])})" if one["note"] else ""
        size = format_size(one["size_bytes"])
        click.echo(f"  {clock_time(one['time_s'])}  {one['target']}, {one['source']}: {size}{note}")
        if one["evidence_id"] in texts:
            for line in texts[one["evidence_id"]].splitlines():
                click.echo(f"    {one_line(line)}")
