"""The one seam of every replaceable part: a frozen struct whose fields are its options, listed in one registry."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar

import msgspec

from dogwatch.errors import UsageError


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A part that configuration names by its kind; its fields are its options.

    A family (Probe, Collector, Channel…) subclasses this once and says what its members do. In configuration a
    member is written as one key: `http: {url: …}`.
    """

    kind: ClassVar[str]
    # Options that may be given without a mapping: `tcp: "db-1:5432"` fills this field. "" for none.
    short: ClassVar[str] = ""


C = TypeVar("C", bound=Component)


class Registry(Generic[C]):
    """The one list of a family's kinds. Outside packages join by entry point, and only when configuration names them.

    family: what a member is called in messages ("probe"); the entry-point group is `dogwatch.<family>s`.
    """

    def __init__(self, family: str, *components: type[C]) -> None:
        self.family = family
        self._by_kind: dict[str, type[C]] = {component.kind: component for component in components}
        if len(self._by_kind) != len(components):
            raise ValueError(f"two {family} components have the same kind")

    def __iter__(self) -> Iterator[type[C]]:
        return iter(self._by_kind.values())

    def __contains__(self, kind: object) -> bool:
        return kind in self._by_kind

    def kinds(self) -> tuple[str, ...]:
        return tuple(self._by_kind)

    def find(self, kind: str) -> type[C] | None:
        """Return the component of that kind, ours or an outside package's; None if nobody has it."""
        if kind in self._by_kind:
            return self._by_kind[kind]
        # Imported when it is needed: it costs more than all the rest of reading a configuration.
        from importlib.metadata import entry_points

        for entry in entry_points(group=f"dogwatch.{self.family}s", name=kind):
            component: type[C] = entry.load()
            return component
        return None

    def get(self, kind: str) -> type[C]:
        """Return the component of that kind.

        Raises: UsageError naming the nearest kind.
        """
        component = self.find(kind)
        if component is None:
            raise UsageError(f"unknown {self.family} kind '{kind}'", hint=nearest(kind, self._by_kind))
        return component


def nearest(word: str, known: Iterator[str] | dict[str, type[C]] | tuple[str, ...] | list[str]) -> str:
    """Return "did you mean 'host'?" for the closest known name, or what is known where nothing is close, or ""."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= 20 else ""
