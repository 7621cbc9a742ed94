"""The command tree. Each group is imported when it is called."""

from __future__ import annotations

import click


@click.group()
def cli() -> None:
    """Dogwatch stands the watch for the people who run systems."""
