"""What is known of a host, and what would be known after the changes decided so far.

An operation reads facts through `State` and puts there what its changes make of them: the next operation of the same
plan decides on that, before anything is done.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from dogwatch.errors import DogwatchError

F = TypeVar("F", bound="Fact")


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What a need found."""

    def seal(self) -> str:
        """Return a digest of what it says; where it is the same, nothing that was decided on has moved."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


class Need(msgspec.Struct, Generic[F], frozen=True, kw_only=True, tag_field="need"):
    """Something that must be known of a host. Equal keys are read once.

    prelude: sh functions that its script calls. tidy: the script leaves the shell as it was, or uses only names of
    one letter; it needs no shell of its own then.
    """

    prelude: ClassVar[str] = ""
    tidy: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def key(self) -> str:
        """Return what it is known by: `path /etc/hosts`."""

    @abc.abstractmethod
    def script(self) -> str:
        """Return one line of sh whose output is the fact. It changes nothing; its values are quoted."""

    @abc.abstractmethod
    def parse(self, raw: bytes) -> F:
        """Return the fact that the output tells. Raises: CannotRead."""

    def joined(self, other: Any) -> Any:
        """Return the need that finds what both do; they have the same key."""
        return self if other == self else other


class CannotRead(DogwatchError):
    """A fact cannot be read on this host; the text says which and why."""

    code = "cannot_read"


class Refused(DogwatchError):
    """An operation cannot be done on this host as it is; nothing of it is planned."""

    code = "refused"


class Later(Exception):
    """It can only be decided once an earlier change is made. after: the name of that operation."""

    def __init__(self, after: str) -> None:
        super().__init__(after)
        self.after = after


class State:
    """Facts of one host. loose: the operation whose change may have brought more than is known (a package), or ""."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = dict(facts)
        self._read: set[str] = set()
        self._unknown: dict[str, str] = {}
        self._written: set[str] = set()
        self.effects: dict[str, str] = {}
        self.loose = ""

    def get(self, need: Need[F]) -> F:
        """Return the fact. Raises: Later where only a change that is still to be made decides it."""
        if need.key in self._unknown:
            raise Later(self._unknown[need.key])
        found = self._facts[need.key]
        self._read.add(need.key)
        if isinstance(found, DogwatchError):
            raise found
        return found  # type: ignore[no-any-return]

    def put(self, need: Need[F], fact: F, *, sure: bool = True) -> None:
        """Say what a decided change makes of a fact. sure: it is known to the letter."""
        self._facts[need.key] = fact
        self._written.add(need.key)
        self.effects[need.key] = fact.seal() if sure else "?"

    def forget(self, need: Need[Any], by: str) -> None:
        """Say that a decided change makes something of a fact that nobody can foretell."""
        self._unknown[need.key] = by
        self._written.add(need.key)
        self.effects[need.key] = "?"

    def copy(self) -> State:
        """Return a state of its own."""
        other = State(self._facts)
        other.restore(self)
        return other

    def restore(self, other: State) -> None:
        """Know again what another state knows."""
        self._facts, self._unknown = dict(other._facts), dict(other._unknown)
        self._read, self._written, self.loose = set(other._read), set(other._written), other.loose

    def wrote(self, what: Callable[[str], bool]) -> bool:
        """Return whether a decided change makes another of a fact whose key is so."""
        return any(map(what, self._written))

    def knows(self, need: Need[Any]) -> bool:
        """Return whether the fact was asked for at all."""
        return need.key in self._facts
