"""Waiting for people: a step that goes on when one of those who may has approved it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from dogwatch.core.units import Seconds, format_duration
from dogwatch.engine.action import Action, Change, Outcome, Scene, Wait
from dogwatch.errors import PermanentError

DAY_S = 86400.0
_WHO = re.compile(r"(?:(?:role|group|user):)?[^\s:,]+")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What `Runs.decide` signals a step that waits for approval. by: "user:ann". role: why they may, or ""."""

    approve: bool
    by: str = ""
    comment: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a step that waits for approval says of itself, in its memory under "approve"."""

    by: list[str] = []
    expires_s: float | None = None
    message: str = ""


class ApproveAction(Action, frozen=True, kw_only=True):
    """Waits on disk until somebody approves or rejects; a rejection fails the step.

    by: who may: names, `role:operator`, `group:ops`; any one of them is enough. Empty: whoever may approve runs.
    message: what they are asked. expires: after this long without an answer on_expiry happens.
    on_expiry: fail the step, approve it, or skip it: it succeeds with the output `approved` false.
    """

    kind: ClassVar[str] = "approve"
    short: ClassVar[str] = "message"
    outputs: ClassVar[Mapping[str, str]] = {
        "approved": "bool",
        "approved_by": "string",
        "comment": "string",
        "expired": "bool",
    }

    by: Sequence[str] = ()
    message: str = ""
    expires: Seconds | None = None
    on_expiry: Literal["fail", "approve", "skip"] = "fail"

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        for at, who in enumerate(self.by):
            if "{{" not in who and not _WHO.fullmatch(who):
                yield ("by", at), f"'{who[:60]}' names nobody", "write a name, role:operator or group:ops"
        if self.expires == 0:
            yield ("expires",), "must be more than nothing", ""
        if self.expires is None and self.on_expiry != "fail":
            yield ("on_expiry",), "means nothing without 'expires'", ""

    def plan(self) -> Change:
        who = ", ".join(self.by) or "whoever may approve runs"
        details = [self.message] if self.message else []
        if self.expires is not None:
            then = {"fail": "fails", "approve": "is approved", "skip": "goes on without"}[self.on_expiry]
            details.append(f"after {format_duration(self.expires)} without an answer it {then}")
        return Change(summary=f"wait for approval by {who}", details=tuple(details))

    async def apply(self, scene: Scene) -> Outcome | Wait:
        if not scene.woken:
            return self._ask(scene.now_s)
        asked = asked_of(scene.memory)
        if scene.signal is not None:
            decision = _decision(scene.signal)
            if decision is not None:
                return _decided(decision)
        if asked is None or asked.expires_s is None or scene.now_s < asked.expires_s:
            # Woken by something that is no answer: it goes on waiting for one, for no longer than at first.
            return self._wait(asked or Asked(by=list(self.by), message=self.message))
        if self.on_expiry == "fail":
            raise PermanentError(f"nobody answered within {format_duration(self.expires or 0.0)}")
        approved = self.on_expiry == "approve"
        word = "approved" if approved else "skipped"
        outputs = {"approved": approved, "approved_by": "", "comment": "", "expired": True}
        return Outcome(outputs=outputs, changed=False, message=f"nobody answered; {word} as the job says")

    def _ask(self, now_s: float) -> Wait:
        until_s = None if self.expires is None else now_s + self.expires
        return self._wait(Asked(by=list(self.by), expires_s=until_s, message=self.message))

    def _wait(self, asked: Asked) -> Wait:
        who = f" by {', '.join(asked.by)}" if asked.by else ""
        return Wait(until_s=asked.expires_s, note=f"approval{who}", memory={"approve": msgspec.to_builtins(asked)})


def asked_of(memory: object) -> Asked | None:
    """Return what a waiting step asks for, None where it does not wait for approval."""
    if not isinstance(memory, Mapping) or "approve" not in memory:
        return None
    try:
        return msgspec.convert(memory["approve"], Asked)
    except msgspec.ValidationError:
        return None


def _decision(signal: object) -> Decision | None:
    """Return the decision that a signal is, None for another program's signal."""
    try:
        return msgspec.convert(signal, Decision)
    except msgspec.ValidationError:
        return None


def _decided(decision: Decision) -> Outcome:
    comment = f": {decision.comment}" if decision.comment else ""
    if not decision.approve:
        raise PermanentError(f"rejected by {decision.by or 'somebody'}{comment}")
    outputs = {"approved": True, "approved_by": decision.by, "comment": decision.comment, "expired": False}
    return Outcome(outputs=outputs, changed=False, message=f"approved by {decision.by}{comment}")
