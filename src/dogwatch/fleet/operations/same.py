"""Whether two paths are names of one file."""

from __future__ import annotations

import shlex

from dogwatch.fleet.operations.state import Fact, Need


class SameFact(Fact, frozen=True, kw_only=True):
    """same: they are."""

    same: bool


class SameNeed(Need[SameFact], frozen=True, kw_only=True, tag="same"):
    """Whether two paths are one file."""

    path: str
    other: str

    @property
    def key(self) -> str:
        return f"same {self.path} {self.other}"

    def script(self) -> str:
        first, second = shlex.quote(self.path), shlex.quote(self.other)
        return f"[ ! -L {first} ] && [ {first} -ef {second} ] && echo same"

    def parse(self, raw: bytes) -> SameFact:
        return SameFact(same=raw.strip() == b"same")
