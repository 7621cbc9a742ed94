"""Options typed as `key=value` on a command line, read as the configuration reads them: the option's type decides."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from dogwatch.config.compose import compose
from dogwatch.config.containers import DictShape, ListShape, TupleShape, UnionShape
from dogwatch.config.nodes import ListNode, MapNode, Node, Path, ScalarNode
from dogwatch.config.overrides import place
from dogwatch.config.scalars import NoneShape
from dogwatch.config.shape import AnyShape, Shape
from dogwatch.config.structs import StructShape
from dogwatch.config.substitute import encodable
from dogwatch.errors import Problem


def put(tree: MapNode, shape: StructShape, typed: Mapping[str, str]) -> tuple[MapNode, list[Problem]]:
    """Return the tree with every typed option in it, and what is wrong with their names.

    typed: dotted name → text. A list is written `[a, b]` or `a,b`, a mapping `{a: b}`; all else is the text itself.
    """
    problems: list[Problem] = []
    for key, text in typed.items():
        found = _find(shape, tuple(key.split(".")))
        if found is None:
            problems.append(Problem(f"unknown option '{key}'", hint=_hint(key, shape)))
            continue
        if not encodable(text):
            problems.append(Problem("is not UTF-8", path=key))
            continue
        path, kind = found
        try:
            changed = place(tree, path, _node(kind, key, text))
        except ValueError as error:
            problems.append(Problem(str(error), path=key))
        else:
            assert isinstance(changed, MapNode)
            tree = changed
    return tree, problems


def _find(shape: Shape, parts: Path) -> tuple[Path, Shape] | None:
    """Return the path and the shape of a dotted name; names in a mapping of the user's may have dots of their own."""
    if not parts:
        return (), shape
    if isinstance(shape, UnionShape):
        return next((found for option in shape.options if (found := _find(option, parts)) is not None), None)
    if isinstance(shape, DictShape):
        return (".".join(map(str, parts)),), shape.value
    if isinstance(shape, AnyShape):
        return parts, shape
    if not isinstance(shape, StructShape) or str(parts[0]) not in shape.keys:
        return None
    below = _find(shape.keys[str(parts[0])].shape, parts[1:])
    return None if below is None else ((parts[0], *below[0]), below[1])


def _node(shape: Shape, key: str, text: str) -> Node:
    label = f"--set {key}"
    scalar = ScalarNode(file=label, text=text, free=True, plain=False)
    if _one_value(shape):
        return scalar
    if text.lstrip().startswith(("[", "{")):
        tree, problems = compose(label, f"value: {text}\n".encode())
        if tree is not None and not problems and list(tree.items) == ["value"]:
            return tree.items["value"]
    if _is_list(shape) and text:
        items: list[Node] = [
            ScalarNode(file=label, text=one.strip(), free=True, plain=False) for one in text.split(",")
        ]
        return ListNode(file=label, items=items)
    return scalar


def _one_value(shape: Shape) -> bool:
    """Return whether text alone is what the option takes."""
    if isinstance(shape, UnionShape):
        return any(_one_value(option) for option in shape.options)
    return not isinstance(shape, ListShape | TupleShape | DictShape | StructShape | AnyShape | NoneShape)


def _is_list(shape: Shape) -> bool:
    if isinstance(shape, UnionShape):
        return any(_is_list(option) for option in shape.options)
    return isinstance(shape, ListShape | TupleShape)


def _names(shape: Shape, prefix: str = "", depth: int = 0) -> Iterator[str]:
    if isinstance(shape, UnionShape):
        for option in shape.options:
            yield from _names(option, prefix, depth)
    elif isinstance(shape, StructShape) and depth < 3:
        for key, field in shape.keys.items():
            yield prefix + key
            yield from _names(field.shape, f"{prefix}{key}.", depth + 1)


def _hint(key: str, shape: StructShape) -> str:
    """Return the nearest option: one of that name further down, or one that is written alike."""
    names = list(dict.fromkeys(_names(shape)))
    inside = [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]]
    close = inside or difflib.get_close_matches(key[:100], names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(shape.keys)}"
