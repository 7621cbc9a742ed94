"""`dogwatch login`, `context`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from dogwatch.cli.client import DEFAULT_SERVER, Client, json_option
from dogwatch.cli.contexts import Context, Contexts, load_contexts, save_contexts, with_context
from dogwatch.cli.output import print_json, print_table
from dogwatch.errors import UsageError

_CERT = click.option(
    "--cert", envvar="DOGWATCH_CERT", default="", metavar="FILE", help="Your certificate, for a daemon that wants one."
)
_KEY = click.option(
    "--key", envvar="DOGWATCH_KEY", default="", metavar="FILE", help="Its key, where the certificate's file has none."
)


def _whole(path: str) -> str:
    """Return a path that means the same in every folder."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100 links are followed when it is used


def ask_password(prompt: str, *, twice: bool) -> str:
    """Return a password: asked for at a terminal, else the first line of the input."""
    if sys.stdin.isatty():
        return str(click.prompt(prompt, hide_input=True, confirmation_prompt=twice))
    try:
        password = sys.stdin.readline().rstrip("\n")
    except (OSError, ValueError):  # closed, or no text
        password = ""
    if not password:
        raise UsageError("no password", hint="type it at a terminal, or give it as the first line of the input")
    return password


@click.command()
@click.option(
    "--server", envvar="DOGWATCH_SERVER", default=DEFAULT_SERVER, show_default=True, metavar="URL", help="The daemon."
)
@click.option("--ca", default="", metavar="FILE", help="Who vouches for its certificate, if the machine does not know.")
@_CERT
@_KEY
@click.option("--user", "name", default="", metavar="NAME", help="Your name there; asked for otherwise.")
@click.option(
    "--context", "context_name", default="", metavar="NAME", help="Name of the context; the server's host else."
)
@json_option
def login(server: str, ca: str, cert: str, key: str, name: str, context_name: str, as_json: bool) -> None:
    """Log in to a daemon, and keep its token in a context.

    \b
    Example:
      dogwatch login --server https://watch.example
    """
    import socket
    from urllib.parse import urlsplit

    client = Client(server, ca=ca, cert=cert, key=key)
    if not name and not sys.stdin.isatty():
        raise UsageError("who logs in?", hint="say --user NAME")
    name = name or str(click.prompt("Name"))
    password = ask_password("Password", twice=False)
    shown = f"{os.environ.get('USER', 'somebody')} on {socket.gethostname()}"
    found = client.post("/api/v1/login", {"name": name, "password": password, "token_name": shown[:100]})
    context_name = context_name or urlsplit(client.server).hostname or "default"
    made = Context(server=client.server, token=found["secret"], ca=_whole(ca), cert=_whole(cert), key=_whole(key))
    kept = with_context(load_contexts(os.environ), context_name, made)
    path = save_contexts(os.environ, kept)
    if as_json:
        print_json({"context": context_name, "user": found["user"], "file": str(path)})
    else:
        click.echo(f"logged in as {found['user']}; context {context_name} is in use ({path})")


@click.group()
def context() -> None:
    """The daemons that you talk to.

    \b
    Examples:
      dogwatch context add prod --server https://watch.example --token-file token
      dogwatch context use prod
    """


@context.command("list")
@json_option
def context_list(as_json: bool) -> None:
    """List the contexts; the one in use has a star.

    \b
    Example:
      dogwatch context list
    """
    contexts = load_contexts(os.environ)
    if as_json:
        print_json(
            [
                {"name": key, "server": one.server, "current": key == contexts.current}
                for key, one in contexts.contexts.items()
            ]
        )
        return
    if not contexts.contexts:
        click.echo(f"No contexts: commands talk to {DEFAULT_SERVER}.")
        return
    rows = [
        ["*" if key == contexts.current else "", key, one.server, "yes" if one.token else "no"]
        for key, one in contexts.contexts.items()
    ]
    print_table(["", "NAME", "SERVER", "TOKEN"], rows)


@context.command("use")
@click.argument("name")
def context_use(name: str) -> None:
    """Talk to this one from now on.

    \b
    Example:
      dogwatch context use prod
    """
    contexts = load_contexts(os.environ)
    contexts.get(name)
    save_contexts(os.environ, msgspec.structs.replace(contexts, current=name))
    click.echo(f"context {name} is in use")


@context.command("add")
@click.argument("name")
@click.option("--server", required=True, metavar="URL", help="The daemon.")
@click.option("--token-file", type=click.File(), help="File with a token; '-' for the input.")
@click.option("--ca", default="", metavar="FILE", help="Who vouches for its certificate.")
@_CERT
@_KEY
def context_add(name: str, server: str, token_file: Any, ca: str, cert: str, key: str) -> None:
    """Add a context, or replace the one of that name, and use it.

    \b
    Example:
      dogwatch context add prod --server https://watch.example --token-file token
    """
    address = Client(server).server
    try:
        token_text = token_file.read(1000).strip() if token_file else ""
    except (OSError, ValueError) as error:
        raise UsageError(f"the token cannot be read: {error}") from None
    made = Context(server=address, token=token_text, ca=_whole(ca), cert=_whole(cert), key=_whole(key))
    save_contexts(os.environ, with_context(load_contexts(os.environ), name, made))
    click.echo(f"context {name} is in use")


@context.command("remove")
@click.argument("name")
def context_remove(name: str) -> None:
    """Forget a context and its token.

    \b
    Example:
      dogwatch context remove prod
    """
    contexts = load_contexts(os.environ)
    contexts.get(name)
    left = {key: one for key, one in contexts.contexts.items() if key != name}
    current = "" if contexts.current == name else contexts.current
    save_contexts(os.environ, Contexts(current=current, contexts=left))
    click.echo(f"context {name} is forgotten")
