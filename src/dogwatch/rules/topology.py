"""What cannot be well without what: declared dependencies, and host → container → service by labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A target and what it depends on. labels: `host` and `container` name what it runs on."""

    name: str
    depends_on: Sequence[str] = ()
    labels: Mapping[str, str] = {}


class Topology:
    """Pure: the same answer for the same nodes. Circles are allowed: nothing in one is above itself."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        known = {node.name: node for node in nodes}
        self.upstream: dict[str, tuple[str, ...]] = {}
        for node in known.values():
            above = [*node.depends_on, node.labels.get("container", ""), node.labels.get("host", "")]
            self.upstream[node.name] = tuple(dict.fromkeys(name for name in above if name and name != node.name))
        self._above: dict[str, tuple[str, ...]] = {}

    def above(self, name: str) -> tuple[str, ...]:
        """Return all that a target depends on, the nearest first."""
        found = self._above.get(name)
        if found is None:
            found = self._above[name] = self._walk(name)
        return found

    def _walk(self, name: str) -> tuple[str, ...]:
        seen: dict[str, None] = {}
        level: Sequence[str] = self.upstream.get(name, ())
        while level:
            following: list[str] = []
            for one in level:
                if one not in seen and one != name:
                    seen[one] = None
                    following += self.upstream.get(one, ())
            level = following
        return tuple(seen)
