"""What CEL's operators do with values, exactly as its reference implementation does, on plain Python values.

A bool is never a number, an int has 64 bits, an int and a double compare as doubles, `/` and `%` cut towards zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dogwatch.expressions.cel_syntax import INT_MAX, INT_MIN

MAX_TEXT = 16 * 1024 * 1024
_INT = re.compile(r"[ \t\n\v\f\r]*([+-]?\d+)[ \t\n\v\f\r]*", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)


class CelError(Exception):
    """A runtime error of an expression, absorbed by && and ||; the text is a sentence for a person."""


def kind_of(value: Any) -> str:
    """Return the CEL type of a value, as messages name it."""
    if value is None:
        return "null"
    for kind, types in _KINDS:
        if isinstance(value, types):
            return kind
    return type(value).__name__


_KINDS: tuple[tuple[str, Any], ...] = (
    ("bool", bool),
    ("int", int),
    ("double", float),
    ("string", str),
    ("list", (list, tuple)),
    ("map", Mapping),
)


def _no(op: str, *values: Any) -> CelError:
    return CelError(f"'{op}' cannot take {' and '.join(map(kind_of, values))}")


def equal(a: Any, b: Any) -> bool:
    """Return a == b as CEL means it; different types are just not equal."""
    kind, other = type(a), type(b)
    if kind is other and (kind is str or kind is int or kind is bool):
        return bool(a == b)
    if kind in (int, float) and other in (int, float):
        return float(a) == float(b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, Mapping):
        if not isinstance(b, Mapping) or len(a) != len(b):
            return False
        return all(contains(b, key) and equal(value, b[key]) for key, value in a.items())
    return bool(kind is other and a == b)


def ordered(op: str, a: Any, b: Any) -> bool:
    """Return a < b, a <= b, a > b or a >= b.

    Raises: CelError where the two have no order.
    """
    kind, other = type(a), type(b)
    if kind is not other:
        if kind not in (int, float) or other not in (int, float):
            raise _no(op, a, b)
        a, b = float(a), float(b)
    elif kind not in (int, float, str, bool):
        raise _no(op, a, b)
    if op == "<":
        return bool(a < b)
    if op == "<=":
        return bool(a <= b)
    return bool(a > b) if op == ">" else bool(a >= b)


def _int(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise CelError("integer overflow")


def add(a: Any, b: Any) -> Any:
    kind = type(a)
    if kind is not type(b) or kind not in (int, float, str, list, tuple):
        raise _no("+", a, b)
    if kind is int:
        return _int(a + b)
    if kind is not float and len(a) + len(b) > MAX_TEXT:
        raise CelError(f"'+' would make more than {MAX_TEXT} elements")
    return a + b


def subtract(a: Any, b: Any) -> Any:
    if type(a) is not type(b) or type(a) not in (int, float):
        raise _no("-", a, b)
    return _int(a - b) if type(a) is int else a - b


def multiply(a: Any, b: Any) -> Any:
    if type(a) is not type(b) or type(a) not in (int, float):
        raise _no("*", a, b)
    return _int(a * b) if type(a) is int else a * b


def divide(a: Any, b: Any) -> Any:
    if type(a) is not type(b) or type(a) not in (int, float):
        raise _no("/", a, b)
    if type(a) is int:
        if b == 0:
            raise CelError("divide by zero")
        return _int(_cut(a, b))
    if b == 0:
        # IEEE 754, which Python refuses: the sign of a zero counts.
        if a == 0 or math.isnan(a):
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def remainder(a: Any, b: Any) -> Any:
    if type(a) is not int or type(b) is not int:
        raise _no("%", a, b)
    if b == 0:
        raise CelError("modulus by zero")
    if a == INT_MIN and b == -1:
        raise CelError("integer overflow")
    return a - b * _cut(a, b)


def _cut(a: int, b: int) -> int:
    size = abs(a) // abs(b)
    return size if (a < 0) == (b < 0) else -size


def negate(a: Any) -> Any:
    if type(a) is int:
        return _int(-a)
    if type(a) is float:
        return -a
    raise _no("-", a)


def _key(container: Mapping[Any, Any], key: Any) -> tuple[bool, Any]:
    """Look a key up as CEL does: 1 and 1.0 are one key, true is another, which a Python dict would mix."""
    kind = type(key)
    if kind is str:
        return (True, container[key]) if key in container else (False, None)
    for known, value in container.items():
        if (type(known) is bool) is (kind is bool) and known == key:
            return True, value
    return False, None


def contains(container: Any, value: Any) -> bool:
    """Return `value in container`."""
    if isinstance(container, Mapping):
        if type(value) not in (str, int, bool, float):
            raise _no("in", value, container)
        return _key(container, value)[0]
    if isinstance(container, list | tuple):
        return any(equal(value, item) for item in container)
    raise _no("in", value, container)


def index(container: Any, key: Any) -> Any:
    """Return container[key]."""
    if isinstance(container, Mapping):
        if type(key) not in (str, int, bool, float):
            raise CelError(f"{kind_of(key)} cannot be the key of a map")
        found, value = _key(container, key)
        if not found:
            raise CelError(f"no such key: {key}")
        return value
    if not isinstance(container, list | tuple):
        raise CelError(f"{kind_of(container)} cannot be indexed")
    if type(key) is float and key.is_integer():
        key = int(key)
    if type(key) is not int:
        raise CelError(f"the index of a list must be int, not {kind_of(key)}")
    if not 0 <= key < len(container):
        raise CelError(f"no item {key} in a list of {len(container)}")
    return container[key]


def select(container: Any, field: str) -> Any:
    """Return container.field."""
    if isinstance(container, Mapping):
        if field in container:
            return container[field]
        raise CelError(f"no such key: {field}")
    raise CelError(f"{kind_of(container)} has no field '{field}'")


def has(container: Any, field: str) -> bool:
    if isinstance(container, Mapping):
        return field in container
    raise CelError(f"{kind_of(container)} has no field '{field}'")


def size(value: Any) -> int:
    if isinstance(value, str | Mapping | Sequence):
        return len(value)
    raise _no("size()", value)


def to_int(value: Any) -> int:
    kind = type(value)
    if kind is int:
        return _int(value)
    if kind is bool:
        return int(value)
    if kind is float:
        if not -(2.0**63) < value < 2.0**63:
            raise CelError("the double is beyond 64 bits")
        return int(value)
    if kind is str:
        match = _INT.fullmatch(value)
        if match and len(match[1]) < 40 and INT_MIN <= int(match[1]) <= INT_MAX:
            return int(match[1])
        raise CelError(f"int() cannot read {_short(value)}")
    raise _no("int()", value)


def to_double(value: Any) -> float:
    kind = type(value)
    if kind in (int, float):
        return float(value)
    if kind is not str:
        raise _no("double()", value)
    text = value.strip(" \t\n\v\f\r")
    if _DOUBLE.fullmatch(text):
        return float(text)
    if re.fullmatch(r"[+-]?0x[0-9a-f.]+(?:p[+-]?\d+)?", text, re.ASCII | re.IGNORECASE):
        try:
            return float.fromhex(text)
        except (ValueError, OverflowError):
            pass
    raise CelError(f"double() cannot read {_short(value)}")


def to_string(value: Any) -> str:
    """Return string(value); only for a string, int or bool (a double has a format of its own)."""
    if type(value) is bool:
        return "true" if value else "false"
    return str(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
