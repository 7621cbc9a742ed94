"""Durations on the command line."""

from __future__ import annotations

from typing import Any

import click

from dogwatch.core.units import parse_duration


class Duration(click.ParamType[float]):
    """`5s`, `500ms`; a plain number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return float(value) if str(value).replace(".", "", 1).isdigit() else parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
