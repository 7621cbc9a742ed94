"""Completion of target names, from the daemon."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from dogwatch.cli.client import client_of
from dogwatch.errors import DogwatchError

# Whoever presses TAB waits for this.
TIMEOUT_S = 1.0


def complete_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of targets that begin so; none where the daemon does not answer at once."""
    server = context.params.get("server") or os.environ.get("DOGWATCH_SERVER")
    try:
        client = client_of(server, context.params.get("context") or os.environ.get("DOGWATCH_CONTEXT"))
        client.timeout_s = TIMEOUT_S
        targets = client.all("/api/v1/targets")
        return [
            CompletionItem(target["name"], help=target["status"])
            for target in targets
            if target["name"].startswith(incomplete)
        ]
    except (DogwatchError, KeyError, TypeError):
        # A message would land in the middle of the line that is being typed.
        return []
