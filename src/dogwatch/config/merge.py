"""Several files to one tree: lists concatenate, mappings merge, the same setting twice is an error naming both."""

from __future__ import annotations

from collections.abc import Iterable

from dogwatch.config.nodes import ListNode, MapNode, Node, Path, ScalarNode, problem
from dogwatch.errors import Problem


def merge(trees: Iterable[MapNode]) -> tuple[MapNode, list[Problem]]:
    """Return the tree of all files. The trees are not changed, for anchors may share their nodes."""
    whole = MapNode(items={}, keys={})
    problems: list[Problem] = []
    for tree in trees:
        whole = _merge_maps(whole, tree, (), problems)
    return whole, problems


def _merge_maps(one: MapNode, two: MapNode, path: Path, problems: list[Problem]) -> MapNode:
    items = dict(one.items)
    keys = dict(one.keys)
    for key, value in two.items.items():
        if key in items:
            items[key] = _merge_nodes(items[key], value, (*path, key), problems)
        else:
            items[key] = value
        keys.setdefault(key, two.keys[key])
    first = one if one.file else two
    return MapNode(file=first.file, line=first.line, column=first.column, items=items, keys=keys)


def _merge_nodes(one: Node, two: Node, path: Path, problems: list[Problem]) -> Node:
    if isinstance(two, ScalarNode) and two.null:
        return one
    if isinstance(one, ScalarNode) and one.null:
        return two
    if isinstance(one, MapNode) and isinstance(two, MapNode):
        return _merge_maps(one, two, path, problems)
    if isinstance(one, ListNode) and isinstance(two, ListNode):
        return ListNode(file=one.file, line=one.line, column=one.column, items=one.items + two.items)
    problems.append(problem(two, path, f"is already set at {one.place}", "keep one of the two"))
    return one
