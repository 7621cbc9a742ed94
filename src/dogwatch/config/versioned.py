"""State documents that carry a version: older ones are migrated when read, newer ones are refused, never opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from dogwatch.errors import PermanentError, StoreNewer

T = TypeVar("T")
Builtins = dict[str, object]
Migration = Callable[[Builtins], Builtins]


class _Envelope(msgspec.Struct):
    version: int


class Versioned(Generic[T]):
    """Encodes and decodes one kind of state file as JSON with a `version`.

    name: what it is in messages ("probe state"). migrations: migrations[0] takes version 1 to 2 and so on, so the
    current version is their number + 1. Each takes and returns the whole document without its version.
    """

    def __init__(self, name: str, type_: type[T], migrations: Sequence[Migration] = ()) -> None:
        self.name = name
        self.version = len(migrations) + 1
        self._type = type_
        self._migrations = tuple(migrations)

    def encode(self, value: T) -> bytes:
        document = msgspec.to_builtins(value)
        if not isinstance(document, dict):
            raise TypeError(f"{self.name}: a versioned document is a mapping")
        return msgspec.json.encode({"version": self.version, **document})

    def decode(self, data: bytes, *, file: str) -> T:
        """Return the document, migrated to the current version.

        Raises: StoreNewer if a newer Dogwatch wrote it; PermanentError if it is damaged.
        """
        try:
            written = msgspec.json.decode(data, type=_Envelope).version
            if written > self.version:
                raise StoreNewer(
                    f"cannot open {file}: {self.name} of version {written}, this Dogwatch reads up to {self.version}",
                    hint="start the Dogwatch that wrote it, or a newer one",
                )
            if written < 1:
                raise PermanentError(f"cannot read {file}: {self.name} has version {written}")
            document = msgspec.json.decode(data, type=Builtins)
            document.pop("version")
            for migration in self._migrations[written - 1 :]:
                document = migration(document)
            return msgspec.convert(document, self._type)
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError) as error:
            raise PermanentError(
                f"cannot read {file}: {self.name} is damaged: {error or type(error).__name__}"
            ) from error
