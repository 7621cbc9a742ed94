"""As whom changes are made on a host."""

from __future__ import annotations

from dogwatch.fleet.operations.state import CannotRead, Fact, Need


class WhoFact(Fact, frozen=True, kw_only=True):
    """The user and group that new files belong to."""

    user: str
    group: str


class WhoNeed(Need[WhoFact], frozen=True, kw_only=True, tag="who"):
    """Who one is there."""

    @property
    def key(self) -> str:
        return "who"

    def script(self) -> str:
        return "id -un; id -gn"

    def parse(self, raw: bytes) -> WhoFact:
        lines = raw.decode(errors="backslashreplace").splitlines()
        if len(lines) != 2:
            raise CannotRead("who one is on the host cannot be read: id failed")
        return WhoFact(user=lines[0], group=lines[1])
