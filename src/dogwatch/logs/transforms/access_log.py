"""Access logs of nginx and Apache as rows: cut at quotes and spaces, with the pattern for lines that look otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dogwatch.logs.rows import ABSENT, Book, Rows, Unread

if TYPE_CHECKING:
    import polars as pl

ACCESS_PATTERN = (
    r"^(?P<remote_addr>\S+) \S+ (?P<remote_user>\S+) \[(?P<time_local>[^\]]+)\] "
    r'"(?P<method>[A-Z]+) (?P<path>\S+) (?P<protocol>[^"]+)" (?P<status>\d{3}) (?P<body_bytes_sent>\d+|-)'
    r'(?: "(?P<http_referer>[^"]*)" "(?P<http_user_agent>[^"]*)")?'
)
ACCESS_NUMBERS = ("status", "body_bytes_sent")
_NAMES = tuple(re.compile(ACCESS_PATTERN).groupindex)
# Each part is bounded by a character that it cannot hold, so that the pattern never tries twice.
_MATCH = re.compile(
    r"(\S++) \S++ (\S++) \[([^\]]++)\] "
    r'"([A-Z]++) (\S++) ([^"]++)" ([0-9]{3}) ([0-9]++|-)(?: "([^"]*+)" "([^"]*+)")?+',
    re.ASCII,
).match
# What \S does not take, and cutting at spaces would.
_ODD = (b"\t", b"\r", b"\x0b", b"\x0c")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"))
_STATUSES = {f"{number:03}": number for number in range(1000)}
Fields = tuple[str, str, str, str, str, str, int, int | None, str | None, str | None]


class _ByColumns(Protocol):
    counts: dict[str, int]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame: ...


class AccessLog:
    """The step; columns are left to the pattern."""

    def __init__(self, columns: _ByColumns, field: str, *, keep: bool) -> None:
        self._columns = columns
        self._field = field
        self._keep = keep
        self.reads_lines = field == "message"
        self.writes = _NAMES
        self.counts = columns.counts

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._columns.apply(frame)

    def apply_rows(self, rows: Rows | Unread, book: Book) -> Rows:
        if isinstance(rows, Unread):
            return self._fresh(rows, book)
        column = rows.column(self._field) or [ABSENT] * len(rows)
        keys = [rows.shape.attributes[name] for name in _NAMES]
        own = rows.shape.attributes.get(self._field, "")
        for one, text in zip(rows.items, column, strict=True):
            found = by_pattern(text) if text.__class__ is str else None
            if found is None:
                self.counts["unread"] += 1
                continue
            if not self._keep and own:
                setattr(one, own, ABSENT)
            for key, value in zip(keys, found, strict=True):
                setattr(one, key, value)
        return rows

    def _fresh(self, unread: Unread, book: Book) -> Rows:
        shape = book.shape
        order = [name for name in shape.names if name in _NAMES]
        if self._keep or tuple(order) != _NAMES:
            return self.apply_rows(unread.messages(book), book)
        lines = unread.texts()
        # Positional: id, source and file, then the names in their order.
        lead = (ABSENT, unread.source, unread.path, *[ABSENT] * shape.names.index(_NAMES[0]))
        make, message = shape.type, shape.attributes["message"]
        if any(odd in unread.data for odd in _ODD):
            found = map(by_pattern, lines)
            items: list[Any] = [make(*lead, *one) if one else None for one in found]
        else:
            items = by_quotes(lines, make, lead)
        if None in items:
            self.counts["unread"] += items.count(None)
            items = [one or make(**{message: line}) for one, line in zip(items, lines, strict=True)]
        return Rows(shape, items, unread.offsets, unread.lines)


def by_pattern(line: str) -> Fields | None:
    """Return the fields of a line, None where it does not look like one."""
    match = _MATCH(line)
    if match is None:
        return None
    address, user, time, method, path, protocol, status, size, referer, agent = match.groups()
    return address, user, time, method, path, protocol, int(status), _size(size), referer, agent


def _size(text: str) -> int | None:
    return int(text) if text != "-" and len(text) < 19 else None


def by_quotes(lines: Sequence[str], make: Callable[..., Any], lead: Sequence[object]) -> list[Any]:
    """Make records of lines without odd spaces, several times faster; what is not plain goes to the pattern."""
    found: list[Any] = []
    add = found.append
    for line in lines:
        try:
            head, request, numbers, referer, space, agent, end = line.split('"')
            address, ident, user, time = head.split(" ", 3)
            method, path, protocol = request.split(" ")
            before, status, size, after = numbers.split(" ")
            if (
                method in _METHODS
                and address and ident and user and path and protocol and space == " "
                and time.find("]") == len(time) - 2 > 1 and time[0] == "[" and time[-1] == " "
                and not (before or after or end)
                and size.isdecimal() and len(size) < 19
            ):  # fmt: skip
                number = _STATUSES[status]
                add(make(*lead, address, user, time[1:-2], method, path, protocol, number, int(size), referer, agent))
                continue
        except (ValueError, KeyError):
            pass
        one = by_pattern(line)
        add(make(*lead, *one) if one else None)
    return found
