"""A rule's condition: CEL over the newest values of one target, and over what they were in a time.

`avg(host.cpu_ratio, "5m") > 0.9 && host.load1 > 8`. Names, types and durations are checked when it is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from dogwatch.core.component import nearest
from dogwatch.core.units import format_duration, parse_duration
from dogwatch.expressions.cel_compile import Compiler
from dogwatch.expressions.cel_syntax import (
    Binary,
    Call,
    Chain,
    Choice,
    ConditionError,
    Has,
    Index,
    ListOf,
    Literal,
    Name,
    Node,
    OutsideError,
    Select,
    Unary,
    parse,
)
from dogwatch.expressions.cel_types import Checker, show
from dogwatch.expressions.conditions import Condition
from dogwatch.rules.names import NAMES, indexed
from dogwatch.rules.windows import Window

MAX_WINDOW_S = 7 * 86_400.0
# Function → its CEL type, and how a window answers it.
FUNCTIONS: Mapping[str, tuple[str, Callable[[Window], Any]]] = {
    "avg": ("double", Window.avg),
    "min": ("double", Window.min),
    "max": ("double", Window.max),
    "sum": ("double", Window.sum),
    "count": ("int", Window.count),
    "rate": ("double", Window.rate),
    "changes": ("int", Window.changes),
    "absent": ("bool", lambda window: window.count() == 0),
    "quantile": ("double", Window.avg),  # by its share; see Over.answer
}
_RESERVED = ("forecast",)
_PLAIN = ("size", "int", "double", "string", "matches", "contains", "startsWith", "endsWith", "has")


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a function over time. share: of a quantile. path: the name of the value in signals."""

    function: str
    path: str
    length_s: float
    share: float = 0.0

    def answer(self, window: Window) -> Any:
        """Return its value; None where the window has nothing to say."""
        if self.function == "quantile":
            return window.quantile(self.share)
        return FUNCTIONS[self.function][1](window)


