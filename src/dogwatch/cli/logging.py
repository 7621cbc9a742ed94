"""What every program that runs on logs of itself: how much, and in which form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def log_options(command: F) -> F:
    """Add --log-level and --log-format."""
    shape = click.option(
        "--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]), help="How it is logged."
    )
    level = click.option(
        "--log-level",
        default="info",
        show_default=True,
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="How much is logged.",
    )
    return level(shape(command))
