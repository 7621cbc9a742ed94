"""What differs between two configurations, by name."""

from __future__ import annotations

from collections.abc import Iterator

from dogwatch.config.nodes import ListNode, MapNode, Node, ScalarNode, fingerprint
from dogwatch.config.status import Difference

MAX_NAMES = 100
_MARKS = {"added": "+", "changed": "~", "removed": "-"}


def changes(old: MapNode | None, new: MapNode) -> tuple[str, ...]:
    """Return `+probes.shop`, `-probes.shop`, `~server.listen`…, in the order of the new, bounded to MAX_NAMES."""
    found = differences(old, new)
    names = [
        f"{_MARKS[what]}{one.section}{f'.{one.name}' if one.name else ''}"
        for what in _MARKS
        for one in found
        if one.what == what
    ]
    if len(names) > MAX_NAMES:
        names[MAX_NAMES - 1 :] = [f"… and {len(names) - MAX_NAMES + 1} more"]
    return tuple(names)


def differences(old: MapNode | None, new: MapNode) -> list[Difference]:
    """Return every entry that is added, changed or removed, in the order of the new, what is gone last."""
    before = _entries_of(old) if old is not None else {}
    after = _entries_of(new)
    found = []
    for (section, name), node in after.items():
        former = before.get((section, name))
        if former is None:
            found.append(Difference(section=section, name=name, what="added"))
        elif fingerprint(former) != fingerprint(node):
            found.append(Difference(section=section, name=name, what="changed", keys=tuple(_keys(former, node))))
    found += [Difference(section=one[0], name=one[1], what="removed") for one in before if one not in after]
    return found


def _keys(old: Node, new: Node) -> Iterator[str]:
    """Yield the keys of an entry that differ. Values are not told: they may be secrets."""
    if isinstance(old, MapNode) and isinstance(new, MapNode):
        for key in dict.fromkeys((*new.items, *old.items)):
            before, after = old.items.get(key), new.items.get(key)
            if before is None or after is None or fingerprint(before) != fingerprint(after):
                yield key


def _entries_of(tree: MapNode) -> dict[tuple[str, str], Node]:
    """Return each entry of each section, by section and name."""
    return {(section, name): item for section, node in tree.items.items() for name, item in _entries(node)}


def _entries(node: Node) -> list[tuple[str, Node]]:
    if isinstance(node, MapNode):
        return list(node.items.items())
    if isinstance(node, ListNode):
        return [(_name(item, index), item) for index, item in enumerate(node.items)]
    return [("", node)]


def _name(item: Node, index: int) -> str:
    name = item.items.get("name") if isinstance(item, MapNode) else None
    return name.text if isinstance(name, ScalarNode) and not name.hidden else str(index)
