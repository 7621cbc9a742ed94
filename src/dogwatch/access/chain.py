"""The chain of digests, and what can be wrong with it. Pure.

A row's digest covers the digest before it, its number and its body: whoever changes, inserts, removes, reorders or
renumbers rows must make every later digest anew, and then contradicts the signed heads that left the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

GENESIS = "0" * 64


def link(before: str, number: int, body: str) -> str:
    """Return the digest of an event after the digest before it."""
    return hashlib.sha256(f"{before}\n{number}\n{body}".encode()).hexdigest()


class Link(msgspec.Struct, frozen=True):
    """One event as it is kept. twisted: which of the columns for searching do not say what the body says, or ""."""

    number: int
    body: str
    digest: str
    twisted: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A signed statement. kind: head (the event of this number has this digest), or cut (retention removed what is up
    to this number, whose last digest was this). signer: the id of the key. origin: where it was read.
    """

    kind: str
    number: int
    digest: str
    time_s: float
    signer: str
    signature: str
    origin: str = ""

    def signed(self) -> bytes:
        """Return what the signature covers."""
        return msgspec.json.encode(["dogwatch-audit", self.kind, self.number, self.digest, self.time_s, self.signer])


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What verification found. events: how many were looked at. broken: the number of the first event that is wrong,
    None where all is well; why: what is wrong with it. signed: up to which event signed heads vouch.
    """

    events: int
    first: int
    last: int
    heads: int
    signed: int
    broken: int | None = None
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.broken is None


class Verification:
    """Walks along a chain. heads: with valid signatures; their cuts say where the chain may begin."""

    def __init__(self, heads: Iterable[Head]) -> None:
        known = sorted(heads, key=lambda head: head.number)
        cuts = [head for head in known if head.kind == "cut"]
        self._start = cuts[-1] if cuts else None
        self._known = known
        self._heads: dict[int, list[Head]] = {}
        for head in known:
            self._heads.setdefault(head.number, []).append(head)
        self._number = self._start.number if self._start else 0
        self._digest = self._start.digest if self._start else GENESIS
        self._events = 0
        self._first = 0
        self._signed = 0
        self.broken: tuple[int, str] | None = None

    def feed(self, links: Sequence[Link]) -> bool:
        """Go on with the next events in order of number; return whether all is still well."""
        for one in links:
            why = self._wrong(one)
            if why:
                self.broken = (min(one.number, self._number + 1), why)
                return False
            self._number, self._digest = one.number, one.digest
            self._events += 1
            self._first = self._first or one.number
        return True

    def _wrong(self, one: Link) -> str:
        expected = self._number + 1
        if one.number != expected:
            if one.number < expected:
                return f"event {one.number} stands where event {expected} belongs, or should have been removed"
            gap = f"event {expected} is" if one.number == expected + 1 else f"events {expected} to {one.number - 1} are"
            return f"{gap} missing"
        if link(self._digest, one.number, one.body) != one.digest:
            return f"event {one.number} was changed, or does not belong after event {self._number}"
        if one.twisted:
            return f"event {one.number}: its column {one.twisted} does not say what the event says"
        for head in self._heads.get(one.number, ()):
            if head.digest != one.digest:
                return f"event {one.number} is not the one that was signed{_where(head)}: the chain was made anew"
            self._signed = one.number
        return ""

    def finish(self, tail: tuple[int, str] | None = None) -> Verdict:
        """Return the verdict. tail: number and digest of the newest event, as kept beside the chain."""
        if self.broken is None:
            self.broken = self._cut_off(tail)
        number, why = self.broken or (None, "")
        return Verdict(
            events=self._events,
            first=self._first,
            last=self._number,
            heads=len(self._known),
            signed=self._signed,
            broken=number,
            why=why,
        )

    def _cut_off(self, tail: tuple[int, str] | None) -> tuple[int, str] | None:
        newest = self._known[-1] if self._known else None
        if newest is not None and newest.number > self._number:
            lost = f"events {self._number + 1} to {newest.number} were cut off"
            return self._number + 1, f"{lost}: they were signed{_where(newest)}"
        if tail is not None and tail[0] > self._number:
            return self._number + 1, f"events {self._number + 1} to {tail[0]} were cut off"
        if tail is not None and (tail[0] < self._number or tail[1] != self._digest):
            return self._number, f"event {self._number} is not the newest one that was written"
        return None


def _where(head: Head) -> str:
    return f" ({head.origin})" if head.origin else ""
