"""What a condition can say, for all of a column at once: certain where it is certain, else left to the real one.

Every value is a range [low, high] that the real value surely lies in; what follows from ranges is NO, YES, UNKNOWN, or
several of them. Where it is one, it is what the condition itself would say; where it is several, whoever asks looks at
that place with the condition itself. So nothing here must be exact, only never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from dogwatch.expressions.cel_regex import matcher
from dogwatch.expressions.cel_syntax import (
    Binary,
    Call,
    Chain,
    Choice,
    ListOf,
    Literal,
    Name,
    Node,
    OutsideError,
    Unary,
)

NO, YES, UNKNOWN = 1, 2, 4
ANY = NO | YES | UNKNOWN
Mask = npt.NDArray[np.uint8]
_Array = Any


class Number(msgspec.Struct, frozen=True, gc=False):
    """A range of numbers for each place. misses: it may have no value there. whole: of an int of the language."""

    low: _Array
    high: _Array
    misses: _Array = False
    gone: _Array = False
    whole: bool = False


class Text(msgspec.Struct, frozen=True, gc=False):
    """A text for each place, by its place in words; below 0 where it is not known which. gone: it has no value."""

    codes: _Array
    words: list[str]
    gone: _Array = False


class Truths(msgspec.Struct, frozen=True, gc=False):
    """What a bool can be for each place, bits of NO, YES and UNKNOWN."""

    mask: _Array


Term = Number | Text | Truths
Leaf = Callable[[str], Term]
Run = Callable[[Leaf], Term]


_SAMPLES: Mapping[str, Term] = {
    "double": Number(0.5, 1.0),
    "int": Number(1.0, 2.0, whole=True),
    "bool": Truths(YES),
    "string": Text(0, [""]),
}


class Unsupported(Exception):
    """A condition that only the real evaluation understands."""


def compile_ranges(tree: Node, kinds: Mapping[str, str]) -> Callable[[Leaf, int], Mask]:
    """Return a function from what variables can be to what the condition can say, for so many places.

    kinds: of the variables: double, int, bool or string.

    Raises: Unsupported.
    """
    truths = compile_truths(tree, kinds)

    def masks(leaf: Leaf, count: int) -> Mask:
        with np.errstate(all="ignore"):
            found = truths(leaf)
        return np.broadcast_to(np.asarray(found, np.uint8), (count,))

    return masks


def compile_truths(tree: Node, kinds: Mapping[str, str]) -> Callable[[Leaf], _Array]:
    """The same, for whatever shape variables have. Raises: Unsupported."""
    run = _run(tree)
    # Some of it shows only in what the parts are made of.
    if not isinstance(run(lambda name: _SAMPLES[kinds[name]]), Truths):
        raise Unsupported("a truth is wanted")
    return lambda leaf: _truths(run(leaf))


def _run(node: Node) -> Run:
    match node:
        case Literal(value=value) if value is not None:
            constant = _constant(value)
            return lambda _leaf: constant
        case Name(name=name):
            return lambda leaf: leaf(name)
        case Unary(op="!"):
            return _not(_run(node.operand))
        case Unary(op="-"):
            return _negated(_run(node.operand))
        case Binary(op=op) if op in _COMPARE:
            return _compare(op, _run(node.left), _run(node.right))
        case Binary(op=op) if op in _ARITHMETIC:
            return _arithmetic(op, _run(node.left), _run(node.right))
        case Binary(op="in", right=ListOf(items=items)):
            return _any_of([_compare("==", _run(node.left), _run(item)) for item in items])
        case Chain(op=op, items=items):
            parts = [_run(item) for item in items]
            return _all_of(parts) if op == "&&" else _any_of(parts)
        case Choice():
            return _choice(_run(node.test), _run(node.yes), _run(node.no))
        case Call():
            return _call(node)
    raise Unsupported(type(node).__name__)


def _constant(value: float | str | bool) -> Term:
    if isinstance(value, bool):
        return Truths(YES if value else NO)
    if isinstance(value, str):
        return Text(0, [value])
    return Number(float(value), float(value), whole=type(value) is int)


def _truths(term: Term) -> _Array:
    if not isinstance(term, Truths):
        raise Unsupported("a truth is wanted")
    return term.mask


def _not(operand: Run) -> Run:
    def run(leaf: Leaf) -> Term:
        return Truths(flipped(_truths(operand(leaf))))

    return run


def flipped(mask: _Array) -> _Array:
    """Return the opposite: of YES NO, of UNKNOWN the same."""
    return np.asarray(((mask & NO) << 1) | ((mask & YES) >> 1) | (mask & UNKNOWN), np.uint8)


def _all_of(parts: list[Run]) -> Run:
    """a && b: NO as soon as one is NO; YES where all are; else UNKNOWN."""

    def run(leaf: Leaf) -> Term:
        masks = [_truths(part(leaf)) for part in parts]
        no, yes, unknown, open_ = masks[0] & NO, masks[0] & YES, masks[0] & UNKNOWN, (masks[0] & (YES | UNKNOWN)) != 0
        for mask in masks[1:]:
            no, yes, unknown = no | (mask & NO), yes & mask, unknown | (mask & UNKNOWN)
            open_ = open_ & ((mask & (YES | UNKNOWN)) != 0)
        return Truths(np.asarray(no | (yes & YES) | np.where(open_, unknown, 0), np.uint8))

    return run


def _any_of(parts: list[Run]) -> Run:
    flipped = _all_of([_not(part) for part in parts])
    return _not(flipped)


def _choice(test: Run, yes: Run, no: Run) -> Run:
    def run(leaf: Leaf) -> Term:
        chosen, one, two = _truths(test(leaf)), _truths(yes(leaf)), _truths(no(leaf))
        first, second = np.where(chosen & YES, one, 0), np.where(chosen & NO, two, 0)
        return Truths(np.asarray(first | second | (chosen & UNKNOWN), np.uint8))

    return run


def _negated(operand: Run) -> Run:
    def run(leaf: Leaf) -> Term:
        one = operand(leaf)
        if not isinstance(one, Number):
            raise Unsupported("a number is wanted")
        return Number(-one.high, -one.low, one.misses, one.gone, one.whole)

    return run


_COMPARE = ("==", "!=", "<", "<=", ">", ">=")
_ARITHMETIC = ("+", "-", "*", "/")


def _arithmetic(op: str, left: Run, right: Run) -> Run:
    def run(leaf: Leaf) -> Term:
        a, b = left(leaf), right(leaf)
        if not isinstance(a, Number) or not isinstance(b, Number):
            raise Unsupported(f"'{op}' of what is no number")
        if a.whole or b.whole:
            # Whole numbers overflow and divide otherwise.
            raise Unsupported("whole numbers")
        low, high = _ends(op, a, b)
        # What is infinite or no number compares in its own ways: nothing is said of it.
        odd = ~(np.isfinite(low) & np.isfinite(high))
        low, high = np.where(odd, -np.inf, low), np.where(odd, np.inf, high)
        return Number(low, high, a.misses | b.misses | odd, a.gone | b.gone)

    return run


def _ends(op: str, a: Number, b: Number) -> tuple[_Array, _Array]:
    """Return the range of a result. Rounding keeps order, so that the ends of the ranges give its ends."""
    if op == "+":
        return a.low + b.low, a.high + b.high
    if op == "-":
        return a.low - b.high, a.high - b.low
    if op == "*":
        corners = [one * two for one in (a.low, a.high) for two in (b.low, b.high)]
    else:
        zero = np.logical_and(np.less_equal(b.low, 0), np.greater_equal(b.high, 0))
        low, high = np.where(zero, np.nan, b.low), np.where(zero, np.nan, b.high)
        corners = [one / two for one in (a.low, a.high) for two in (low, high)]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def _compare(op: str, left: Run, right: Run) -> Run:
    def run(leaf: Leaf) -> Term:
        a, b = left(leaf), right(leaf)
        if isinstance(a, Text) and isinstance(b, Text):
            return _same_text(op, a, b)
        if isinstance(a, Truths) and isinstance(b, Truths) and op in ("==", "!="):
            return _same_truth(op, a, b)
        if not isinstance(a, Number) or not isinstance(b, Number):
            raise Unsupported(f"'{op}' of these")
        true, false = _RANGES[op](a, b)
        known = (np.asarray(true, np.uint8) << 1) | np.asarray(false, np.uint8)
        # An infinite end stands for anything, also for what is no number: its comparison can go either way.
        loose = np.isinf(a.low) | np.isinf(a.high) | np.isinf(b.low) | np.isinf(b.high)
        if np.any(loose):
            known = np.where(loose, YES | NO, known)
        if np.any(missing := a.misses | b.misses):
            known = known | np.where(missing, UNKNOWN, 0)
        if np.any(gone := a.gone | b.gone):
            known = np.where(gone, UNKNOWN, known)
        return Truths(np.asarray(known, np.uint8))

    return run


_RANGES: Mapping[str, Callable[[Number, Number], tuple[_Array, _Array]]] = {
    "<": lambda a, b: (np.less(a.low, b.high), np.greater_equal(a.high, b.low)),
    "<=": lambda a, b: (np.less_equal(a.low, b.high), np.greater(a.high, b.low)),
    ">": lambda a, b: (np.greater(a.high, b.low), np.less_equal(a.low, b.high)),
    ">=": lambda a, b: (np.greater_equal(a.high, b.low), np.less(a.low, b.high)),
    "==": lambda a, b: (_meet(a, b), ~_single(a, b)),
    "!=": lambda a, b: (~_single(a, b), _meet(a, b)),
}


def _meet(a: Number, b: Number) -> _Array:
    return np.logical_and(np.less_equal(a.low, b.high), np.greater_equal(a.high, b.low))


def _single(a: Number, b: Number) -> _Array:
    alike = np.logical_and(np.equal(a.low, b.low), np.equal(a.high, b.high))
    return np.logical_and(alike, np.equal(a.low, a.high))


def _same_truth(op: str, a: Truths, b: Truths) -> Term:
    one, two = a.mask, b.mask
    same = np.asarray((one & two & (YES | NO)) != 0, np.uint8)
    swapped = ((two & NO) << 1) | ((two & YES) >> 1)
    other = np.asarray((one & swapped) != 0, np.uint8)
    unknown = (one | two) & UNKNOWN
    true, false = (same, other) if op == "==" else (other, same)
    return Truths(np.asarray(true * YES | false * NO | unknown, np.uint8))


def _same_text(op: str, a: Text, b: Text) -> Term:
    if len(b.words) != 1 or np.ndim(b.codes):
        a, b = b, a
    if len(b.words) != 1 or np.ndim(b.codes):
        raise Unsupported("two texts that change")
    word = b.words[0]
    return _by_word(a, lambda text: (text == word) is (op == "=="))


def _by_word(text: Text, test: Callable[[str], bool]) -> Truths:
    table = np.array([YES if test(word) else NO for word in text.words] + [YES | NO], np.uint8)
    # -1 is the last of the table.
    found = table[np.where(np.less(text.codes, 0), -1, text.codes)]
    return Truths(np.asarray(np.where(text.gone, UNKNOWN, found), np.uint8))


_TEXT: Mapping[str, Callable[[str, str], bool]] = {
    "contains": str.__contains__,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
}


def _call(node: Call) -> Run:
    if len(node.args) != 2 or not isinstance(node.args[1], Literal) or not isinstance(node.args[1].value, str):
        raise Unsupported(node.function)
    operand, word = _run(node.args[0]), node.args[1].value
    if node.function == "matches":
        try:
            pattern = matcher(word)
        except OutsideError as error:
            raise Unsupported(str(error)) from None
        test: Callable[[str], bool] = lambda text: bool(pattern(text))  # noqa: E731
    elif node.function in _TEXT:
        find = _TEXT[node.function]
        test = lambda text: find(text, word)  # noqa: E731
    else:
        raise Unsupported(node.function)

    def run(leaf: Leaf) -> Term:
        text = operand(leaf)
        if not isinstance(text, Text):
            raise Unsupported("a text is wanted")
        return _by_word(text, test)

    return run
