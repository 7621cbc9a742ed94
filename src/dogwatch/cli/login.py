"""`dogwatch login`, `context`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec

from dogwatch.cli.client import DEFAULT_SERVER, Client, json_option
from dogwatch.cli.contexts import (
    Context,
    load_contexts,
    renamed_context,
    save_contexts,
    with_context,
    without_context,
)
from dogwatch.cli.output import print_json, print_table
from dogwatch.errors import NotFound, UsageError

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

    ca = _authority(ca)
    client = Client(server, ca=ca, cert=cert, key=key)
    if not name and not sys.stdin.isatty():
        raise UsageError("who logs in?", hint="say --user NAME")
    name = name or str(click.prompt("Name"))
    password = ask_password("Password", twice=False)
    shown = f"{os.environ.get('USER', 'somebody')} on {socket.gethostname()}"
    found = client.post("/api/v1/login", {"name": name, "password": password, "token_name": shown[:100]})
    context_name = context_name or urlsplit(client.server).hostname or "default"
    made = Context(server=client.server, token=found["secret"], ca=ca, cert=_whole(cert), key=_whole(key))
    kept = with_context(load_contexts(os.environ), context_name, made)
    path = save_contexts(os.environ, kept)
    if as_json:
        print_json({"context": context_name, "user": found["user"], "file": str(path)})
    else:
        click.echo(f"logged in as {found['user']}; context {context_name} is in use ({path})")


@click.group()
def context() -> None:
    """The daemons that you talk to, each with its token.

    Which one a command talks to: --server, else --context, else DOGWATCH_SERVER,
    else DOGWATCH_CONTEXT, else the context in use, else this machine's daemon.
    The token is DOGWATCH_TOKEN, else the context's, which its own server alone
    is shown.

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
                {
                    "name": key,
                    "server": one.server,
                    "current": key == contexts.current,
                    "token": bool(one.token),
                    "ca": one.ca,
                }
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
    print_table(["", "NAME", "SERVER", "TOKEN"], rows, cut=(1, 2))


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


@context.command("current")
@json_option
def context_current(as_json: bool) -> int:
    """Print the name of the one in use. Exits with 10 where none is.

    \b
    Example:
      dogwatch context current
    """
    contexts = load_contexts(os.environ)
    if not contexts.current:
        raise NotFound("no context is in use", hint=f"commands talk to {DEFAULT_SERVER}; see 'dogwatch context use'")
    if as_json:
        print_json({"name": contexts.current, "server": contexts.get(contexts.current).server})
    else:
        click.echo(contexts.current)
    return 0


@context.command("add")
@click.argument("name")
@click.option("--server", required=True, metavar="URL", help="The daemon.")
@click.option("--token-file", metavar="FILE", help="File with a token, mode 0600; '-' for the input.")
@click.option("--ca", default="", metavar="FILE", help="Who vouches for its certificate.")
@_CERT
@_KEY
def context_add(name: str, server: str, token_file: str | None, ca: str, cert: str, key: str) -> None:
    """Add a context, or replace the one of that name, and use it.

    \b
    Example:
      dogwatch context add prod --server https://watch.example --token-file token
    """
    address = Client(server).server
    _named(name)
    token = _token(token_file) if token_file else ""
    kept = Context(server=address, token=token, ca=_authority(ca), cert=_whole(cert), key=_whole(key))
    save_contexts(os.environ, with_context(load_contexts(os.environ), name, kept))
    click.echo(f"context {name} is in use")


def _named(name: str) -> None:
    if not name.strip() or not name.isprintable():
        raise UsageError("a context needs a name that can be read")


def _token(file: str) -> str:
    """Return the token in a file. Raises: UsageError, for a file that others can read, too."""
    try:
        if file == "-":
            text = sys.stdin.read(1000)
        else:
            if Path(file).stat().st_mode & 0o077:
                raise UsageError(
                    f"{file} can be read by others than you", hint=f"chmod 600 {file}, and make a new token"
                )
            text = Path(file).read_text("utf-8")[:1000]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise UsageError(f"{file} is no text") from None
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{'the input' if file == '-' else file} holds no token", hint="dogwatch token create makes one"
        )
    return token


def _authority(file: str) -> str:
    """Return the path of a file with certificates, from wherever it is used. Raises: UsageError."""
    if not file:
        return ""
    import ssl

    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        why = "holds no certificate" if isinstance(error, ssl.SSLError) else (error.strerror or str(error)).lower()
        raise UsageError(f"cannot use {file}: {why}") from None
    return str(Path(file).absolute())


@context.command("rename")
@click.argument("name")
@click.argument("new")
def context_rename(name: str, new: str) -> None:
    """Give a context another name.

    \b
    Example:
      dogwatch context rename watch.example prod
    """
    _named(new)
    save_contexts(os.environ, renamed_context(load_contexts(os.environ), name, new))
    click.echo(f"context {name} is called {new} now")


@context.command("remove")
@click.argument("name")
def context_remove(name: str) -> None:
    """Forget a context and its token; the token itself goes on until it is revoked.

    \b
    Example:
      dogwatch context remove prod
    """
    contexts = load_contexts(os.environ)
    left = without_context(contexts, name)
    save_contexts(os.environ, left)
    click.echo(f"context {name} is forgotten")
    if contexts.current == name:
        click.echo(f"none is in use now: commands talk to {DEFAULT_SERVER}")
