"""Access logs of nginx and Apache as rows: cut at quotes and spaces, with the pattern for lines that look otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dogwatch.logs.rows import ABSENT, Book, Rows, Unread
from dogwatch.logs.splice import Columns, Touch

if TYPE_CHECKING:
    import polars as pl

# A quoted part: nginx writes a quote in it as \x22, Apache as \". What a client sent that is no request (a handshake of
# TLS, nothing at all) is `request`. The last part is what many configurations add, told from others by its looks.
_QUOTED = r'(?:[^"\\]|\\.)*'
_ADDRESSES = r'-|[^"]*(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:|unknown)[^"]*'
ACCESS_PATTERN = (
    r"^(?P<remote_addr>\S+) \S+ (?P<remote_user>\S+(?: [^\s\[]\S*)*) \[(?P<time_local>[^\]]+)\] "
    rf'"(?:(?P<method>[A-Z]+) (?P<path>{_QUOTED}) (?P<protocol>[A-Z]+/[0-9.]+)|(?P<request>{_QUOTED}))" '
    r"(?P<status>\d{3}) (?P<body_bytes_sent>\d+|-)"
    rf'(?: "(?P<http_referer>{_QUOTED})" "(?P<http_user_agent>{_QUOTED})"'
    rf'(?: "(?P<http_x_forwarded_for>{_ADDRESSES})")?)?'
)
ACCESS_NUMBERS = ("status", "body_bytes_sent")
# What most lines have, and then what few have.
_USUAL = (
    "remote_addr", "remote_user", "time_local", "method", "path", "protocol", "status", "body_bytes_sent",
    "http_referer", "http_user_agent",
)  # fmt: skip
_NAMES = (*_USUAL, "http_x_forwarded_for", "request")
# The same without trying again: each part is bounded by what it cannot hold, but for a path, which ends at the last
# space.
_PARTS = re.compile(
    r"(\S++) \S++ (\S++(?: [^\s\[]\S*+)*+) \[([^\]]++)\] "
    r'"([^"\\]*+(?:\\.[^"\\]*+)*+)" ([0-9]{3}) ([0-9]++|-)'
    r'(?: "([^"\\]*+(?:\\.[^"\\]*+)*+)" "([^"\\]*+(?:\\.[^"\\]*+)*+)"(?: "([^"]*+)")?+)?+',
    re.ASCII,
).match
_REQUEST = re.compile(r"([A-Z]+) (.*) ([A-Z]+/[0-9.]+)", re.ASCII | re.DOTALL).fullmatch
_FORWARDED = re.compile(_ADDRESSES, re.ASCII).fullmatch
# What \S does not take, and cutting at spaces would.
_ODD = (b"\t", b"\r", b"\x0b", b"\x0c")
_PROTOCOLS = frozenset(("HTTP/1.1", "HTTP/2.0", "HTTP/1.0", "HTTP/3.0", "HTTP/0.9"))
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"))
_LINE_METHODS = {"\n" + method: method for method in _METHODS}
_STATUSES = {f"{number:03}": number for number in range(1000)}
_STATUS_TEXTS = list(_STATUSES)
_STATUS, _SIZE = _USUAL.index("status"), _USUAL.index("body_bytes_sent")
Fields = tuple[Any, ...]


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

    def touch(self) -> Touch | None:
        if self._keep or not self.reads_lines:
            return None
        return Touch(first=True, columns=json_columns, makes=frozenset((*_NAMES, "message")))

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
        # Positional: id, source and file, then the names in their order.
        lead = (ABSENT, unread.source, unread.path, *[ABSENT] * shape.names.index(_NAMES[0]))
        make, message = shape.type, shape.attributes["message"]
        odd = any(one in unread.data for one in _ODD)
        columns = None if odd or unread.joined or not unread.lines else by_columns(unread.data, len(unread.lines))
        if columns is not None:
            return Rows(shape, list(map(make, *map(repeat, lead), *columns)), unread.offsets, unread.lines)
        lines = unread.texts()
        if odd:
            found = map(by_pattern, lines)
            items: list[Any] = [make(*lead, *one) if one else None for one in found]
        else:
            items = by_quotes(lines, make, lead)
        if None in items:
            self.counts["unread"] += items.count(None)
            items = [one or make(**{message: line}) for one, line in zip(items, lines, strict=True)]
        return Rows(shape, items, unread.offsets, unread.lines)


def by_pattern(line: str) -> Fields | None:
    """Return the fields of a line, ABSENT for those it has not; None where it does not look like one."""
    match = _PARTS(line)
    if match is None:
        return None
    fields: tuple[Any, ...] = match.groups(ABSENT)
    address, user, time, asked, status, size, referer, agent, forwarded = fields
    said = _REQUEST(asked)
    method, path, protocol = (ABSENT, ABSENT, ABSENT) if said is None else said.groups()
    if forwarded is not ABSENT and _FORWARDED(forwarded) is None:
        forwarded = ABSENT
    request = asked if said is None else ABSENT
    return (
        address, user, time, method, path, protocol, int(status), _size(size), referer, agent, forwarded, request
    )  # fmt: skip


def _size(text: str) -> Any:
    return int(text) if text != "-" and len(text) < 19 else ABSENT


def by_columns(data: bytes, count: int) -> tuple[list[Any], ...] | None:
    """Return the fields of lines that are all of the plain kind, a column for each; None where one is not.

    The text is cut at every quote, and the parts that stand at the same place of their lines at every space, so that no
    line is looked at by itself. Newlines keep watch: each stays with what follows it, and where the first part of every
    line has one there is none elsewhere, so that every line has as many parts as the others.
    """
    if b"\\" in data and b'\\"' in data:
        return None  # not every quote is an end
    parts = ("\n" + data.decode("utf-8", "replace")).split('"')
    # With the addresses of proxies, or without.
    width = 8 if len(parts) == 8 * count + 1 else 6
    heads = parts[0:-1:width]
    begin = "".join(heads)
    if (
        len(parts) != width * count + 1 or parts[-1] != "\n" or parts[4::width] != [" "] * count
        or not all(map(str.startswith, heads, repeat("\n")))
        or begin.count("] \n") != count - 1 or not begin.endswith("] ")
    ):  # fmt: skip
        return None
    if width == 8 and (parts[6::8] != [" "] * count or not all(map(_FORWARDED, parts[7::8]))):
        return None
    who = begin[:-2].replace("] \n", " [\n").split(" [")
    names = " ".join(who[0::2]).split(" ")
    addresses, users, times = "".join(names[0::3])[1:].split("\n"), names[2::3], who[1::2]
    request = ("\n" + " \n".join(parts[1::width])).split(" ")
    numbers = "\n".join(parts[2::width]).split(" ")
    sizes, protocols = numbers[2::3], request[2::3]
    if (
        (len(who), len(names), len(addresses)) != (2 * count, 3 * count, count)
        or len(request) != 3 * count or len(numbers) != 3 * count + 1
        or numbers[0] or numbers[-1] or numbers[3:-1:3] != ["\n"] * (count - 1)
        or not (all(names) and all(addresses) and all(times) and all(request[1::3]))
        or "]" in "".join(times)
        or (protocols.count("HTTP/1.1") != count and not _PROTOCOLS.issuperset(protocols))
    ):  # fmt: skip
        return None
    try:
        methods = list(map(_LINE_METHODS.__getitem__, request[0::3]))
        statuses = list(map(_STATUSES.__getitem__, numbers[1::3]))
        lengths = _lengths(sizes)
    except (KeyError, ValueError):
        return None
    found = (
        addresses, users, times, methods, request[1::3], protocols, statuses, lengths, parts[3::width], parts[5::width]
    )  # fmt: skip
    return (*found, parts[7::8]) if width == 8 else found


def json_columns(data: bytes, count: int) -> Columns | None:
    """Return the fields of plain lines as JSON without the records between; None where something would be escaped."""
    if not count or b"\\" in data or any(one in data for one in _ODD) or (found := by_columns(data, count)) is None:
        return None
    width = 6 if len(found) == len(_USUAL) else 8
    sizes, statuses = found[_SIZE], found[_STATUS]
    # Newlines and quotes are between the fields. What else is escaped would make it longer.
    if len(msgspec.json.encode(data.decode())) != len(data) + 2 + (width + 1) * count or ABSENT in sizes:
        return None
    if min(statuses) < 100:
        return None  # JSON has no zeros before a number
    values = list(found)
    values[_SIZE] = msgspec.json.encode(sizes)[1:-1].decode().split(",")
    values[_STATUS] = list(map(_STATUS_TEXTS.__getitem__, statuses))
    before, named = '"', []
    for name, column in zip(_NAMES, values, strict=False):
        after = "" if name in ACCESS_NUMBERS else '"'
        named.append((f'{before}{name}":{after}', column))
        before = f'{after},"'
    return Columns(named, f"{after}}}", dict(zip(_NAMES, found, strict=False)))


def _lengths(sizes: list[str]) -> list[Any]:
    """Return the numbers; ABSENT for a dash. Raises: ValueError where one is something else, or very long."""
    digits = "".join(sizes)
    if digits.isascii() and digits.isdecimal() and max(map(len, sizes)) < 19:
        return list(map(int, sizes))
    if any(size != "-" and not (size.isascii() and size.isdecimal() and len(size) < 19) for size in sizes):
        raise ValueError(sizes)
    return [ABSENT if size == "-" else int(size) for size in sizes]


def by_quotes(lines: Sequence[str], make: Callable[..., Any], lead: Sequence[object]) -> list[Any]:
    """Make records of lines without odd spaces, several times faster; what is not plain goes to the pattern."""
    found: list[Any] = []
    add = found.append
    for line in lines:
        try:
            if "\\" in line and '\\"' in line:
                raise ValueError(line)
            head, request, numbers, referer, space, agent, end = line.split('"')
            address, ident, user, time = head.split(" ", 3)
            method, path, protocol = request.split(" ")
            before, status, size, after = numbers.split(" ")
            if (
                method in _METHODS
                and address and ident and user and path and protocol in _PROTOCOLS and space == " "
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
