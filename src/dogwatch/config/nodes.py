"""The tree that YAML is composed to: every value knows where it was written and who wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from dogwatch.errors import Problem

Path = tuple[str | int, ...]

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Node(msgspec.Struct, kw_only=True):
    """A value as written. file: of the configuration, or "environment NAME" or a flag; line: 0 where it has none.

    column: counts from 1. size: how many nodes it stands for, aliases expanded.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    size: int = 1

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class ScalarNode(Node, kw_only=True):
    """Text that its field's type gives a meaning.

    plain: written without quotes, so it may be a number, a boolean or null. tag: "str" where `!!str` forces text.
    written: the text before substitution, "" where nothing was substituted. hidden: a part came from a file.
    free: text from outside of YAML (environment, flag, substitution), where quoting says nothing about the type.
    """

    text: str
    plain: bool = True
    tag: str = ""
    written: str = ""
    hidden: bool = False
    free: bool = False

    @property
    def null(self) -> bool:
        return self.plain and not self.free and self.tag in ("", "null") and self.text in _NULLS


class ListNode(Node, kw_only=True):
    items: list[Node] = []


class MapNode(Node, kw_only=True):
    """keys: where each key was written, in written order."""

    items: dict[str, Node] = {}
    keys: dict[str, ScalarNode] = {}


def format_path(path: Iterable[str | int]) -> str:
    """Return `probes[3].labels["a.b"]`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            out += f".{part}" if out else part
        else:
            shown = part if len(part) <= 80 else part[:80] + "…"
            out += f'["{clean(shown)}"]'
    return out


def clean(text: str) -> str:
    """Return text that is safe in a message: one line, nothing that a terminal obeys."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """Return text in quotes for a message, bounded."""
    return f"'{clean(text if len(text) <= 60 else text[:60] + '…')}'"


def describe(node: Node) -> str:
    """Return what was found in words, never the content of a substituted file."""
    if isinstance(node, MapNode):
        return "a mapping" if node.items else "an empty mapping"
    if isinstance(node, ListNode):
        return "a list" if node.items else "an empty list"
    if not isinstance(node, ScalarNode):
        return "something else"
    if node.null:
        return "nothing"
    if node.hidden or node.written:
        # What files and the environment hold may be secret wherever it was put by mistake.
        return f"what {quoted(node.written)} holds"
    return quoted(node.text)


def problem(node: Node, path: Iterable[str | int], message: str, hint: str = "") -> Problem:
    return Problem(message, path=format_path(path), file=node.file, line=node.line, hint=hint)


def deepest(root: Node, path: Path) -> Node:
    """Return the node at the path, or the last one on the way to it that exists; a map's key where it has one."""
    node = root
    for part in path:
        below = child(node, part)
        if below is None:
            break
        node = below
    return node


def child(node: Node, part: str | int) -> Node | None:
    if isinstance(node, MapNode):
        return node.items.get(str(part))
    if isinstance(node, ListNode) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part]
    return None


def fingerprint(node: Node) -> object:
    """Return builtins that are equal for trees that mean the same: no places, no comments, no quoting style.

    Shared aliases are shared in the result, so a tree within the composer's bounds stays within them.
    """
    if isinstance(node, MapNode):
        return {key: fingerprint(value) for key, value in node.items.items()}
    if isinstance(node, ListNode):
        return [fingerprint(item) for item in node.items]
    assert isinstance(node, ScalarNode)
    # Quoting decides between null or a number and text, so it is a part of the meaning.
    if node.null:
        return None
    return [node.text] if (node.plain or node.free) and not node.tag else node.text
