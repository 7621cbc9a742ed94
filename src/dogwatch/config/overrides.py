"""Settings from outside of the files, which they replace: `DOGWATCH_<SECTION>__<KEY>`, and command-line flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from dogwatch.config.build import Catalog
from dogwatch.config.containers import DictShape, ListShape, TupleShape, UnionShape, is_null
from dogwatch.config.nodes import MapNode, Node, Path, ScalarNode, format_path
from dogwatch.config.shape import AnyShape, Shape
from dogwatch.config.structs import FamilyShape, StructShape
from dogwatch.config.substitute import encodable
from dogwatch.core.component import nearest
from dogwatch.errors import Problem

PREFIX = "DOGWATCH_"
# Names that mean something to the program itself, not to a setting.
RESERVED = frozenset(
    {
        "DOGWATCH_CERT",
        "DOGWATCH_COMPILED",
        "DOGWATCH_CONFIG",
        "DOGWATCH_CONTEXT",
        "DOGWATCH_CONTEXTS",
        "DOGWATCH_DATA",
        "DOGWATCH_KEY",
        "DOGWATCH_MOVE_TO",
        "DOGWATCH_SERVER",
        "DOGWATCH_SOCKET",
        "DOGWATCH_TOKEN",
    }
)


class Override(msgspec.Struct, frozen=True):
    """One value that replaces the file's. label: where it came from, "--listen" or "environment DOGWATCH_…".

    weak: a default of the command's: whatever files or environment say wins over it.
    """

    path: Path
    text: str
    label: str
    weak: bool = False


def from_environment(
    environ: Mapping[str, str], catalog: Catalog, tree: MapNode, known: frozenset[str]
) -> tuple[list[Override], list[Problem]]:
    """Return the settings that the environment makes. known: names that are no settings, and no mistakes either.

    tree: what the files say, for the names that their mappings use.
    """
    overrides: list[Override] = []
    problems: list[Problem] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        label = f"environment {name}"
        try:
            path = _find(name, catalog, tree)
        except ValueError as error:
            message, hint = (*error.args, "")[:2]
            problems.append(Problem(message, file=label, hint=hint))
        else:
            overrides.append(Override(path, environ[name], label))
    return overrides, problems


def apply(tree: MapNode, overrides: Sequence[Override]) -> tuple[MapNode, list[Problem]]:
    """Return the tree with each override in force, later ones over earlier ones. The tree is not changed."""
    problems: list[Problem] = []
    for override in overrides:
        if not encodable(override.text):
            problems.append(Problem("is not UTF-8", path=format_path(override.path), file=override.label))
            continue
        node = ScalarNode(file=override.label, text=override.text, free=True, plain=False)
        try:
            changed = place(tree, override.path, node)
        except ValueError as error:
            problems.append(Problem(str(error), path=format_path(override.path), file=override.label))
        else:
            assert isinstance(changed, MapNode)
            tree = changed
    return tree, problems


def written(tree: MapNode, path: Path) -> bool:
    """Return whether the tree says anything at this path."""
    node: Node | None = tree
    for part in path:
        node = node.items.get(str(part)) if isinstance(node, MapNode) else None
    return node is not None and not is_null(node)


def place(node: Node | None, path: Path, value: Node) -> Node:
    """Return a copy of node in which path has the value. Only what lies on the path is copied: aliases share nodes.

    Raises: ValueError.
    """
    if not path:
        return value
    if node is None or is_null(node):
        node = MapNode(file=value.file, items={}, keys={})
    if not isinstance(node, MapNode):
        raise ValueError(f"cannot be set below the value at {node.place}, which is not a mapping")
    key = str(path[0])
    items = {**node.items, key: place(node.items.get(key), path[1:], value)}
    keys = {key: ScalarNode(file=value.file, text=key), **node.keys}
    return MapNode(file=node.file, line=node.line, column=node.column, items=items, keys=keys)


def _find(name: str, catalog: Catalog, tree: MapNode) -> Path:
    """Return the path that an environment name stands for. Raises: ValueError(message, hint)."""
    first, *rest = name.removeprefix(PREFIX).split("__")
    sections = {_env(key): key for key in catalog.sections}
    if first not in sections:
        known = [PREFIX + section for section in sections]
        raise ValueError("unknown name in the environment", _hint(PREFIX + first, known))
    key = sections[first]
    shape: Shape = catalog.shapes[key]
    node: Node | None = tree.items.get(key)
    path: list[str] = [key]
    so_far = PREFIX + first
    for part in rest:
        below = dict(_below(shape, node))
        found = next((key for key in below if _env(key) == part), None)
        if found is None and part and (free := _free(shape)) is not None:
            found = part.lower()
            below[found] = free
        if found is None:
            known = [f"{so_far}__{_env(key)}" for key in below]
            raise ValueError("unknown name in the environment", _hint(f"{so_far}__{part}", known))
        shape = below[found]
        node = node.items.get(found) if isinstance(node, MapNode) else None
        path.append(found)
        so_far += f"__{part}"
    if not _single(shape):
        known = [f"{so_far}__{_env(key)}" for key, _ in _below(shape, node)]
        hint = f"known: {', '.join(known)}" if known and len(known) <= 20 else "write it in the file"
        raise ValueError(f"expected {shape.words()}, which the environment cannot hold", hint)
    return tuple(path)


def _env(key: str) -> str:
    return key.upper().replace("-", "_").replace(".", "_")


def _hint(word: str, known: list[str]) -> str:
    return nearest(word, known) if known and len(word) <= 100 else ""


def _below(shape: Shape, node: Node | None) -> Iterator[tuple[str, Shape]]:
    """Yield the keys that can stand below a shape, with theirs."""
    if isinstance(shape, StructShape):
        for key, field in shape.keys.items():
            yield key, field.shape
        for field in shape.families:
            if field.family is not None:
                yield from _below(field.family, node)
    elif isinstance(shape, FamilyShape):
        for kind in shape.kinds():
            struct = shape.shape(kind)
            if struct is not None:
                yield kind, struct
    elif isinstance(shape, UnionShape):
        for option in shape.options:
            yield from _below(option, node)
    elif isinstance(shape, DictShape) and isinstance(node, MapNode):
        for key in node.items:
            yield key, shape.value


def _free(shape: Shape) -> Shape | None:
    """Return the shape of an entry that does not exist yet, where any name may be added."""
    if isinstance(shape, DictShape):
        return shape.value
    if isinstance(shape, UnionShape):
        return next((free for option in shape.options if (free := _free(option)) is not None), None)
    return None


def _single(shape: Shape) -> bool:
    if isinstance(shape, UnionShape):
        return any(_single(option) for option in shape.options)
    if isinstance(shape, StructShape):
        return shape.short is not None and _single(shape.short.shape)
    return not isinstance(shape, ListShape | TupleShape | DictShape | FamilyShape | AnyShape)
