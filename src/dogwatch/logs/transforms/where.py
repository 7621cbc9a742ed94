"""The `where` transform: a CEL condition, as column operations where it can be, row by row where it cannot."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dogwatch.core.units import Expression
from dogwatch.expressions.cel_syntax import (
    Binary,
    Call,
    Chain,
    ConditionError,
    ListOf,
    Literal,
    Name,
    Node,
    OutsideError,
    Unary,
    names,
    parse,
)
from dogwatch.expressions.conditions import Condition, ConditionFailure, compile_condition
from dogwatch.logs.rows import Book, Rows
from dogwatch.logs.splice import Touch
from dogwatch.logs.transform import Step, Transform
from dogwatch.logs.transforms.judging import UNSURE, judge

if TYPE_CHECKING:
    import polars as pl

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORD = re.compile(r"[A-Za-z_]\w*")


class WhereTransform(Transform, frozen=True, kw_only=True):
    """Keeps the records for which a condition over their columns holds.

    A record that it cannot judge, because a column is missing or of another type, is kept and counted.

    condition: CEL, `level != "debug" && status < 500`. Comparisons, `in`, contains, startsWith, endsWith, matches, &&,
    || and ! run on whole columns; anything else row by row, which is slow, and counted.
    """

    kind: ClassVar[str] = "where"
    short: ClassVar[str] = "condition"
    condition: Expression

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        try:
            _compile(self.condition)
        except ConditionError as error:
            yield ("condition",), str(error), error.hint

    def open(self) -> Step:
        return _Where(self.condition)


def _compile(text: str) -> tuple[Node | None, Condition]:
    try:
        tree: Node | None = parse(text)
        used = names(tree) if tree is not None else set()
    except OutsideError:
        tree, used = None, set(_WORD.findall(text)) - {"in", "true", "false", "null", "has", "size"}
    return tree, compile_condition(text, dict.fromkeys(sorted(used), "dyn"))


class _NotColumns(Exception):
    """It cannot be said in column operations."""


class _Where:
    reads_lines = False
    writes = ()

    def __init__(self, text: str) -> None:
        self._tree, self._condition = _compile(text)
        self.counts = {"dropped": 0, "unjudged": 0, "row_by_row": 0}

    def touch(self) -> Touch:
        return Touch(reads=frozenset(self._condition.names), judges=True)

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        try:
            if self._tree is None:
                raise _NotColumns
            judged = frame.select(_column(self._tree, frame.schema).alias("kept"))["kept"]
            if judged.dtype != pl.Boolean:
                raise _NotColumns
            if judged.len() != frame.height:
                judged = judged.new_from_index(0, frame.height)
        except (_NotColumns, pl.exceptions.PolarsError):
            judged = pl.Series([self._one(row) for row in frame.iter_rows(named=True)], dtype=pl.Boolean)
            self.counts["row_by_row"] += frame.height
        self.counts["unjudged"] += judged.null_count()
        kept = frame.filter(judged.fill_null(value=True))
        self.counts["dropped"] += frame.height - kept.height
        return kept

    def apply_rows(self, rows: Rows, book: Book) -> Rows:  # noqa: ARG002
        judged = None if self._tree is None else judge(self._tree, rows)
        if judged is None:
            judged = [UNSURE] * len(rows)
            self.counts["row_by_row"] += len(rows)
        if UNSURE in judged:
            for at, verdict in enumerate(judged):
                if verdict is UNSURE:
                    judged[at] = self._one(rows.values_of(at, self._condition.names))
        unjudged = judged.count(None)
        if not unjudged and all(judged):
            return rows
        self.counts["unjudged"] += unjudged
        kept = rows.keep([verdict is not False for verdict in judged] if unjudged else judged)
        self.counts["dropped"] += len(rows) - len(kept)
        return kept

    def _one(self, row: Mapping[str, Any]) -> bool | None:
        try:
            return self._condition.test({name: value for name, value in row.items() if value is not None})
        except ConditionFailure:
            return None


def _column(node: Node, schema: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    match node:
        case Literal(value=value) if isinstance(value, str | int | float | bool):
            return pl.lit(value)
        case Name(name=name):
            return pl.col(name) if name in schema else pl.lit(None)
        case Unary(op="!", operand=operand):
            return ~_column(operand, schema)
        case Chain(op=op, items=items):
            found = [_column(item, schema) for item in items]
            return pl.all_horizontal(found) if op == "&&" else pl.any_horizontal(found)
        case Binary(op="in", left=left, right=ListOf(items=items)):
            values = [item.value for item in items if isinstance(item, Literal)]
            if len(values) != len(items) or len({type(value) for value in values}) != 1:
                raise _NotColumns
            return _column(left, schema).is_in(values)
        case Binary(op=op, left=left, right=right) if op in _COMPARE:
            result: pl.Expr = _COMPARE[op](_column(left, schema), _column(right, schema))
            return result
        case Call(function=function, args=(target, Literal(value=str(text))), method=True):
            return _text_test(function, _column(target, schema).cast(pl.String), text)
    raise _NotColumns


def _text_test(function: str, column: pl.Expr, text: str) -> pl.Expr:
    if function == "contains":
        return column.str.contains(text, literal=True)
    if function == "startsWith":
        return column.str.starts_with(text)
    if function == "endsWith":
        return column.str.ends_with(text)
    if function == "matches":
        return column.str.contains(text)
    raise _NotColumns
