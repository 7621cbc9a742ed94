"""What every command that lists takes: the filters of its list in the API, and how many rows.

Which filters there are stands in lists.json, which `make docs` writes from the API's description: a filter of a list is
a flag of its command without a line here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from dogwatch.core.units import parse_duration

if TYPE_CHECKING:
    from dogwatch.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])
# Names that read better on a command line.
_FLAGS = {"q": "search", "since_s": "since", "until_s": "until"}
FILE = Path(__file__).with_name("lists.json")


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """One filter of a list. many: may be given several times. choices: all there are, none for free text."""

    name: str
    help: str = ""
    many: bool = False
    number: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return f"--{_FLAGS.get(self.name, self.name).replace('_', '-')}"

    @property
    def is_time(self) -> bool:
        return self.name.endswith("_s")


class Moment(click.ParamType[float]):
    """`7d` ago, or a time: `2026-11-21T08:00`, with the machine's zone where none is said."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from datetime import datetime

        if isinstance(value, float):
            return value
        try:
            return time.time() - parse_duration(str(value))
        except ValueError:
            pass
        try:
            return max(0.0, datetime.fromisoformat(str(value)).astimezone().timestamp())
        except (ValueError, OverflowError, OSError):
            self.fail(f"'{value}' is neither a duration (1h, 7d) nor a time (2026-11-21T08:00)", param, ctx)


class Wanted:
    """What somebody wants to see of a list. limit: so many rows, 0 for all."""

    def __init__(self, path: str, given: Mapping[str, Any], limit: int) -> None:
        self.path, self.limit = path, limit
        self.given = {name: value for name, value in given.items() if value not in (None, (), "")}

    def __bool__(self) -> bool:
        """Whether anything is left out by a filter."""
        return bool(self.given)

    def items(self, client: Client, **more: object) -> list[Any]:
        """Return the rows, of as many pages as it takes. more: filters of the command's own."""
        return list(self.each(client, **more))

    def each(self, client: Client, **more: object) -> Iterator[Any]:
        return client.each(self.path, most=self.limit, **{**more, **self.given})

    def further(self, shown: Sequence[Any]) -> None:
        """Say below a table that there may be more."""
        if self.limit and len(shown) == self.limit:
            click.echo(f"… the first {self.limit}; --limit {self.limit * 2} shows more, --limit 0 all")


def filters_of(path: str) -> tuple[Filter, ...]:
    """Return the filters of a list of the API."""
    known = msgspec.json.decode(FILE.read_bytes(), type=dict[str, tuple[Filter, ...]])
    return known[path]


def list_options(
    path: str,
    *,
    limit: int = 0,
    also: Mapping[str, Sequence[str]] | None = None,
    choices: Mapping[str, Sequence[str]] | None = None,
    complete: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> Callable[[F], F]:
    """Add the flags of a list and `--limit`, and pass what was given as `wanted`.

    limit: rows unless said otherwise, 0 for all. also: filter → further names of its flag. choices: filter → the words
    it takes, where the API's description does not say. complete: filter → what completes it. without: filters that the
    command has in another way, or "limit".
    """
    also, choices, complete = also or {}, choices or {}, complete or {}

    def add(function: F) -> F:
        known = [one for one in filters_of(path) if one.name not in without]

        @functools.wraps(function)
        def wrapped(*args: Any, limit: int = 0, **options: Any) -> Any:
            given = {one.name: options.pop(_parameter(one)) for one in known}
            return function(*args, wanted=Wanted(path, given, limit), **options)

        added: Any = wrapped
        if "limit" not in without:
            added = click.option(
                *("--limit", *also.get("limit", ())),
                "limit",
                default=limit,
                show_default=True,
                type=click.IntRange(0, 1_000_000),
                help="Rows at most; 0 for all.",
            )(added)
        for one in reversed(known):
            words = choices.get(one.name, one.choices)
            added = click.option(
                one.flag,
                *also.get(one.name, ()),
                _parameter(one),
                multiple=one.many,
                type=Moment() if one.is_time else click.Choice(words) if words else str,
                metavar=_metavar(one, words),
                help=f"{_sentence(one)}.",
                shell_complete=complete.get(one.name),
            )(added)
        added.list_of = path
        return added  # type: ignore[no-any-return]

    return add


def _parameter(one: Filter) -> str:
    return f"filter_{one.name}"


def _metavar(one: Filter, words: Sequence[str]) -> str | None:
    if words:
        return None
    if one.is_time:
        return "TIME"
    return "KEY=VALUE" if one.name == "label" else "TEXT"


def _sentence(one: Filter) -> str:
    text = one.help.replace("`", "").rstrip(".") or f"Only with this {one.name.replace('_', ' ')}"
    if one.is_time:
        text = f"{text}: 1h and 7d ago, or a time"
    return text + ("; several times for any of them" if one.many and one.name != "label" else "")
