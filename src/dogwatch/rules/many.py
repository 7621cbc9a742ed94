"""Many rules over many targets at once: which of them may hold now, as tables of rules by targets.

Rules that differ in their numbers only are one computation with those numbers as a column; what several read is
looked up once. The tables only find whom to ask: the real condition says what is so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from dogwatch.expressions.cel_syntax import Binary, Call, Chain, Choice, ListOf, Literal, Name, Node, Unary
from dogwatch.rules.gauge import Seen
from dogwatch.rules.rehearsal.truth import (
    NO,
    UNKNOWN,
    YES,
    Leaf,
    Number,
    Term,
    Text,
    Truths,
    Unsupported,
    compile_truths,
)
from dogwatch.rules.spec import Rule
from dogwatch.rules.when import Over, When

# Cells of one table: it bounds the memory.
_MOST_CELLS = 4_000_000


class _Shape(msgspec.Struct, eq=False):
    """Rules of one form. numbers: of each, by the place in the form. rules: their places in the list."""

    tree: Node
    when: When
    kinds: dict[str, str]
    numbers: list[list[float]]
    rules: list[int]
    run: Any = None
    columns: dict[str, Number] = {}


class Table:
    """Rules that the same targets are looked at by. loose: those that are asked each time."""

    def __init__(self, rules: Sequence[Rule], *, over: bool = False) -> None:
        """over: those alone that change as time passes."""
        self.rules = rules
        self.loose: list[int] = []
        shapes: dict[Any, _Shape] = {}
        for place, rule in enumerate(rules):
            if over and not rule.over:
                continue
            numbers: list[tuple[float, str]] = []
            tree, key = _form(rule.when.tree, numbers)
            shape = shapes.get(key)
            if shape is None:
                kinds = {f"number {at}": kind for at, (_value, kind) in enumerate(numbers)}
                shape = _Shape(tree=tree, when=rule.when, kinds={**rule.when.kinds, **kinds}, numbers=[], rules=[])
                shapes[key] = shape
            shape.numbers.append([value for value, _kind in numbers])
            shape.rules.append(place)
        self._shapes = [shape for shape in shapes.values() if self._ready(shape)]

    def _ready(self, shape: _Shape) -> bool:
        try:
            shape.run = compile_truths(shape.tree, shape.kinds)
        except Unsupported:
            self.loose += shape.rules
            return False
        table = np.array(shape.numbers, np.float64)
        names = [name for name in shape.kinds if name.startswith("number ")]
        shape.columns = {
            name: Number(table[:, at, None], table[:, at, None], whole=shape.kinds[name] == "int")
            for at, name in enumerate(names)
        }
        return True

    def holding(self, seen: Sequence[Seen], times: Sequence[float]) -> Iterator[tuple[int, Rule]]:
        """Yield (place of the target, rule) where the rule may hold. times: for when each target is asked."""
        most = max((len(shape.rules) for shape in self._shapes), default=1)
        step = max(1, _MOST_CELLS // most)
        for at in range(0, len(seen), step):
            terms = _Terms(seen[at : at + step], times[at : at + step])
            for shape in self._shapes:
                for rule, target in terms.holding(shape):
                    yield at + target, self.rules[shape.rules[rule]]
            for place in self.loose:
                for target in range(len(terms.seen)):
                    yield at + target, self.rules[place]


class _Terms:
    """What values are of some targets, each looked up once."""

    def __init__(self, seen: Sequence[Seen], times: Sequence[float]) -> None:
        self.seen, self.times = seen, times
        self._known: dict[str, Term] = {}

    def holding(self, shape: _Shape) -> list[tuple[int, int]]:
        """Return (rule, target) where a rule of this form may hold."""
        with np.errstate(all="ignore"):
            mask = np.asarray(shape.run(self._leaf(shape)), np.uint8)
        wide = np.broadcast_to(mask, (len(shape.rules), len(self.seen)))
        rules, targets = np.nonzero(wide & YES)
        return list(zip(rules.tolist(), targets.tolist(), strict=True))

    def _leaf(self, shape: _Shape) -> Leaf:
        def leaf(name: str) -> Term:
            if name in shape.columns:
                return shape.columns[name]
            if name not in self._known:
                when = shape.when
                self._known[name] = (
                    self._newest(when.newest[name], when.kinds[name]) if name in when.newest else self._over(when, name)
                )
            return self._known[name]

        return leaf

    def _newest(self, path: str, kind: str) -> Term:
        return _term([one.newest.get(path) for one in self.seen], kind)

    def _over(self, when: When, name: str) -> Term:
        over = when.over[name]
        values = [_answer(one, over, time_s) for one, time_s in zip(self.seen, self.times, strict=True)]
        return _term(values, when.kinds[name])


def _answer(seen: Seen, over: Over, now_s: float) -> Any:
    """Return what a function over time says, as the gauge has it."""
    window = seen.windows.get((over.path, over.length_s))
    if window is None:
        return {"absent": True, "count": 0}.get(over.function)
    window.move(now_s)
    return over.answer(window)


def _term(values: list[Any], kind: str) -> Term:
    if kind == "string":
        words: dict[str, int] = {}
        codes = np.array([-1 if one is None else words.setdefault(one, len(words)) for one in values], np.int64)
        return Text(np.maximum(codes, 0), list(words) or [""], codes < 0)
    if kind == "bool":
        return Truths(np.array([UNKNOWN if one is None else YES if one else NO for one in values], np.uint8))
    gone: Any = False
    if None in values:
        gone = np.array([one is None for one in values])
        values = [0.0 if one is None else one for one in values]
    column = np.array(values, np.float64)
    return Number(column, column, gone, gone, whole=kind == "int")


def _form(node: Node, numbers: list[tuple[float, str]]) -> tuple[Node, Any]:
    """Return a condition with names in place of its numbers, and what tells forms apart. numbers: is filled."""
    match node:
        case Literal(value=value) if type(value) in (int, float):
            kind = "int" if isinstance(value, int) else "double"
            numbers.append((float(value or 0), kind))
            return Name(node.start, node.end, f"number {len(numbers) - 1}"), ("number", kind)
        case Literal(value=value):
            return node, ("literal", type(value).__name__, value)
        case Name(name=name):
            return node, ("name", name)
        case Unary(op=op):
            operand, key = _form(node.operand, numbers)
            return replace(node, operand=operand), (op, key)
        case Binary(op=op):
            (left, one), (right, two) = _form(node.left, numbers), _form(node.right, numbers)
            return replace(node, left=left, right=right), (op, one, two)
        case Chain(items=items) | ListOf(items=items):
            parts = [_form(item, numbers) for item in items]
            name = node.op if isinstance(node, Chain) else "list"
            return replace(node, items=tuple(part for part, _ in parts)), (name, *(key for _, key in parts))
        case Choice():
            test, yes, no = (_form(one, numbers) for one in (node.test, node.yes, node.no))
            return replace(node, test=test[0], yes=yes[0], no=no[0]), ("?", test[1], yes[1], no[1])
        case Call(args=args):
            parts = [_form(arg, numbers) for arg in args]
            return replace(node, args=tuple(part for part, _ in parts)), (node.function, *(key for _, key in parts))
    return node, ("other", id(node))
