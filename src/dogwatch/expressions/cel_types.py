"""The types of CEL conditions: every mistake that can be found without running is found when they are loaded.

Like Kubernetes' CEL, an int and a double may be ordered against each other (`duration_s < 1`); nothing else is
converted by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dogwatch.core.component import nearest
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
)

# "int", "double", "string", "bool", "null", "dyn", or ("list", element) and ("map", key, value).
Type = str | tuple["Type", ...]
LIST: Type = ("list", "dyn")
MAP: Type = ("map", "dyn", "dyn")
_NUMBERS = ("int", "double")
_TEXT_CALLS = ("contains", "startsWith", "endsWith", "matches")


def show(kind: Type) -> str:
    """Return a type as people write it: `list(int)`."""
    return kind if isinstance(kind, str) else f"{show(kind[0])}({', '.join(map(show, kind[1:]))})"


def unify(left: Type, right: Type) -> Type | None:
    """Return the type that both can be, or None."""
    if left == right or right == "dyn":
        return right if right == "dyn" else left
    if left == "dyn":
        return left
    if isinstance(left, str) or isinstance(right, str) or left[0] != right[0]:
        return None
    parts = [unify(a, b) for a, b in zip(left[1:], right[1:], strict=True)]
    if any(part is None for part in parts):
        return None
    return (left[0], *(part for part in parts if part is not None))


def _is(kind: Type, *wanted: str) -> bool:
    head = kind if isinstance(kind, str) else kind[0]
    return head == "dyn" or head in wanted


@dataclass(slots=True)
class Checker:
    """Finds the type of every node of one expression. types: by id of the node; the tree must stay alive."""

    text: str
    variables: Mapping[str, str]
    types: dict[int, Type] = field(default_factory=dict)

    def of(self, node: Node) -> Type:
        """Return the node's type.

        Raises: ConditionError; OutsideError for a function that is not ours.
        """
        kind = self._of(node)
        self.types[id(node)] = kind
        return kind

    def _of(self, node: Node) -> Type:
        match node:
            case Literal(value=value):
                return "null" if value is None else _LITERALS[type(value)]
            case Name():
                return self._name(node)
            case Select() | Has():
                return self._field(node)
            case Index():
                return self._index(node)
            case Call():
                return self._call(node)
            case Unary():
                return self._unary(node)
            case Binary():
                return self._binary(node)
            case Chain():
                return self._chain(node)
            case Choice():
                return self._choice(node)
            case ListOf():
                return self._list(node)
        raise OutsideError(type(node).__name__)

    def _wrong(self, node: Node, message: str, hint: str = "") -> ConditionError:
        kind = show(self.types.get(id(node), "dyn"))
        written = self.text[node.start : node.end]
        return ConditionError(f"{message}, and '{written[:60]}' is {kind}", position=node.start, hint=hint)

    def _name(self, node: Name) -> Type:
        declared = self.variables.get(node.name)
        if declared is None:
            hint = nearest(node.name, tuple(self.variables))
            raise ConditionError(f"unknown variable '{node.name}'", position=node.start, hint=hint)
        return {"list": LIST, "map": MAP}.get(declared, declared)

    def _field(self, node: Select | Has) -> Type:
        operand = self.of(node.operand)
        if not _is(operand, "map"):
            raise self._wrong(node.operand, f"only a map has fields such as '.{node.field}'")
        if isinstance(node, Has):
            return "bool"
        return "dyn" if isinstance(operand, str) else operand[2]

    def _index(self, node: Index) -> Type:
        operand, key = self.of(node.operand), self.of(node.key)
        if isinstance(operand, str):
            if operand != "dyn":
                raise self._wrong(node.operand, "only a list or a map can be indexed")
            return "dyn"
        wanted: Type = "int" if operand[0] == "list" else operand[1]
        if unify(wanted, key) is None:
            raise self._wrong(node.key, f"the index must be {show(wanted)}")
        return operand[-1]

    def _call(self, node: Call) -> Type:
        known = _TEXT_CALLS if node.method else ("int", "double", "string", "matches")
        if node.function not in known and node.function != "size":
            raise OutsideError(node.function)
        kinds = [self.of(argument) for argument in node.args]
        if len(kinds) != (2 if node.function in _TEXT_CALLS else 1):
            raise ConditionError(f"wrong number of arguments for {node.function}()", position=node.start)
        if node.function in _TEXT_CALLS:
            for argument, kind in zip(node.args, kinds, strict=True):
                if not _is(kind, "string"):
                    raise self._wrong(argument, f"{node.function}() wants strings")
            return "bool"
        if node.function == "size":
            if not _is(kinds[0], "string", "list", "map"):
                raise self._wrong(node.args[0], "size() wants a string, list or map")
            return "int"
        if node.function == "string" and kinds[0] not in ("string", "int", "bool"):
            raise OutsideError("string() of a number with a fraction has its own format")
        if not (node.function == "string" and kinds[0] == "bool") and not _is(kinds[0], "int", "double", "string"):
            raise self._wrong(node.args[0], f"{node.function}() wants a number or a string")
        return node.function

    def _unary(self, node: Unary) -> Type:
        kind = self.of(node.operand)
        if node.op == "!":
            if not _is(kind, "bool"):
                raise self._wrong(node.operand, "'!' wants a condition")
            return "bool"
        if not _is(kind, *_NUMBERS):
            raise self._wrong(node.operand, "'-' wants a number")
        return kind

    def _chain(self, node: Chain) -> Type:
        for item in node.items:
            if not _is(self.of(item), "bool"):
                raise self._wrong(item, f"'{node.op}' wants conditions")
        return "bool"

    def _binary(self, node: Binary) -> Type:
        left, right = self.of(node.left), self.of(node.right)
        if node.op == "in":
            return self._in(node, left, right)
        both = unify(left, right)
        if node.op in ("==", "!="):
            if both is None:
                raise self._mismatch(node, left, right)
            return "bool"
        if node.op in ("<", "<=", ">", ">="):
            numbers = left in _NUMBERS and right in _NUMBERS
            if not numbers and (both is None or not all(_is(side, *_ORDERED) for side in (left, right))):
                raise self._mismatch(node, left, right)
            return "bool"
        wanted = {"+": ("int", "double", "string", "list"), "%": ("int",)}.get(node.op, _NUMBERS)
        if both is None or not _is(left, *wanted) or not _is(right, *wanted):
            raise self._mismatch(node, left, right)
        # Only one overload takes the side that is known, so it is the result's type.
        return right if left == "dyn" else left if right == "dyn" else both

    def _in(self, node: Binary, left: Type, right: Type) -> Type:
        if not _is(right, "list", "map"):
            raise self._wrong(node.right, "'in' wants a list or a map on its right", _in_hint(right))
        if not isinstance(right, str) and unify(left, right[1]) is None:
            raise self._mismatch(node, left, right)
        return "bool"

    def _mismatch(self, node: Binary, left: Type, right: Type) -> ConditionError:
        hint = ""
        if {left, right} == {"int", "double"}:
            hint = "write both as int or both as double: 1.0, double(x)"
        elif "null" in (left, right):
            hint = "a value that is missing makes the condition fail by itself"
        message = f"'{node.op}' cannot take {show(left)} and {show(right)}"
        return ConditionError(message, position=node.at, hint=hint)

    def _choice(self, node: Choice) -> Type:
        if not _is(self.of(node.test), "bool"):
            raise self._wrong(node.test, "'?' wants a condition")
        yes, no = self.of(node.yes), self.of(node.no)
        both = unify(yes, no)
        if both is None:
            message = f"both sides of ':' must have one type, and they are {show(yes)} and {show(no)}"
            raise ConditionError(message, position=node.no.start)
        return both

    def _list(self, node: ListOf) -> Type:
        element: Type | None = None
        for item in node.items:
            kind = self.of(item)
            element = kind if element is None else unify(element, kind) or "dyn"
        return ("list", "dyn" if element is None else element)


_LITERALS: Mapping[type, Type] = {bool: "bool", int: "int", float: "double", str: "string"}
_ORDERED = ("int", "double", "string", "bool")


def _in_hint(right: Type) -> str:
    return "for a part of a string write body.contains(...)" if right == "string" else ""
