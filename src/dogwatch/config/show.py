"""The effective configuration, value by value, each with where it came from. Secrets never appear."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence, Set
from typing import Any

import msgspec

from dogwatch.config.containers import DictShape, ListShape, TupleShape, UnionShape, is_null
from dogwatch.config.load import Loaded
from dogwatch.config.nodes import ListNode, MapNode, Node, Path, ScalarNode, format_path
from dogwatch.config.scalars import NoneShape, TextShape, UnitShape
from dogwatch.config.shape import AnyShape, Shape
from dogwatch.config.structs import FamilyShape, StructShape

MASK = "***"
# `https://name:password@host` in a field that is no secret by itself.
_PASSWORD_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s/@]+(@)", re.IGNORECASE)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. value: as it would be written. origin: "default", `file:line`, "environment NAME" or a flag."""

    path: str
    value: Any
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Return every effective setting, defaults included, in the order of sections and fields."""
    found: list[Row] = []
    for key, section in loaded.catalog.sections.items():
        node = loaded.parsed.tree.items.get(key)
        if node is not None and is_null(node):
            node = None
        found += _rows(loaded.catalog.shapes[key], loaded.get(section), node, (key,))
    return found


def masked(rows: Sequence[Row], paths: Set[str]) -> list[Row]:
    """Return the settings with the values at these paths, and below them, masked."""
    heads = {path.partition("[")[0].partition(".")[0] for path in paths}

    def hides(path: str) -> bool:
        if path.partition("[")[0].partition(".")[0] not in heads:
            return False
        return path in paths or any(path.startswith((f"{one}.", f"{one}[")) for one in paths)

    return [msgspec.structs.replace(row, value=MASK) if hides(row.path) else row for row in rows]


def _rows(shape: Shape, value: Any, node: Node | None, path: Path) -> Iterator[Row]:
    if isinstance(shape, UnionShape):
        shape = _option(shape, value, node)
    if isinstance(shape, FamilyShape) and isinstance(value, msgspec.Struct):
        kind = type(value).kind  # type: ignore[attr-defined]
        struct = shape.shape(kind)
        below = node.items.get(kind) if isinstance(node, MapNode) else node
        if struct is not None:
            yield from _rows(struct, value, below, (*path, kind))
    elif isinstance(shape, StructShape) and isinstance(value, msgspec.Struct):
        yield from _struct_rows(shape, value, node, path)
    elif isinstance(shape, DictShape) and value:
        for key, item in value.items():
            name = _plain(key)
            below = node.items.get(str(name)) if isinstance(node, MapNode) else None
            yield from _rows(shape.value, item, below, (*path, str(name)))
    elif isinstance(shape, ListShape) and value and not _simple(shape.item):
        for index, item in enumerate(value):
            below = node.items[index] if isinstance(node, ListNode) and index < len(node.items) else None
            yield from _rows(shape.item, item, below, (*path, index))
    else:
        yield Row(path=format_path(path), value=_shown(shape, value, node), origin=_origin(node))


def _struct_rows(shape: StructShape, value: msgspec.Struct, node: Node | None, path: Path) -> Iterator[Row]:
    for field in shape.fields:
        item = getattr(value, field.name)
        if field.family is not None:
            if item is None:
                continue
            yield from _rows(field.family, item, node if isinstance(node, MapNode) else None, path)
        else:
            below = node.items.get(field.key) if isinstance(node, MapNode) else None
            if isinstance(node, ScalarNode | ListNode) and field is shape.short:
                below = node
            yield from _rows(field.shape, item, below, (*path, field.key))


def _origin(node: Node | None) -> str:
    return node.place if node is not None and node.place else "default"


def _simple(shape: Shape) -> bool:
    if isinstance(shape, UnionShape):
        return all(_simple(option) for option in shape.options)
    return not isinstance(shape, StructShape | FamilyShape | DictShape | ListShape | TupleShape)


def _option(shape: UnionShape, value: Any, node: Node | None) -> Shape:
    """Return the alternative that a value is of."""
    if node is not None:
        picked = shape.pick(node)
        if picked is not None:
            return picked
    options = [option for option in shape.options if not isinstance(option, NoneShape)]
    for option in options:
        if isinstance(option, StructShape) and isinstance(value, option.type):
            return option
        if isinstance(option, UnitShape) and isinstance(value, int | float):
            return option
        if isinstance(option, TextShape) and isinstance(value, str):
            return option
    return options[0] if len(options) == 1 else AnyShape()


def _shown(shape: Shape, value: Any, node: Node | None) -> Any:
    if value is None:
        return None
    if shape.secret:
        return MASK if value else _plain(value)
    if isinstance(node, ScalarNode) and node.hidden:
        # Text of a file may be secret whatever the field is: show what names it.
        return node.written
    if isinstance(shape, ListShape) and isinstance(node, ListNode):
        pairs = zip(value, node.items, strict=False)
        ordered = not isinstance(value, set | frozenset)
        hidden = any(isinstance(item, ScalarNode) and item.hidden for item in node.items)
        if ordered:
            return [_shown(shape.item, item, below) for item, below in pairs]
        return [MASK] if hidden else sorted(_plain(value))
    if isinstance(shape, UnitShape):
        return shape.show(value)
    if isinstance(shape, ListShape | TupleShape) and isinstance(value, list | tuple):
        items = shape.items if isinstance(shape, TupleShape) else [shape.item] * len(value)
        return [_shown(one, item, None) for one, item in zip(items, value, strict=False)]
    if isinstance(shape, UnionShape):
        return _shown(_option(shape, value, node), value, node)
    if isinstance(shape, AnyShape) and isinstance(node, ListNode) and isinstance(value, list):
        return [_shown(shape, item, below) for item, below in zip(value, node.items, strict=False)]
    if isinstance(shape, AnyShape) and node is not None and _any_hidden(node):
        return MASK
    plain = _plain(value)
    return _PASSWORD_IN_URL.sub(rf"\1{MASK}\2", plain) if isinstance(plain, str) and "@" in plain else plain


def _any_hidden(node: Node) -> bool:
    if isinstance(node, MapNode):
        return any(_any_hidden(item) for item in node.items.values())
    if isinstance(node, ListNode):
        return any(_any_hidden(item) for item in node.items)
    return isinstance(node, ScalarNode) and node.hidden


def _plain(value: Any) -> Any:
    """Return builtins for JSON."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, str) else value.name.lower()
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    return msgspec.to_builtins(value)
