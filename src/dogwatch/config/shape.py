"""What a field may hold: the seam between types and YAML. A conversion collects every mistake, not just the first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dogwatch.config.nodes import ListNode, MapNode, Node, Path, ScalarNode, describe, problem
from dogwatch.errors import Problem


class _Failed:
    """Stands for a value that could not be converted; its problem is already recorded."""


FAILED: Final = _Failed()


class Run:
    """One conversion: what went wrong, and what was left out so that the rest can still be checked.

    kept: for a list from which items were left out, the written index of each item that stayed.
    lost: nodes that were left out; a complaint about their absence is a consequence, not a mistake.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.failed_paths: set[Path] = set()
        self.kept: dict[Path, list[int]] = {}
        self.lost: list[Node] = []

    def fault(self, node: Node, path: Path, message: str, hint: str = "") -> None:
        self.problems.append(problem(node, path, message, hint))
        self.failed_paths.add(path)

    def trial(self) -> Run:
        """Return a run for an attempt that may be forgotten."""
        return Run()

    def adopt(self, other: Run) -> None:
        self.problems += other.problems
        self.failed_paths |= other.failed_paths
        self.kept |= other.kept
        self.lost += other.lost


class Shape:
    """Converts one kind of value. Built once from a type, used for every value of it."""

    # Text that stands for it in `config show` and errors must not be shown.
    secret: bool = False

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        """Return the value, or FAILED with the reasons in run."""
        raise NotImplementedError

    def words(self) -> str:
        """Return what is expected, for a person: "a whole number of at least 1"."""
        raise NotImplementedError

    def fits(self, node: Node) -> bool:
        """Return whether a node of this kind (scalar, list, mapping) is what it takes at all."""
        return isinstance(node, ScalarNode)

    def refuse(self, node: Node, path: Path, run: Run, hint: str = "", words: str = "") -> Any:
        """Record that something else was expected; return FAILED."""
        found = "something else" if self.secret and isinstance(node, ScalarNode) and node.text else describe(node)
        if self.secret and isinstance(node, ScalarNode) and node.null:
            found = "nothing"
        run.fault(node, path, f"expected {words or self.words()}, found {found}", hint)
        return FAILED


def bounds_words(low: float | None, above: float | None, high: float | None, below: float | None, show: Any) -> str:
    """Return " between 1 and 5", " of at least 1" and so on. show: how a bound is written."""
    if low is not None and high is not None:
        return f" between {show(low)} and {show(high)}"
    parts = []
    if low is not None:
        parts.append(f"of at least {show(low)}")
    if above is not None:
        parts.append(f"greater than {show(above)}")
    if high is not None:
        parts.append(f"of at most {show(high)}")
    if below is not None:
        parts.append(f"less than {show(below)}")
    return f" {' and '.join(parts)}" if parts else ""


def length_words(least: int | None, most: int | None, unit: str) -> str:
    if least and most is not None:
        return f" of {least} to {most} {unit}s"
    if least:
        return f" of at least {least} {unit}{'s' if least > 1 else ''}"
    if most is not None:
        return f" of at most {most} {unit}{'s' if most != 1 else ''}"
    return ""


def or_words(words: Iterable[str]) -> str:
    *some, last = dict.fromkeys(words)
    return f"{', '.join(some)} or {last}" if some else last


class AnyShape(Shape):
    """Whatever is written, read as YAML 1.2's core schema reads it. For fields that are passed on as they are."""

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        from dogwatch.config.scalars import resolve

        if isinstance(node, MapNode):
            return {key: self.convert(value, (*path, key), run) for key, value in node.items.items()}
        if isinstance(node, ListNode):
            return [self.convert(item, (*path, index), run) for index, item in enumerate(node.items)]
        assert isinstance(node, ScalarNode)
        return resolve(node)

    def words(self) -> str:
        return "a value"

    def fits(self, node: Node) -> bool:  # noqa: ARG002 - it takes every kind of node
        return True
