"""CEL conditions as Python closures: a few hundred nanoseconds an evaluation, no machine code to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dogwatch.expressions import cel_values as ops
from dogwatch.expressions.cel_regex import matcher
from dogwatch.expressions.cel_syntax import (
    Binary,
    Call,
    Chain,
    Choice,
    Has,
    Index,
    ListOf,
    Literal,
    Name,
    Node,
    OutsideError,
    Select,
    Unary,
)
from dogwatch.expressions.cel_types import Type
from dogwatch.expressions.cel_values import CelError, kind_of

Values = Mapping[str, Any]
Run = Callable[[Values], Any]
_MISSING = object()


class Compiler:
    """Turns checked nodes into closures. types: by id of the node, as the checker found them."""

    def __init__(self, types: Mapping[int, Type]) -> None:
        self._types = types

    def run(self, node: Node) -> Run:
        match node:
            case Literal(value=value):
                return lambda _values: value
            case Name(name=name):
                return variable(name, self._types[id(node)])
            case Select(field=field):
                return _select(self.run(node.operand), field)
            case Has(field=field):
                operand = self.run(node.operand)
                return lambda values: ops.has(operand(values), field)
            case Index():
                return _two(ops.index, self.run(node.operand), self.run(node.key))
            case Call():
                return self._call(node)
            case Unary():
                return self._unary(node)
            case Binary():
                return self._binary(node)
            case Chain():
                items = tuple(self.run(item) for item in node.items)
                return _chain(node.op, items)
            case Choice():
                return _choice(self.run(node.test), self.run(node.yes), self.run(node.no))
            case ListOf():
                parts = tuple(self.run(item) for item in node.items)
                return lambda values: [part(values) for part in parts]
        raise OutsideError(type(node).__name__)

    def _unary(self, node: Unary) -> Run:
        operand = self.run(node.operand)
        if node.op == "-":
            return lambda values: ops.negate(operand(values))

        def negated(values: Values) -> bool:
            value = operand(values)
            if type(value) is not bool:
                raise CelError(f"'!' cannot take {kind_of(value)}")
            return not value

        return negated

    def _binary(self, node: Binary) -> Run:
        left, right, op = self.run(node.left), self.run(node.right), node.op
        if op in _ARITHMETIC:
            return _two(_ARITHMETIC[op], left, right)
        if op == "in":
            return _two(_in, left, right)
        types = self._types[id(node.left)], self._types[id(node.right)]
        plain = types[0] == types[1] and types[0] in ("int", "string", "bool", "double")
        if plain:
            constant = node.right.value if isinstance(node.right, Literal) else _MISSING
            if isinstance(node.left, Name) and constant is not _MISSING and op in ("==", "<", ">"):
                return _compare_variable(op, left, node.left.name, _EXACT[str(types[0])], constant)
            return _compare_plain(op, left, right, constant)
        if op == "==":
            return _two(ops.equal, left, right)
        if op == "!=":
            return lambda values: not ops.equal(left(values), right(values))
        return lambda values: ops.ordered(op, left(values), right(values))

    def _call(self, node: Call) -> Run:
        args = [self.run(argument) for argument in node.args]
        if node.function in _ONE:
            function, argument = _ONE[node.function], args[0]
            return lambda values: function(argument(values))
        if node.function == "matches":
            pattern = node.args[1]
            if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
                raise OutsideError("a pattern that is computed")
            search = matcher(pattern.value)
            if isinstance(node.args[0], Name):
                return _search_variable(node.args[0].name, search, _text_constant(args[0], search, "matches"))
            return _text_constant(args[0], search, "matches")
        find = _TEXT[node.function]
        return _text(args[0], args[1], find, node.function)


_ARITHMETIC = {
    "+": ops.add,
    "-": ops.subtract,
    "*": ops.multiply,
    "/": ops.divide,
    "%": ops.remainder,
}
_ONE: Mapping[str, Callable[[Any], Any]] = {
    "size": ops.size,
    "int": ops.to_int,
    "double": ops.to_double,
    "string": ops.to_string,
}
_TEXT: Mapping[str, Callable[[str, str], bool]] = {
    "contains": str.__contains__,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
}


def variable(name: str, kind: Type) -> Run:
    """Return a closure that reads a variable and holds it to its declared type."""
    wanted = kind if isinstance(kind, str) else str(kind[0])

    def anything(values: Values) -> Any:
        try:
            return values[name]
        except KeyError:
            raise CelError(f"{name} has no value here") from None

    if wanted == "dyn":
        return anything
    exact = _EXACT[wanted]

    def typed(values: Values) -> Any:
        try:
            value = values[name]
        except KeyError:
            raise CelError(f"{name} has no value here") from None
        return value if type(value) is exact else _coerce(name, wanted, value)

    return typed


_EXACT: Mapping[str, type] = {"int": int, "double": float, "string": str, "bool": bool, "list": list, "map": dict}


def _coerce(name: str, wanted: str, value: Any) -> Any:
    """Take what Python calls by another name (a tuple for a list, an int for a whole double), nothing more."""
    if value is None:
        raise CelError(f"{name} has no value here")
    if wanted == "double" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted == "int" and isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if (wanted == "list" and isinstance(value, tuple)) or (wanted == "map" and isinstance(value, Mapping)):
        return value
    if wanted in ("string", "double") and isinstance(value, _EXACT[wanted]):
        return _EXACT[wanted](value)
    raise CelError(f"{name} should be {wanted} and is {kind_of(value)}")


def _select(operand: Run, field: str) -> Run:
    def selected(values: Values) -> Any:
        container = operand(values)
        if type(container) is dict and field in container:
            return container[field]
        return ops.select(container, field)

    return selected


def _two(function: Callable[[Any, Any], Any], left: Run, right: Run) -> Run:
    return lambda values: function(left(values), right(values))


def _in(value: Any, container: Any) -> bool:
    return ops.contains(container, value)


def _compare_plain(op: str, left: Run, right: Run, constant: Any) -> Run:
    """Compare two of one scalar type, which the checker has proved: Python's operators mean the same."""
    if constant is not _MISSING:
        if op == "==":
            return lambda values: left(values) == constant
        if op == "<":
            return lambda values: left(values) < constant
        if op == ">":
            return lambda values: left(values) > constant
    match op:
        case "==":
            return lambda values: left(values) == right(values)
        case "!=":
            return lambda values: left(values) != right(values)
        case "<":
            return lambda values: left(values) < right(values)
        case "<=":
            return lambda values: left(values) <= right(values)
        case ">":
            return lambda values: left(values) > right(values)
    return lambda values: left(values) >= right(values)


