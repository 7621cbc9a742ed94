"""Conditions: CEL expressions over a result's values, compiled when the configuration is loaded.

The common ones run as Python closures (cel_compile); whatever is beyond that subset runs in cel-expr-python
(cel_reference). Both mean the same (docs/decisions/0030).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dogwatch.expressions.cel_syntax import (
    Chain,
    ConditionError,
    Has,
    Index,
    Literal,
    Name,
    Node,
    Select,
    children,
    names,
)
from dogwatch.expressions.cel_values import CelError
from dogwatch.expressions.formula import ConditionFailure, compile_any, evaluate

__all__ = ["Condition", "ConditionError", "ConditionFailure", "compile_condition"]

_SHOWN_CHARS = 80
_SHOWN_PARTS = 3
_WORD = re.compile(r"[A-Za-z_]\w*")


class Condition:
    """A compiled condition. text: as written. names: the variables that it reads."""

    __slots__ = ("_parts", "_reference", "_run", "_tree", "_variables", "names", "text")

    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        run: Callable[[Mapping[str, Any]], Any],
        tree: Node | None,
        *,
        reference: bool,
    ) -> None:
        self.text = text
        self.names = frozenset(variables.keys() & (names(tree) if tree else set(_WORD.findall(text))))
        self._run = run
        self._tree = tree
        self._variables = variables
        self._reference = reference
        self._parts: list[Condition] | None = None

    @property
    def compiled(self) -> bool:
        """Whether it runs as Python closures, not in the reference implementation."""
        return not self._reference

    def test(self, values: Mapping[str, Any]) -> bool:
        """Return whether the condition holds.

        Raises: ConditionFailure.
        """
        try:
            # Without a call in between: this is on the path of every attempt.
            result = self._run(values)
        except (CelError, RecursionError, OverflowError):
            result = evaluate(self.text, self._run, values)
        if result is True:
            return True
        if result is False:
            return False
        raise ConditionFailure(f"{self.text}: the result is neither true nor false")

    def explain(self, values: Mapping[str, Any]) -> str:
        """Return why the condition does not hold: its false parts with the values seen; "" where it holds."""
        try:
            if self.test(values):
                return ""
        except ConditionFailure as failure:
            return str(failure)
        parts = [text for part in self._conjuncts() if (text := part.explain(values))]
        if parts:
            more = len(parts) - _SHOWN_PARTS
            return "; ".join(parts[:_SHOWN_PARTS]) + (f"; and {more} more" if more > 0 else "")
        seen = self._seen(values)
        return f"{_cut(self.text, 160)} was false" + (f": {seen}" if seen else "")

    def holds(self, values: Mapping[str, Any]) -> str:
        """Return a true condition with the values it reads: `duration_s > 0.5: duration_s is 0.7`."""
        seen = self._seen(values)
        return _cut(self.text, 160) + (f": {seen}" if seen else "")

    def _conjuncts(self) -> list[Condition]:
        """Return the parts of a && b && c as conditions of their own; none where it is one condition."""
        if self._parts is None:
            tree = self._tree
            chain = tree.items if isinstance(tree, Chain) and tree.op == "&&" else ()
            self._parts = [compile_condition(self.text[item.start : item.end], self._variables) for item in chain]
        return self._parts

    def _seen(self, values: Mapping[str, Any]) -> str:
        if self._tree is None:
            return ""
        paths: dict[str, Node] = {}
        _paths(self._tree, self.text, paths)
        shown = []
        for written, node in list(paths.items())[:_SHOWN_PARTS]:
            try:
                shown.append(f"{written} is {_show(_read(node, values))}")
            except (KeyError, IndexError, TypeError):
                shown.append(f"{written} is not there")
        return ", ".join(shown)


def _paths(node: Node, text: str, found: dict[str, Node]) -> None:
    """Collect the longest variable paths that can be read without running anything: `json.items[0].id`."""
    if isinstance(node, Name | Select | Index) and _is_path(node):
        found.setdefault(text[node.start : node.end], node)
        return
    if isinstance(node, Has) and _is_path(node.operand):
        found.setdefault(text[node.operand.start : node.operand.end], node.operand)
        return
    for child in children(node):
        _paths(child, text, found)


def _is_path(node: Node) -> bool:
    if isinstance(node, Select):
        return _is_path(node.operand)
    if isinstance(node, Index):
        return isinstance(node.key, Literal) and _is_path(node.operand)
    return isinstance(node, Name)


def _read(node: Node, values: Mapping[str, Any]) -> Any:
    match node:
        case Name(name=name):
            return values[name]
        case Select(operand=operand, field=field):
            return _read(operand, values)[field]
        case Index(operand=operand, key=Literal(value=key)):
            return _read(operand, values)[key]
    raise KeyError


def _show(value: Any) -> str:
    if isinstance(value, str):
        shown = '"' + _cut(value, _SHOWN_CHARS).replace("\n", "\\n").replace('"', '\\"') + '"'
        return shown if len(value) <= _SHOWN_CHARS else f"{shown} ({len(value)} characters)"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return f"a map of {len(value)}"
    return _cut(repr(value), _SHOWN_CHARS) if isinstance(value, int) else f"a list of {len(value)}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _bool_kind(kind: str, text: str) -> None:
    if kind not in ("bool", "dyn"):
        hint = "" if kind != "string" else "compare it with something, as in body.contains(...)"
        raise ConditionError(f"'{_cut(text, 60)}' is {kind}, and a condition must be true or false", hint=hint)


def compile_condition(text: str, variables: Mapping[str, str]) -> Condition:
    """Return the compiled condition. variables: name → "int", "double", "string", "bool", "dyn", "map" or "list".

    Raises: ConditionError with the message, the position in the text and, for an unknown variable, the nearest name.
    """
    found = compile_any(text, variables, noun="condition")
    _bool_kind(found.kind, text)
    return Condition(text, variables, found.run, found.tree, reference=found.reference)
