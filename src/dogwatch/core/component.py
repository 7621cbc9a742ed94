"""The one seam of every replaceable part: a frozen struct whose fields are its options, listed in one registry."""

from __future__ import annotations

import difflib
import importlib
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
    components: classes; or, of a family that most programs do not use, where they are, as entry points are written:
    `kafka = package.module:KafkaSink`. Those are imported when configuration names them.
    """

    def __init__(self, family: str, *components: type[C] | str) -> None:
        self.family = family
        self._by_kind: dict[str, type[C]] = {}
        self._later: dict[str, str] = {}
        self._kinds: dict[str, None] = {}
        for component in components:
            if isinstance(component, str):
                kind, _, place = component.partition(" = ")
                self._later[kind] = place
            else:
                kind = component.kind
                self._by_kind[kind] = component
            self._kinds[kind] = None
        if len(self._kinds) != len(components):
            raise ValueError(f"two {family} components have the same kind")

    def __iter__(self) -> Iterator[type[C]]:
        return (self._known(kind) for kind in self.kinds())

    def __contains__(self, kind: object) -> bool:
        return kind in self._kinds

    def kinds(self) -> tuple[str, ...]:
        return tuple(self._kinds)

    def find(self, kind: str) -> type[C] | None:
        """Return the component of that kind, ours or an outside package's; None if nobody has it."""
        if kind in self:
            return self._known(kind)
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
            raise UsageError(f"unknown {self.family} kind '{kind}'", hint=nearest(kind, self.kinds()))
        return component

    def _known(self, kind: str) -> type[C]:
        if kind not in self._by_kind:
            module, _, name = self._later[kind].partition(":")
            component: type[C] = getattr(importlib.import_module(module), name)
            if component.kind != kind:
                raise ValueError(f"{self._later[kind]} is of the kind {component.kind}, not {kind}")
            self._by_kind[kind] = component
        return self._by_kind[kind]


def nearest(word: str, known: Iterator[str] | dict[str, type[C]] | tuple[str, ...] | list[str]) -> str:
    """Return "did you mean 'host'?" for the closest known name, or what is known where nothing is close, or ""."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= 20 else ""
