"""What a feature offers to the configuration: a key, the type behind it, and a check of what types cannot say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from dogwatch.core.component import Component, Registry

T = TypeVar("T")
Path = tuple[str | int, ...]


class Fault(msgspec.Struct, frozen=True):
    """A mistake found by a section's check. path: below the section, ("0", "expect") style: (0, "http", "expect").

    The loader turns it into a Problem with file and line. file and line: where the mistake is in a file
    that the section includes; "" for one in the configuration itself.
    """

    path: Path
    message: str
    hint: str = ""
    file: str = ""
    line: int = 0


class Included(msgspec.Struct, frozen=True):
    """A file that the configuration includes. name: its path, for messages."""

    name: str
    text: str

    @classmethod
    def of(cls, value: str) -> Included:
        """Return what a section finds where an `includes` key named a file: path, line end, content."""
        name, _, text = value.partition("\n")
        return cls(name, text)


class Section(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One top-level key of the configuration.

    type: what the value is converted to (a struct, or `list[Struct]`). Fields whose type is a family's base class
    are written as one key naming the kind (`http: {…}` beside `name:`), looked up in `families`.
    default: the value where the key is absent. check: finds what types cannot say (duplicate names, expressions
    that do not compile); it does no I/O and reports all faults.
    across: finds what only other sections can say (a job that is not there); it is given a function that returns their
    values, and runs once every section is well by itself.
    includes: keys whose text, or list of texts, names files of another program's format. The loader reads and watches
    them, and puts what `Included.of` takes apart in their place, so that the check can be pure.
    example: YAML that may stand below the key, not indented; `dogwatch init` writes it, so it must pass the check. ""
    for none: then the defaults are written as comments.
    """

    key: str
    type: Any
    doc: str
    default: Callable[[], T]
    families: Mapping[type[Component], Registry[Any]] = {}
    check: Callable[[T], Iterable[Fault]] = lambda _value: ()
    across: Callable[[T, Callable[[Section[Any]], Any]], Iterable[Fault]] = lambda _value, _get: ()
    includes: tuple[str, ...] = ()
    example: str = ""