class When(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled condition of a rule. newest: variable → name of the value. over: variable → function over time.

    tree: of the condition over these variables; kinds: their CEL types.
    """

    text: str
    condition: Condition
    newest: Mapping[str, str]
    over: Mapping[str, Over]
    tree: Node
    kinds: Mapping[str, str]

    @property
    def longest_s(self) -> float:
        return max((one.length_s for one in self.over.values()), default=0.0)


class _Reader:
    """Replaces what reads signals by variables that the compiler knows; positions stay those of the text."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.newest: dict[str, str] = {}
        self.over: dict[str, Over] = {}
        self.variables: dict[str, str] = {}

    def read(self, node: Node) -> Node:
        path = _path(node)
        if path is not None:
            variable = f"value {path}"
            self.newest[variable] = path
            self.variables[variable] = self._kind(node, path)
            return Name(node.start, node.end, variable)
        match node:
            case Call(function=function):
                return self._call(node, function)
            case Name(name=name):
                raise ConditionError(f"unknown name '{name}'", position=node.start, hint=self._hint(name))
            case Select(operand=operand) | Has(operand=operand):
                return replace(node, operand=self.read(operand))
            case Unary(operand=operand):
                return replace(node, operand=self.read(operand))
            case Index(operand=operand, key=key):
                return replace(node, operand=self.read(operand), key=self.read(key))
            case Binary(left=left, right=right):
                return replace(node, left=self.read(left), right=self.read(right))
            case Chain(items=items) | ListOf(items=items):
                return replace(node, items=tuple(map(self.read, items)))
            case Choice(test=test, yes=yes, no=no):
                return replace(node, test=self.read(test), yes=self.read(yes), no=self.read(no))
        return node

    def _hint(self, name: str) -> str:
        ends = [known for known in self.names if known.rpartition(".")[2] == name]
        return f"did you mean '{ends[0]}'?" if ends else nearest(name, list(self.names))

    def _kind(self, node: Node, path: str) -> str:
        name, bracket, _ = path.partition("[")
        if name not in self.names:
            raise ConditionError(f"unknown name '{name}'", position=node.start, hint=self._hint(name))
        if bracket and not (name in NAMES and NAMES[name].label):
            raise ConditionError(f"'{name}' is one value and cannot be indexed", position=node.start)
        return self.names[name]

    def _call(self, node: Call, function: str) -> Node:
        if function in _RESERVED:
            raise ConditionError(f"{function}() is not there yet", position=node.start)
        if node.method or function not in FUNCTIONS:
            if function not in _PLAIN:
                hint = nearest(function, [*FUNCTIONS, *_PLAIN])
                raise ConditionError(f"unknown function '{function}()'", position=node.start, hint=hint)
            return replace(node, args=tuple(map(self.read, node.args)))
        over = self._over(node, function)
        variable = f"{function} {over.path} {over.length_s} {over.share}"
        self.over[variable] = over
        self.variables[variable] = FUNCTIONS[function][0]
        return Name(node.start, node.end, variable)

    def _over(self, node: Call, function: str) -> Over:
        example = f'{function}(0.95, probe.duration_s, "5m")' if function == "quantile" else ""
        example = example or f'{function}(probe.duration_s, "5m")'
        args = node.args
        share = 0.0
        if function == "quantile":
            if len(args) != 3:
                raise ConditionError("quantile() wants a share, a value and a time", position=node.start, hint=example)
            share = _share(args[0])
            args = args[1:]
        if len(args) != 2:
            raise ConditionError(f"{function}() wants a value and a time", position=node.start, hint=example)
        path = _path(args[0])
        if path is None:
            raise ConditionError(f"{function}() wants the name of a value", position=args[0].start, hint=example)
        kind = self._kind(args[0], path)
        if path.startswith("alert."):
            raise ConditionError(
                "alerts of others are read as they are now", position=args[0].start, hint="say for how long with for:"
            )
        if kind == "string" and function not in ("count", "absent", "changes"):
            raise ConditionError(f"{function}() wants a number, and '{path}' is string", position=args[0].start)
        return Over(function=function, path=path, length_s=_length(args[1]), share=share)


def _path(node: Node) -> str | None:
    """Return `host.load1` or `host.filesystem_used_ratio["/"]` as a name of signals; None for anything else."""
    if isinstance(node, Index) and isinstance(node.key, Literal) and isinstance(node.key.value, str):
        name = _path(node.operand)
        return indexed(name, node.key.value) if name is not None and "[" not in name else None
    if isinstance(node, Select) and isinstance(node.operand, Name):
        return f"{node.operand.name}.{node.field}"
    return None


def _share(node: Node) -> float:
    if isinstance(node, Literal) and type(node.value) in (int, float) and 0 <= float(node.value or 0) <= 1:
        return float(node.value or 0)
    raise ConditionError("the share of a quantile is a number from 0 to 1", position=node.start)


def _length(node: Node) -> float:
    if not isinstance(node, Literal) or not isinstance(node.value, str):
        raise ConditionError('the time is a text, as in "5m"', position=node.start)
    try:
        length_s = parse_duration(node.value)
    except ValueError as error:
        raise ConditionError(str(error), position=node.start) from None
    if not 0 < length_s <= MAX_WINDOW_S:
        most = format_duration(MAX_WINDOW_S)
        raise ConditionError(f"the time must be more than nothing and at most {most}", position=node.start)
    return length_s


def compile_when(text: str, names: Mapping[str, str] | None = None) -> When:
    """Return the compiled condition. names: of values, with their CEL types; by default those of `names.NAMES`.

    Raises: ConditionError.
    """
    if not text.strip():
        raise ConditionError("the condition is empty")
    known = names if names is not None else {name: one.kind for name, one in NAMES.items()}
    reader = _Reader(known)
    try:
        tree = reader.read(parse(text))
        checker = Checker(text, reader.variables)
        kind = show(checker.of(tree))
        run = Compiler(checker.types).run(tree)
    except OutsideError as error:
        raise ConditionError(f"rules cannot use {error} here") from None
    if kind != "bool":
        raise ConditionError(f"the condition is {kind}, and must be true or false", hint="compare it with something")
    if not reader.newest and not reader.over:
        raise ConditionError("the condition reads nothing that is watched", hint="as in probe.duration_s > 1")
    condition = Condition(text, reader.variables, run, tree, reference=False)
    return When(
        text=text, condition=condition, newest=reader.newest, over=reader.over, tree=tree, kinds=reader.variables
    )
