"""The command tree, and the one place where errors become messages and exit codes. Groups are imported when called."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from dogwatch import __version__
from dogwatch.errors import DogwatchError, UsageError

# name → (module, attribute, one line of help). The help stands here so that `--help` imports no command.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("dogwatch.cli.up", "up", "Stand the watch: probe, collect, keep history, show it."),
    "init": ("dogwatch.cli.up", "init", "Write a starter configuration."),
    "status": ("dogwatch.cli.status", "status", "Show what is wrong now, first."),
    "probe": ("dogwatch.cli.probe", "probe", "List, show, run, pause and resume probes."),
    "host": ("dogwatch.cli.host", "host", "Show hosts as their collectors see them."),
    "fleet": ("dogwatch.cli.fleet", "fleet", "List hosts; run commands on many of them, batch after batch."),
    "job": ("dogwatch.cli.job", "job", "List, check, plan and run jobs."),
    "run": ("dogwatch.cli.runs", "run", "List, follow, cancel, approve and rerun runs of jobs."),
    "schedule": ("dogwatch.cli.schedule", "schedule", "List schedules, tell when they fire, pause and run them."),
    "hook": ("dogwatch.cli.hook", "hook", "Show webhooks that came in, and take them again."),
    "notify": ("dogwatch.cli.notify", "notify", "Show destinations and messages, test them, send again."),
    "incident": ("dogwatch.cli.incident", "incident", "List incidents, acknowledge, silence, comment, resolve."),
    "maintenance": ("dogwatch.cli.maintenance", "maintenance", "Plan maintenance windows and freezes, end them."),
    "explain": ("dogwatch.cli.explain", "explain", "Say why an incident or a run happened, and what was not done."),
    "report": ("dogwatch.cli.report", "report", "Report availability, and what needs a person."),
    "rule": ("dogwatch.cli.rule", "rule", "List and check rules; say what they would have open now."),
    "backtest": ("dogwatch.cli.backtest", "backtest", "Try rules on recorded history, and compare them."),
    "signals": ("dogwatch.cli.backtest", "signals", "Keep recorded signals as files, and check them."),
    "worker": ("dogwatch.cli.worker", "worker", "List and drain workers; run one on this machine."),
    "logs": ("dogwatch.cli.logs", "logs", "Check, try and run the log agent; search its store."),
    "config": ("dogwatch.cli.up", "config", "Check the configuration, show it, print its schema."),
    "reload": ("dogwatch.cli.reload", "reload", "Reload the configuration, see how reloads ended."),
    "database": ("dogwatch.cli.database", "database", "Move the state to another database."),
    "user": ("dogwatch.cli.access", "user", "Users: who may log in."),
    "token": ("dogwatch.cli.access", "token", "API tokens, for programs and other machines."),
    "role": ("dogwatch.cli.access", "role", "Roles: what they allow."),
    "audit": ("dogwatch.cli.audit", "audit", "The audit trail: search, verify, export."),
    "login": ("dogwatch.cli.login", "login", "Log in to a daemon, and keep its token in a context."),
    "context": ("dogwatch.cli.login", "context", "The daemons that you talk to."),
    "key": ("dogwatch.cli.access", "key", "The key that seals stored secrets."),
    "debug": ("dogwatch.cli.debug", "debug", "Look inside the running daemon."),
    "completion": ("dogwatch.cli.completion", "completion", "Print shell completion for bash, zsh or fish."),
}


# As STYLE.md §5 and errors.py have them; \b keeps the lines.
_EPILOG = """\b
Examples:
  dogwatch init && dogwatch up
  dogwatch probe run https://example.org/

\b
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 partly done,
10 not found, 11 locked or changed, 12 not allowed, 13 daemon not reachable,
130 and 143 ended by a signal.
"""


class _Enough(Exception):
    """Whoever read our output has enough."""


class LazyGroup(click.Group):
    """A group whose members are named in a table and imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Enough from None  # click would take it for a failure of the command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=_EPILOG,
)
@click.version_option(__version__, "-V", "--version", prog_name="dogwatch", message="%(prog)s %(version)s")
def cli() -> None:
    """Dogwatch stands the watch for the people who run systems."""


def report(error: DogwatchError, *, as_json: bool) -> None:
    """Write the error to stderr: text for people, one object with `--json`."""
    if as_json:
        print(json.dumps({"code": error.code, "message": str(error), "hint": error.hint}), file=sys.stderr)
        return
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _let_go() -> None:
    """Write to stdout no more: Python would complain again while closing it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        # click knows nothing of NO_COLOR (no-color.org); where output is piped it leaves colours out by itself.
        color = False if os.environ.get("NO_COLOR") else None
        result: Any = cli.main(list(arguments), prog_name="dogwatch", standalone_mode=False, color=color)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130
    except (_Enough, BrokenPipeError):
        _let_go()
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        # A group alone asks what there is.
        print(error.ctx.get_help() if error.ctx else error.format_message())
        return 0
    except click.ClickException as error:
        if as_json:
            print(json.dumps({"code": "usage", "message": error.format_message(), "hint": ""}), file=sys.stderr)
        else:
            error.show()
        return 2
    except DogwatchError as error:
        report(error, as_json=as_json)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _let_go()
        report(DogwatchError(f"cannot write: {os.strerror(error.errno).lower()}"), as_json=as_json)
        return DogwatchError.exit_code
    except UnicodeEncodeError:
        # Bytes of an argument that are no text: they cannot be sent, written or shown.
        report(UsageError("the command line holds bytes that are not UTF-8"), as_json=as_json)
        return UsageError.exit_code
