"""CEL expressions with any result, compiled once: what templates and outputs are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.core.component import nearest
from dogwatch.errors import DogwatchError
from dogwatch.expressions.cel_compile import Compiler
from dogwatch.expressions.cel_reference import compile_reference
from dogwatch.expressions.cel_syntax import MAX_CHARS, ConditionError, Node, OutsideError, Token, parse, tokens
from dogwatch.expressions.cel_types import Checker, show
from dogwatch.expressions.cel_values import CelError

Path = tuple[str | int, ...]
Run = Callable[[Mapping[str, Any]], Any]
_TYPE_WORD = re.compile(r"\w+")


class ConditionFailure(DogwatchError):
    """An expression that could not be decided with these values: no such key, overflow. The text says why."""

    code = "condition_failed"


class Reading(msgspec.Struct, frozen=True):
    """What an expression reads: `steps["build"].outputs.id` is ("steps", "build", "outputs", "id").

    It ends where the rest is computed. position: in the text.
    """

    path: Path
    position: int


class Compiled(msgspec.Struct, frozen=True):
    """kind: the result's CEL type. tree: None where only the reference reads it. reference: whether that runs it."""

    run: Run
    kind: str
    tree: Node | None
    reference: bool


class Formula:
    """A compiled expression. kind: its CEL type: "string", "list", "map", "dyn" and so on. text: as written."""

    __slots__ = ("_run", "kind", "readings", "text")

    def __init__(self, text: str, run: Run, kind: str) -> None:
        self.text = text
        self.kind = kind
        self.readings = tuple(readings(text))
        self._run = run

    def value(self, values: Mapping[str, Any]) -> Any:
        """Return the result as plain values.

        Raises: ConditionFailure.
        """
        return evaluate(self.text, self._run, values)


def evaluate(text: str, run: Run, values: Mapping[str, Any]) -> Any:
    """Run a compiled expression. Raises: ConditionFailure, whatever goes wrong in it."""
    try:
        return run(values)
    except CelError as error:
        raise ConditionFailure(f"{text}: {error}") from None
    except (RecursionError, OverflowError) as error:
        raise ConditionFailure(f"{text}: values are too large or too deep: {error}") from None


def compile_formula(text: str, variables: Mapping[str, str]) -> Formula:
    """Return the compiled expression. variables: as compile_condition takes them.

    Raises: ConditionError.
    """
    found = compile_any(text, variables, noun="expression")
    word = _TYPE_WORD.match(found.kind)
    return Formula(text, found.run, word[0] if word else "dyn")


def compile_any(text: str, variables: Mapping[str, str], *, noun: str) -> Compiled:
    """Compile an expression of any type, here where it can be, else by the reference.

    Raises: ConditionError.
    """
    if not text.strip():
        raise ConditionError(f"the {noun} is empty")
    if len(text) > MAX_CHARS:
        raise ConditionError(f"longer than {MAX_CHARS} characters", position=MAX_CHARS)
    tree: Node | None = None
    try:
        tree = parse(text)
        checker = Checker(text, variables)
        kind = show(checker.of(tree))
        return Compiled(Compiler(checker.types).run(tree), kind, tree, reference=False)
    except OutsideError:
        run, kind = _outside(text, variables)
        return Compiled(run, kind.lower(), tree, reference=True)


def _outside(text: str, variables: Mapping[str, str]) -> tuple[Run, str]:
    try:
        return compile_reference(text, variables)
    except ConditionError as error:
        unknown = str(error).partition("undeclared reference to '")[2].rstrip("'").split(".")[0]
        if unknown and re.search(rf"\b{re.escape(unknown)}\s*\(", text):
            raise ConditionError(f"unknown function '{unknown}()'", position=error.position) from None
        if unknown:
            hint = nearest(unknown, tuple(variables))
            raise ConditionError(f"unknown name '{unknown}'", position=error.position, hint=hint) from None
        raise


def readings(text: str) -> Iterator[Reading]:
    """Yield what a text of CEL reads, by its tokens alone, so that it works for all of CEL's syntax."""
    try:
        found = tokens(text)
    except (ConditionError, OutsideError):
        return
    for at, token in enumerate(found):
        if token.kind != "name" or found[at + 1].text == "(" or (at and _op(found[at - 1], ".")):
            continue
        if token.text not in ("true", "false", "null", "in"):
            yield Reading((token.text, *_below(found, at + 1)), token.start)


def _op(token: Token, text: str) -> bool:
    return token.kind == "op" and token.text == text


def _below(found: Sequence[Token], at: int) -> Iterator[str | int]:
    while True:
        if _op(found[at], ".") and found[at + 1].kind == "name" and not _op(found[at + 2], "("):
            yield found[at + 1].text
            at += 2
        elif _op(found[at], "[") and found[at + 1].kind in ("string", "int") and _op(found[at + 2], "]"):
            key = found[at + 1]
            yield key.text if key.kind == "string" else int(key.text.rstrip("uU"), 0)
            at += 3
        else:
            return
