"""Shapes of single values. A plain scalar means what its field's type says, as YAML 1.2's core schema reads it.

So `no` is text in a text field and a mistake in a boolean one, `1.10` stays `1.10` where a version is wanted, and
what YAML 1.1 read in surprising ways (`010`, `1_000`, `12:30`) is refused with what to write instead.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from typing import Any

from dogwatch.config.nodes import Node, Path, ScalarNode
from dogwatch.config.shape import Run, Shape, bounds_words, length_words, or_words
from dogwatch.core import units
from dogwatch.core.component import nearest

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_OCTAL_1_1 = re.compile(r"[-+]?0[0-9]+")
_UNDERSCORES = re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_BOOLS_1_1 = {"yes": "true", "y": "true", "on": "true", "1": "true", "no": "false", "n": "false", "off": "false"}
_MAX_DIGITS = 400


def resolve(node: ScalarNode) -> str | int | float | bool | None:
    """Return a scalar's value where no type says what it is."""
    text = node.text
    if node.null:
        return None
    if not node.plain or node.tag == "str" or len(text) > _MAX_DIGITS:
        return text
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text) and not _OCTAL_1_1.fullmatch(text):
        return _int(text)
    if _FLOAT.fullmatch(text) and not _OCTAL_1_1.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _number_text(node: ScalarNode) -> str | None:
    """Return the text where it may be a number: without quotes, or from outside of YAML, where there are none."""
    if (node.plain or node.free) and node.tag != "str" and len(node.text) <= _MAX_DIGITS:
        return node.text.strip() if node.free else node.text
    return None


def _number_hint(node: ScalarNode, text: str | None, pattern: re.Pattern[str]) -> str:
    if text is None:
        return "remove the quotes" if pattern.fullmatch(node.text) else ""
    if node.hidden:
        return ""
    if _OCTAL_1_1.fullmatch(text):
        digits = text.lstrip("+-").lstrip("0") or "0"
        return f"write {digits}, or 0o{digits} if it is octal"
    if _UNDERSCORES.fullmatch(text):
        return f"write {text.replace('_', '')}"
    if _SEXAGESIMAL.fullmatch(text):
        return "a time is written 12h30m where a duration is wanted, and in quotes where text is"
    return ""


class TextShape(Shape):
    """Text. Whatever is written plainly is text here, numbers and `no` included."""

    def __init__(
        self,
        *,
        least: int | None = None,
        most: int | None = None,
        pattern: str | None = None,
        secret: bool = False,
        expression: bool = False,
        noun: str = "",
    ) -> None:
        self.least, self.most, self.pattern = least, most, pattern
        self.secret, self.expression = secret, expression
        self._search = re.compile(pattern).search if pattern else None
        self._noun = noun or ("a CEL expression" if expression else "a secret" if secret else "text")

    def words(self) -> str:
        words = self._noun + length_words(self.least, self.most, "character")
        return f"{words} that matches {self.pattern}" if self.pattern and self._noun == "text" else words

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ScalarNode):
            return self.refuse(node, path, run)
        if node.null:
            return self.refuse(node, path, run, 'write "" for empty text' if not node.text else "put it in quotes")
        text = node.text
        if "\0" in text:
            # Nothing outside can take it: paths, arguments, headers and databases all refuse it.
            return self.refuse(node, path, run, "it contains the character NUL")
        if (
            len(text) < (self.least or 0)
            or (self.most is not None and len(text) > self.most)
            or (self._search and not self._search(text))
        ):
            return self.refuse(node, path, run)
        return text


class IntShape(Shape):
    """A whole number of at most 64 bits."""

    def __init__(
        self,
        *,
        low: int | None = None,
        above: int | None = None,
        high: int | None = None,
        below: int | None = None,
        step: int | None = None,
        noun: str = "",
    ) -> None:
        self.low, self.above, self.high, self.below, self.step = low, above, high, below, step
        self._noun = noun or "a whole number"

    def words(self) -> str:
        words = self._noun + bounds_words(self.low, self.above, self.high, self.below, str)
        return f"{words}, a multiple of {self.step}" if self.step else words

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ScalarNode):
            return self.refuse(node, path, run)
        text = _number_text(node)
        if text is None or not _INT.fullmatch(text) or _OCTAL_1_1.fullmatch(text):
            return self.refuse(node, path, run, _number_hint(node, text, _INT))
        value = _int(text)
        if not self._holds(value) or not -(2**63) <= value < 2**63:
            return self.refuse(node, path, run)
        return value

    def _holds(self, value: int) -> bool:
        return in_bounds(value, self) and not (self.step and value % self.step)


