"""Waiting: for a time, or until one."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dogwatch.core.units import Seconds, format_duration, parse_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.errors import PermanentError

_TEMPLATE = "{{"
_UNIX = re.compile(r"\d{1,12}(?:\.\d+)?")
LONGEST_S = 366 * 86400.0


class WaitAction(Action, frozen=True, kw_only=True):
    """Waits on disk: no worker is held, and a restart does not start the time anew.

    until: a time, `2026-11-21T08:00:00Z` or seconds since 1970; one that has passed is no wait at all.
    """

    kind: ClassVar[str] = "wait"
    short: ClassVar[str] = "for_"
    outputs: ClassVar[Mapping[str, str]] = {"until_s": "double"}

    for_: Annotated[Seconds | str | None, Meta(description="How long, `10m`; a template may make it.")] = msgspec.field(
        default=None, name="for"
    )
    until: str | None = None

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if (self.for_ is None) == (self.until is None):
            yield (), "wants either 'for' or 'until'", "write wait: 10m"
        for key, value, read in (("for", self.for_, _duration), ("until", self.until, _moment)):
            if isinstance(value, str) and _TEMPLATE not in value:
                try:
                    read(value)
                except PermanentError as error:
                    yield (key,), str(error), error.hint
        if isinstance(self.for_, int | float) and self.for_ > LONGEST_S:
            yield ("for",), f"longer than {format_duration(LONGEST_S)}", ""

    @property
    def known_s(self) -> float | None:
        """How long it waits, where that is written."""
        if isinstance(self.for_, str):
            return None if _TEMPLATE in self.for_ else _duration(self.for_)
        return self.for_

    def plan(self) -> Change:
        if self.for_ is None:
            return Change(summary=f"wait until {self.until}")
        shown = format_duration(self.for_) if isinstance(self.for_, int | float) else self.for_
        return Change(summary=f"wait for {shown}")

    async def apply(self, scene: Scene) -> Outcome | Wait:
        # The time is fixed by the first call; whatever wakes it earlier does not move it.
        until_s = scene.memory if isinstance(scene.memory, int | float) else self._until_s(scene.now_s)
        if scene.now_s >= until_s:
            return Outcome(outputs={"until_s": until_s}, changed=False)
        note = f"until {datetime.datetime.fromtimestamp(until_s, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
        return Wait(until_s=until_s, note=note, memory=until_s)

    def _until_s(self, now_s: float) -> float:
        if self.until is not None:
            until_s = _moment(self.until)
        else:
            until_s = now_s + (_duration(self.for_) if isinstance(self.for_, str) else self.for_ or 0.0)
        if until_s > now_s + LONGEST_S:
            raise PermanentError(f"the wait would be longer than {format_duration(LONGEST_S)}")
        return until_s


def _duration(text: str) -> float:
    try:
        return float(text) if _UNIX.fullmatch(text.strip()) else parse_duration(text.strip())
    except ValueError as error:
        raise PermanentError(str(error)) from None


def _moment(text: str) -> float:
    """Return a time written in ISO 8601 with its zone, or in seconds since 1970."""
    stripped = text.strip()
    if _UNIX.fullmatch(stripped):
        return float(stripped)
    try:
        moment = datetime.datetime.fromisoformat(stripped)
        seconds = moment.timestamp() if moment.tzinfo is not None else math.nan
    except (ValueError, OverflowError):
        raise PermanentError(f"'{text[:60]}' is not a time", hint="write it as 2026-11-21T08:00:00Z") from None
    if math.isnan(seconds):
        raise PermanentError(f"'{text[:60]}' has no time zone", hint="write it as 2026-11-21T08:00:00Z or +01:00")
    return seconds
