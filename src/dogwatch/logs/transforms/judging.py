"""Conditions over rows: each comparison over all values of a name at once, with CEL's third answer."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

from dogwatch.expressions.cel_syntax import Binary, Call, Chain, ListOf, Literal, Name, Node, Unary
from dogwatch.logs.rows import ABSENT, Rows

# True, False, None (a value is missing), or UNSURE: its type is not what the comparison expects, CEL must say.
Verdicts = list[Any]
UNSURE: Final = object()
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_TEXT: Mapping[str, Callable[[str, str], bool]] = {
    "contains": lambda value, text: text in value,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
}


def judge(node: Node, rows: Rows) -> Verdicts | None:
    """Return a verdict for each row; None where the condition is not of the kinds that are judged so."""
    match node:
        case Name(name=name):
            return [v if v.__class__ is bool else _other(v) for v in _values(name, rows)]
        case Unary(op="!", operand=operand):
            found = judge(operand, rows)
            return None if found is None else [(not v) if v.__class__ is bool else v for v in found]
        case Chain(op=op, items=items):
            parts = [judge(item, rows) for item in items]
            known = [part for part in parts if part is not None]
            return _join(known, decisive=op == "||") if len(known) == len(parts) else None
        case Binary(op="in", left=Name(name=name), right=ListOf(items=items)):
            return _among(name, items, rows)
        case Binary(op=op, left=Name(name=name), right=Literal(value=value)) if op in _COMPARE:
            return _compared(op, _values(name, rows), value)
        case Binary(op=op, left=Literal(value=value), right=Name(name=name)) if op in _COMPARE:
            return _compared(_FLIPPED[op], _values(name, rows), value)
        case Call(function=function, args=(Name(name=name), Literal(value=str(text))), method=True):
            return _text(function, _values(name, rows), text)
    return None


def _values(name: str, rows: Rows) -> list[Any]:
    found = rows.column(name)
    return [ABSENT] * len(rows) if found is None else found


def _other(value: object) -> object:
    return None if value is None or value is ABSENT else UNSURE


def _compared(op: str, values: list[Any], wanted: object) -> Verdicts | None:
    kind = wanted.__class__
    if kind not in (str, int, float, bool) or (kind is bool and op not in ("==", "!=")):
        return None
    if set(map(type, values)) == {kind}:
        # All at once, without bytecode for each.
        return list(map(_COMPARE[op], values, repeat(wanted)))
    if op == "==":
        return [v == wanted if v.__class__ is kind else _other(v) for v in values]
    if op == "!=":
        return [v != wanted if v.__class__ is kind else _other(v) for v in values]
    compare = _COMPARE[op]
    return [compare(v, wanted) if v.__class__ is kind else _other(v) for v in values]


def _among(name: str, items: Sequence[Node], rows: Rows) -> Verdicts | None:
    wanted = [item.value for item in items if isinstance(item, Literal)]
    kinds = {value.__class__ for value in wanted}
    if len(wanted) != len(items) or len(kinds) != 1 or not kinds <= {str, int}:
        return None
    kind, found = kinds.pop(), frozenset(wanted)
    return [v in found if v.__class__ is kind else _other(v) for v in _values(name, rows)]


def _text(function: str, values: list[Any], text: str) -> Verdicts | None:
    if function == "matches":
        import re2

        try:
            find = re2.compile(text).search
        except re2.error:
            return None
        return [find(v) is not None if v.__class__ is str else _other(v) for v in values]
    test = _TEXT.get(function)
    if test is None:
        return None
    return [test(v, text) if v.__class__ is str else _other(v) for v in values]


def _join(parts: list[Verdicts], *, decisive: bool) -> Verdicts:
    """Join verdicts: one decisive answer decides; otherwise what is not sure, or cannot be judged, stays so."""

    def one(given: tuple[object, ...]) -> object:
        if decisive in given:
            return decisive
        if UNSURE in given:
            return UNSURE
        return None if None in given else not decisive

    return [one(given) for given in zip(*parts, strict=True)]
