"""Conditions as SQL over one kind of segment: what is certainly not meant is left out, what is not sure is said."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dogwatch.expressions.cel_syntax import Binary, Call, Chain, ListOf, Literal, Name, Node, Unary
from dogwatch.logs.store.layout import Meta
from dogwatch.logs.store.values import WORD_CLASS

_OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_METHODS = {
    "contains": "contains",
    "startsWith": "starts_with",
    "endsWith": "ends_with",
    "matches": "regexp_matches",
}
_PYTHON = {"str": str, "int": int, "float": float, "bool": bool}


class Where(msgspec.Struct):
    """SQL with its parameters. exact: whether a row for which it is true is certainly meant."""

    sql: str
    parameters: list[object]
    exact: bool = True


class _Unsure(Exception):
    """SQL cannot say whether it holds."""


class Columns:
    """Where a kind of segment keeps a name's values, as SQL with a type."""

    def __init__(self, meta: Meta) -> None:
        self._odd = frozenset(meta.odd)
        self._found: Mapping[str, tuple[str, str]] = {
            "id": ("id", "str"),
            "file": ("file", "str"),
            "source": (f"'{quoted(meta.source)}'", "str"),
            **{name: (column, kind) for name, (column, kind) in meta.columns.items()},
        }
        self.texts = [column for column, kind in meta.columns.values() if kind == "str"]
        self.has_more = bool(meta.odd)

    def is_odd(self, name: str) -> bool:
        """Return whether some of a name's values are not in a column."""
        return name in self._odd

    def of(self, name: str) -> tuple[str, str]:
        """Return (SQL, type); the type is "" where no record has the name. Raises: _Unsure."""
        if name in self._odd:
            raise _Unsure
        return self._found.get(name, ("NULL", ""))


def quoted(text: str) -> str:
    return text.replace("'", "''")


def compile_condition(node: Node, columns: Columns) -> Where:
    """Return SQL that is true at least for every row for which the condition holds."""
    return _compile(node, columns, positive=True)


def _compile(node: Node, columns: Columns, *, positive: bool) -> Where:
    match node:
        case Unary(op="!", operand=operand):
            found = _compile(operand, columns, positive=not positive)
            # In the other sense an unsure part is true, too: it is not turned round.
            return Where(f"(NOT {found.sql})", found.parameters) if found.exact else found
        case Chain(op=op, items=items):
            return _chain(op, [_compile(item, columns, positive=positive) for item in items], positive=positive)
    parameters: list[object] = []
    try:
        return Where(_leaf(node, columns, parameters), parameters)
    except _Unsure:
        return Where("TRUE", [], exact=False)


def _chain(op: str, parts: list[Where], *, positive: bool) -> Where:
    if all(part.exact for part in parts):
        word = " AND " if op == "&&" else " OR "
        return Where(f"({word.join(part.sql for part in parts)})", [one for part in parts for one in part.parameters])
    # What is not sure counts as true. In a negated chain the sure parts are to be false.
    together = (op == "&&") == positive
    sure = [part for part in parts if part.exact]
    if not together or not sure:
        return Where("TRUE", [], exact=False)
    turned = [part.sql if positive else f"(NOT {part.sql})" for part in sure]
    # A part that cannot be judged does not make a conjunction false where another, unsure one, decides otherwise.
    joined = " AND ".join(f"coalesce({one}, FALSE)" for one in turned)
    return Where(f"({joined})", [one for part in sure for one in part.parameters], exact=False)


def _leaf(node: Node, columns: Columns, parameters: list[object]) -> str:
    match node:
        case Literal(value=bool(value)):
            return "TRUE" if value else "FALSE"
        case Name(name=name):
            column, kind = columns.of(name)
            if kind not in ("bool", ""):
                raise _Unsure
            return f"CAST({column} AS BOOLEAN)"
        case Binary(op="in", left=Name(name=name), right=ListOf(items=items)):
            return _among(columns.of(name), items, parameters)
        case Binary(op=op, left=Name(name=name), right=Literal(value=value)) if op in _OPERATORS:
            return _compared(op, columns.of(name), value, parameters)
        case Binary(op=op, left=Literal(value=value), right=Name(name=name)) if op in _OPERATORS:
            return _compared(_FLIPPED[op], columns.of(name), value, parameters)
        case Call(function=function, args=(Name(name=name), Literal(value=str(text))), method=True):
            column, kind = columns.of(name)
            if function not in _METHODS or kind not in ("str", ""):
                raise _Unsure
            parameters.append(text)
            return f"{_METHODS[function]}(CAST({column} AS VARCHAR), ?)"
    raise _Unsure


def _compared(op: str, column: tuple[str, str], value: object, parameters: list[object]) -> str:
    sql, kind = column
    if not kind:
        return "CAST(NULL AS BOOLEAN)"
    if type(value) is not _PYTHON[kind] or (kind == "bool" and op not in ("==", "!=")):
        raise _Unsure
    parameters.append(value)
    return f"({sql} {_OPERATORS[op]} ?)"


def _among(column: tuple[str, str], items: tuple[Node, ...], parameters: list[object]) -> str:
    sql, kind = column
    if not kind:
        return "CAST(NULL AS BOOLEAN)"
    values = [item.value for item in items if isinstance(item, Literal)]
    if len(values) != len(items) or not values or any(type(value) is not _PYTHON[kind] for value in values):
        raise _Unsure
    parameters.extend(values)
    return f"({sql} IN ({', '.join('?' * len(values))}))"


def compile_words(words: list[str], columns: Columns) -> Where:
    """Return SQL that is true where every word stands in some text of the record."""
    texts = [*columns.texts, *(["more"] if columns.has_more else [])]
    if not texts:
        return Where("FALSE", []) if words else Where("TRUE", [])
    parts: list[str] = []
    parameters: list[object] = []
    for word in words:
        one = []
        pattern = f"(^|[^{WORD_CLASS[1:]}){_escaped(word)}($|[^{WORD_CLASS[1:]})"
        for text in texts:
            # The plain search first: it is many times faster, and mostly decides.
            one.append(f"({text} ILIKE ? AND regexp_matches({text}, ?))")
            parameters.extend((f"%{word}%", pattern))
        parts.append(f"({' OR '.join(f'coalesce({each}, FALSE)' for each in one)})")
    # Names within `more` are no text of the record.
    return Where(f"({' AND '.join(parts)})", parameters, exact=not columns.has_more)


def _escaped(word: str) -> str:
    # Case counts for nothing within ASCII alone, as in values.words.
    return "".join(f"[{char}{char.upper()}]" if char.isascii() and char.isalpha() else char for char in word)
