"""Lists of what a program holds at hand (users, rules, workers…), a page at a time: one way for all of them.

What the database finds by itself (runs, incidents, the audit trail) has cursors of its own.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar.di import NamedDependency
from litestar.params import QueryParameter, SkipValidation

from dogwatch.errors import UsageError
from dogwatch.web import listing
from dogwatch.web.api.models import Limit

T = TypeVar("T")
_KEPT = 2000
Cursor = Annotated[str, QueryParameter(max_length=_KEPT, description="next_cursor of the page before")]


class Listed(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """total: matches on all pages. next_cursor: "" on the last."""

    items: list[T]
    total: int
    next_cursor: str = ""


class _Place(msgspec.Struct, frozen=True):
    """What a cursor names: an item by its key, unique in its list."""

    name: str
    at: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of a list somebody asks for."""

    q: str
    cursor: str
    limit: int

    def page(self, rows: Iterable[T], key: Callable[[T], str]) -> Listed[T]:
        """Return the page. rows: those that may be seen, in order, as they are shown. key: what tells them apart.

        Raises: UsageError for a broken cursor.
        """
        found = self.matching(rows)
        chosen, following = page_of(found, key, cursor=self.cursor, limit=self.limit)
        return Listed(items=chosen, total=len(found), next_cursor=following)

    def matching(self, rows: Iterable[T]) -> Sequence[T]:
        """Return those that hold all words of the search in some of what is shown of them."""
        words = self.q.lower().split()
        if not words:
            return list(rows)
        return [row for row in rows if _holds(row, words)]


def page_of(rows: Sequence[T], key: Callable[[T], str], *, cursor: str, limit: int) -> tuple[list[T], str]:
    """Return the rows after the cursor, and the next one. Raises: UsageError for a broken one."""
    places = [_Place(key(row), at) for at, row in enumerate(rows)]
    chosen, following = listing.page(places, cursor=cursor, limit=limit)
    return [rows[one.at] for one in chosen], following


def sealed(kind: str, cursor: str) -> str:
    """Return a cursor of the database's as callers are given it: of no other list. kind: which list it is."""
    return base64.urlsafe_b64encode(msgspec.json.encode((kind, cursor))).decode().rstrip("=") if cursor else ""


def opened(kind: str, given: str) -> str:
    """Return the database's cursor. Raises: UsageError for what is none of this list."""
    if not given:
        return ""
    try:
        content = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))
        known, cursor = msgspec.json.decode(content, type=tuple[str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        known, cursor = "", ""
    if known != kind or not cursor:
        raise UsageError("the cursor is not one of this list", hint="take next_cursor of the page before")
    return cursor


def counted(kind: str, given: str) -> int | None:
    """Return the number in a cursor whose list is numbered; None where it begins. Raises: UsageError."""
    cursor = opened(kind, given)
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise UsageError("the cursor is not one of this list", hint="take next_cursor of the page before")
    return int(cursor) if cursor else None


def numbered(kind: str, number: int | None) -> str:
    """Return the cursor of a list that is numbered, "" for None."""
    return "" if number is None else sealed(kind, str(number))


def _holds(row: object, words: Sequence[str]) -> bool:
    text = "\n".join(_texts(msgspec.to_builtins(row, str_keys=True))).lower()
    return all(word in text for word in words)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            # A flag is found by its name where it is on.
            if one is True:
                yield str(key)
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def paging(
    q: Annotated[str, QueryParameter(max_length=500, description="Words that it must hold")] = "",
    cursor: Cursor = "",
    limit: Limit = 100,
) -> Wanted:
    """Provided to every handler that asks for `paging`."""
    return Wanted(q=q, cursor=cursor, limit=limit)


# Handlers name this parameter `paging`; the application provides it.
Page = NamedDependency[SkipValidation[Wanted]]
