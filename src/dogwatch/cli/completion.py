"""`dogwatch completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      dogwatch completion bash > /etc/bash_completion.d/dogwatch
      dogwatch completion fish > ~/.config/fish/completions/dogwatch.fish
    """
    from dogwatch.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "dogwatch", "_DOGWATCH_COMPLETE").source())
