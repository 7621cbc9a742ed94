"""What differs between two configurations, by name."""

from __future__ import annotations

from dogwatch.config.nodes import ListNode, MapNode, Node, ScalarNode, fingerprint

MAX_NAMES = 100


def changes(old: MapNode | None, new: MapNode) -> tuple[str, ...]:
    """Return `+probes.shop`, `-probes.shop`, `~server.listen`…, in the order of the new, bounded to MAX_NAMES."""
    before = _named(old) if old is not None else {}
    after = _named(new)
    names = [f"+{name}" for name in after if name not in before]
    names += [f"~{name}" for name in after if name in before and before[name] != after[name]]
    names += [f"-{name}" for name in before if name not in after]
    if len(names) > MAX_NAMES:
        names[MAX_NAMES - 1 :] = [f"… and {len(names) - MAX_NAMES + 1} more"]
    return tuple(names)


def _named(tree: MapNode) -> dict[str, object]:
    """Return the meaning of each entry of each section, by section and name."""
    found: dict[str, object] = {}
    for section, node in tree.items.items():
        for name, item in _entries(node):
            found[f"{section}.{name}" if name else section] = fingerprint(item)
    return found


def _entries(node: Node) -> list[tuple[str, Node]]:
    if isinstance(node, MapNode):
        return list(node.items.items())
    if isinstance(node, ListNode):
        return [(_name(item, index), item) for index, item in enumerate(node.items)]
    return [("", node)]


def _name(item: Node, index: int) -> str:
    name = item.items.get("name") if isinstance(item, MapNode) else None
    return name.text if isinstance(name, ScalarNode) and not name.hidden else str(index)
