"""Shapes of values that hold others: lists, mappings, alternatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dogwatch.config.nodes import ListNode, MapNode, Node, Path, ScalarNode
from dogwatch.config.scalars import (
    BoolShape,
    ChoiceShape,
    FloatShape,
    IntShape,
    NoneShape,
    TextShape,
    UnitShape,
)
from dogwatch.config.shape import FAILED, Run, Shape, length_words, or_words

# In an alternative, the narrower meaning of a plain scalar is tried first: `8080` in `int | str` is a number.
_ORDER: tuple[type[Shape], ...] = (NoneShape, BoolShape, ChoiceShape, IntShape, FloatShape, UnitShape)


def is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.null


class ListShape(Shape):
    """A list of one kind of item. build: makes list, tuple, set or frozenset of them."""

    def __init__(
        self, item: Shape, build: Callable[[list[Any]], Any], *, least: int | None = None, most: int | None = None
    ) -> None:
        self.item, self.build, self.least, self.most = item, build, least, most
        self._distinct = build in (set, frozenset)
        self.secret = item.secret

    def words(self) -> str:
        return "a list" + length_words(self.least, self.most, "item")

    def fits(self, node: Node) -> bool:
        return isinstance(node, ListNode)

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if is_null(node):
            node = ListNode(file=node.file, line=node.line, column=node.column)
        if not isinstance(node, ListNode):
            fits = isinstance(node, ScalarNode) and self.item.fits(node)
            return self.refuse(node, path, run, "write each item on its own line after '- '" if fits else "")
        count = len(node.items)
        if count < (self.least or 0) or (self.most is not None and count > self.most):
            run.fault(node, path, f"expected {self.words()}, found {count}")
            return FAILED
        return self._items(node, path, run)

    def _items(self, node: ListNode, path: Path, run: Run) -> Any:
        values: list[Any] = []
        kept: list[int] = []
        for index, item in enumerate(node.items):
            value = self.item.convert(item, (*path, index), run)
            if value is FAILED:
                run.lost.append(item)
            elif self._distinct and value in values:
                run.fault(item, (*path, index), "is already in the list", "remove one of the two")
            else:
                values.append(value)
                kept.append(index)
        if len(kept) < len(node.items):
            run.kept[path] = kept
        return self.build(values)


class TupleShape(Shape):
    """A list of fixed length, each item with its own meaning."""

    def __init__(self, items: Sequence[Shape]) -> None:
        self.items = tuple(items)
        self.secret = any(item.secret for item in items)

    def words(self) -> str:
        return f"a list of {len(self.items)}: {', '.join(item.words() for item in self.items)}"

    def fits(self, node: Node) -> bool:
        return isinstance(node, ListNode)

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if not isinstance(node, ListNode):
            return self.refuse(node, path, run)
        if len(node.items) != len(self.items):
            run.fault(node, path, f"expected {self.words()}, found {len(node.items)}")
            return FAILED
        pairs = zip(self.items, node.items, strict=True)
        values = [shape.convert(item, (*path, index), run) for index, (shape, item) in enumerate(pairs)]
        return FAILED if any(value is FAILED for value in values) else tuple(values)


class DictShape(Shape):
    """Names of the user's choosing, each with a value."""

    def __init__(self, key: Shape, value: Shape, *, least: int | None = None, most: int | None = None) -> None:
        self.key, self.value, self.least, self.most = key, value, least, most
        self.secret = value.secret

    def words(self) -> str:
        return "a mapping" + length_words(self.least, self.most, "entry").replace("entrys", "entries")

    def fits(self, node: Node) -> bool:
        return isinstance(node, MapNode)

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if is_null(node):
            node = MapNode(file=node.file, line=node.line, column=node.column)
        if not isinstance(node, MapNode):
            return self.refuse(node, path, run)
        count = len(node.items)
        if count < (self.least or 0) or (self.most is not None and count > self.most):
            run.fault(node, path, f"expected {self.words()}, found {count}")
            return FAILED
        values: dict[Any, Any] = {}
        for name, item in node.items.items():
            key = self.key.convert(node.keys[name], (*path, name), run)
            value = self.value.convert(item, (*path, name), run)
            if key is FAILED or value is FAILED:
                run.lost += [node.keys[name], item]
            else:
                values[key] = value
        return values


class UnionShape(Shape):
    """One of several meanings. Of those that fit what is written, the narrowest is taken."""

    def __init__(self, options: Sequence[Shape]) -> None:
        self.options = tuple(sorted(options, key=_rank))
        self.secret = any(option.secret for option in options)

    def words(self) -> str:
        return or_words(option.words() for option in self.options if not isinstance(option, NoneShape))

    def fits(self, node: Node) -> bool:
        return any(option.fits(node) for option in self.options)

    def pick(self, node: Node, path: Path = ()) -> Shape | None:
        """Return the option that takes the node, or None."""
        for option in self.options:
            run = Run()
            if option.fits(node) or is_null(node):
                option.convert(node, path, run)
                if not run.problems:
                    return option
        return None

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        trials: list[Run] = []
        for option in self.options:
            if not option.fits(node):
                continue
            trial = run.trial()
            value = option.convert(node, path, trial)
            if not trial.problems:
                run.adopt(trial)
                return value
            if not isinstance(option, NoneShape):
                trials.append(trial)
        if len(trials) == 1:
            # Only one meaning is possible here: say what is wrong with it.
            run.adopt(trials[0])
            return FAILED
        return self.refuse(node, path, run)


def _rank(shape: Shape) -> int:
    for rank, type_ in enumerate(_ORDER):
        if isinstance(shape, type_):
            return rank
    # Text takes everything, so it comes last.
    return 99 if isinstance(shape, TextShape) else 50