def _compare_variable(op: str, read: Run, name: str, exact: type, constant: Any) -> Run:
    """Compare a variable with a constant in one call; where the variable is odd, `read` says what becomes of it."""

    def equal(values: Values) -> bool:
        value = values.get(name)
        return bool((value if type(value) is exact else read(values)) == constant)

    def below(values: Values) -> bool:
        value = values.get(name)
        return bool((value if type(value) is exact else read(values)) < constant)

    def above(values: Values) -> bool:
        value = values.get(name)
        return bool((value if type(value) is exact else read(values)) > constant)

    return {"==": equal, "<": below, ">": above}[op]


def _search_variable(name: str, search: Callable[[str], object], whole: Run) -> Run:
    def found(values: Values) -> bool:
        value = values.get(name)
        return bool(search(value)) if type(value) is str else bool(whole(values))

    return found


def _text(target: Run, argument: Run, find: Callable[[str, str], bool], name: str) -> Run:
    def found(values: Values) -> bool:
        text, part = target(values), argument(values)
        if type(text) is not str or type(part) is not str:
            raise CelError(f"{name}() cannot take {kind_of(text)} and {kind_of(part)}")
        return find(text, part)

    return found


def _text_constant(target: Run, find: Callable[[str], object], name: str) -> Run:
    def found(values: Values) -> bool:
        text = target(values)
        if type(text) is not str:
            raise CelError(f"{name}() cannot take {kind_of(text)}")
        return bool(find(text))

    return found


def _chain(op: str, items: tuple[Run, ...]) -> Run:
    whole = _junction(op, items)
    if len(items) != 2:
        return whole
    first, second = items
    decides = op == "||"

    def two(values: Values) -> Any:
        """The common case without a loop; where anything is odd, the rules of `whole` decide anew."""
        try:
            value = first(values)
        except CelError:
            return whole(values)
        if value is decides:
            return value
        if value is (not decides):
            value = second(values)
            if value is True or value is False:
                return value
        return whole(values)

    return two


def _junction(op: str, items: tuple[Run, ...]) -> Run:
    """a && b is false as soon as one is false, a || b true as soon as one is true, whatever error another has."""
    decides: bool = op == "||"
    other = not decides

    def joined(values: Values) -> bool:
        error: CelError | None = None
        for item in items:
            try:
                value = item(values)
            except CelError as caught:
                error = error or caught
                continue
            if value is decides:
                return not other
            if value is not other:
                error = error or CelError(f"'{op}' cannot take {kind_of(value)}")
        if error is not None:
            raise error
        return other

    return joined


def _choice(test: Run, yes: Run, no: Run) -> Run:
    def chosen(values: Values) -> Any:
        value = test(values)
        if type(value) is not bool:
            raise CelError(f"'?' cannot take {kind_of(value)}")
        return yes(values) if value else no(values)

    return chosen
