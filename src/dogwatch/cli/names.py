"""Completion of names, from the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from dogwatch.cli.client import Client, client_of
from dogwatch.errors import DogwatchError

# Whoever presses TAB waits for this.
TIMEOUT_S = 1.0
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completer(ask: Callable[[Client], list[tuple[str, str]]]) -> Completer:
    """Return what completes names that begin so. ask: returns each name with a word about it."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        server = context.params.get("server") or os.environ.get("DOGWATCH_SERVER")
        try:
            client = client_of(server, context.params.get("context") or os.environ.get("DOGWATCH_CONTEXT"))
            client.timeout_s = TIMEOUT_S
            known = ask(client)
            return [CompletionItem(name, help=word) for name, word in known if name.startswith(incomplete)]
        except (DogwatchError, KeyError, TypeError):
            # None where the daemon does not answer at once: a message would land in the line that is being typed.
            return []

    return complete


complete_names = completer(lambda client: [(one["name"], one["status"]) for one in client.all("/api/v1/targets")])
complete_jobs = completer(lambda client: [(one["name"], one["doc"]) for one in client.all("/api/v1/jobs")])
complete_runs = completer(
    lambda client: [
        (one["run_id"], f"{one['job']} {one['state']}") for one in client.get("/api/v1/runs", limit=50)["items"]
    ]
)
complete_workers = completer(lambda client: [(one["worker_id"], one["state"]) for one in client.all("/api/v1/workers")])