class FloatShape(Shape):
    """A finite number."""

    def __init__(
        self,
        *,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
        below: float | None = None,
        noun: str = "",
    ) -> None:
        self.low, self.above, self.high, self.below = low, above, high, below
        self._noun = noun or "a number"

    def words(self) -> str:
        return self._noun + bounds_words(self.low, self.above, self.high, self.below, lambda bound: f"{bound:g}")

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ScalarNode):
            return self.refuse(node, path, run)
        text = _number_text(node)
        if text is None or not _FLOAT.fullmatch(text) or _OCTAL_1_1.fullmatch(text):
            return self.refuse(node, path, run, _number_hint(node, text, _FLOAT))
        value = float(text)
        if not math.isfinite(value) or not in_bounds(value, self):
            return self.refuse(node, path, run)
        return value


def in_bounds(value: float, shape: IntShape | FloatShape | UnitShape) -> bool:
    return (
        (shape.low is None or value >= shape.low)
        and (shape.above is None or value > shape.above)
        and (shape.high is None or value <= shape.high)
        and (shape.below is None or value < shape.below)
    )


class UnitShape(Shape):
    """A duration, size or share, written with its unit. A bare number is refused, for nobody knows what it means."""

    def __init__(
        self,
        unit: str,
        *,
        whole: bool,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
        below: float | None = None,
    ) -> None:
        self.unit, self.whole = unit, whole
        self.low, self.above, self.high, self.below = low, above, high, below

    def words(self) -> str:
        # "A duration of at least 0s" says nothing more than "a duration".
        low = None if self.low == 0 else self.low
        high = None if self.unit == "share" and self.high == 1 else self.high
        return f"a {self.unit}" + bounds_words(low, self.above, high, self.below, self.show)

    def show(self, value: float) -> str:
        """Return the value as it would be written, exactly."""
        if self.unit == "duration":
            text = units.format_duration(value)
            return text if units.parse_duration(text) == value else f"{value:.15g}s"
        if self.unit == "share":
            return f"{value * 100:.15g}%"
        for name, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value and value % size == 0:
                return f"{int(value // size)}{name}"
        return f"{int(value)}B"

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ScalarNode) or node.null:
            return self.refuse(node, path, run)
        try:
            value = self._parse(node.text.strip())
        except (ValueError, OverflowError):
            return self.refuse(node, path, run, self._hint(node))
        if not math.isfinite(value) or not in_bounds(value, self):
            return self.refuse(node, path, run)
        return int(value) if self.whole else float(value)

    def _parse(self, text: str) -> float:
        if len(text) > 60:
            raise ValueError("too long")
        if self.unit == "share":
            return float(text) if _FLOAT.fullmatch(text) else units.parse_share(text)
        if text == "0":
            return 0
        return units.parse_duration(text) if self.unit == "duration" else units.parse_size(text)

    def _hint(self, node: ScalarNode) -> str:
        text = node.text.strip()
        if not node.hidden and self.unit != "share" and len(text) < 20 and _FLOAT.fullmatch(text):
            number = text.lstrip("+-")
            return f"write {number}s" if self.unit == "duration" else f"write {number}B, or {number}MiB"
        return {
            "duration": "write it as 500ms, 30s, 5m, 1h30m or 7d",
            "size": "write it as 512B, 64KiB, 10MB or 2GiB",
            "share": "write it as 25% or 0.25",
        }[self.unit]


class BoolShape(Shape):
    """`true` or `false`, as in YAML 1.2 and JSON."""

    def words(self) -> str:
        return "true or false"

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ScalarNode):
            return self.refuse(node, path, run)
        text = _number_text(node)
        if text is not None and text in _BOOLS:
            return _BOOLS[text]
        if text is None and node.text in _BOOLS:
            return self.refuse(node, path, run, "remove the quotes")
        meant = "" if node.hidden else _BOOLS_1_1.get(node.text.lower(), "")
        return self.refuse(node, path, run, f"write {meant}" if meant else "")


class NoneShape(Shape):
    def words(self) -> str:
        return "nothing"

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if isinstance(node, ScalarNode) and node.null:
            return None
        return self.refuse(node, path, run)


class ChoiceShape(Shape):
    """One of some words or whole numbers. choices: as written → value."""

    def __init__(self, values: Sequence[str | int]) -> None:
        self.choices: dict[str, Any] = {str(value): value for value in values}

    @classmethod
    def of_enum(cls, type_: type[enum.Enum]) -> ChoiceShape:
        """Return the shape of an enum; numbers are written by their lower-case name."""
        shape = cls(())
        for member in type_:
            shape.choices[member.value if isinstance(member.value, str) else member.name.lower()] = member
        return shape

    def words(self) -> str:
        if len(self.choices) > 12:
            return f"one of {len(self.choices)} known words"
        return or_words(f"'{choice}'" for choice in self.choices)

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ScalarNode) or node.null:
            return self.refuse(node, path, run)
        if node.text in self.choices:
            return self.choices[node.text]
        hint = "" if node.hidden or len(node.text) > 100 else nearest(node.text, list(self.choices))
        return self.refuse(node, path, run, hint if hint.startswith("did") else "")
