"""What becomes of a step by one event: pure functions from a row to the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from dogwatch.core.retry import backoff
from dogwatch.core.units import format_duration
from dogwatch.engine.ledger import StepRow
from dogwatch.engine.spec import StepSpec
from dogwatch.engine.values import Json, StepState

# An attempt that a crash cut off does not count as a failure, but what kills its worker each time must end somewhere.
MOST_CUTS = 10
REASON_CHARS = 1000


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt failed. transient: worth another try by itself. retry_after_s: what the other side asked for."""

    reason: str
    transient: bool = False
    retry_after_s: float | None = None


def share(run_id: str, step: str, attempt: int) -> float:
    """Return a number in [0, 1) that is always the same for this attempt, and as good as random beside others."""
    digest = hashlib.blake2b(f"{run_id}\0{step}\0{attempt}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def begun(row: StepRow, now_s: float) -> StepRow:
    """Return the step as its attempt starts, or goes on after a wait; then it keeps what woke it until it ends."""
    if row.state is StepState.WAITING:
        taken = row.signal or row.taken
        return msgspec.structs.replace(
            row, state=StepState.RUNNING, wake_s=None, signal=None, taken=taken, woken=True, reason="", cut=False
        )
    return msgspec.structs.replace(
        row,
        state=StepState.RUNNING,
        attempt=row.attempt if row.cut else row.attempt + 1,
        started_s=now_s,
        ended_s=None,
        wake_s=None,
        memory=None,
        signal=None,
        taken=None,
        woken=False,
        outputs={},
        reason="",
        cut=False,
    )


def unbegun(row: StepRow) -> StepRow:
    """Return a step that was written as begun, and was not begun after all. What woke it stays taken."""
    if row.woken:
        return msgspec.structs.replace(row, state=StepState.WAITING)
    return msgspec.structs.replace(row, state=StepState.PENDING, attempt=row.attempt - 1, started_s=None)


def succeeded(row: StepRow, outputs: Mapping[str, Json], message: str, now_s: float) -> StepRow:
    return msgspec.structs.replace(
        _over(row, now_s), state=StepState.SUCCEEDED, outputs=outputs, reason=message[:REASON_CHARS]
    )


def waiting(row: StepRow, *, until_s: float | None, note: str, memory: Json) -> StepRow:
    return msgspec.structs.replace(
        row,
        state=StepState.WAITING,
        wake_s=until_s,
        reason=note[:REASON_CHARS],
        memory=memory,
        signal=None,
        taken=None,
        woken=False,
    )


def cancelled(row: StepRow, reason: str, now_s: float) -> StepRow:
    return msgspec.structs.replace(_over(row, now_s), state=StepState.CANCELLED, reason=reason[:REASON_CHARS])


def failed(
    spec: StepSpec, row: StepRow, failure: Failure, *, now_s: float, run_id: str, deadline_s: float | None
) -> StepRow:
    """Return the step as it waits for its next attempt, or failed where there is none. deadline_s: of the run."""
    retry = spec.retry
    reason = failure.reason[:REASON_CHARS]
    if row.attempt < retry.attempts and (failure.transient or retry.on == "any"):
        jitter = share(run_id, row.name, row.attempt)
        wait_s = backoff(row.attempt, base_s=retry.base, cap_s=retry.cap, random=lambda: jitter)
        at_s = now_s + wait_s + max(0.0, failure.retry_after_s or 0.0)
        if deadline_s is None or at_s < deadline_s or spec.always:
            return msgspec.structs.replace(
                _over(row, now_s), state=StepState.PENDING, wake_s=at_s, reason=reason, ended_s=None
            )
        reason = f"{reason} (the run's time leaves none for another attempt)"
    return msgspec.structs.replace(_over(row, now_s), state=StepState.FAILED, reason=reason)


def late(timeout_s: float) -> str:
    return f"took longer than {format_duration(timeout_s)}"


def put_off(spec: StepSpec, row: StepRow, now_s: float, run_id: str, deadline_s: float | None) -> StepRow | None:
    """Return a waiting step whose attempt has run out of time as failed; None while it has time."""
    if spec.timeout is None or row.started_s is None or now_s < row.started_s + spec.timeout:
        return None
    failure = Failure(reason=late(spec.timeout), transient=True)
    return failed(spec, row, failure, now_s=now_s, run_id=run_id, deadline_s=deadline_s)


def settled_late(row: StepRow, why: str, state: StepState, now_s: float) -> StepRow:
    """Return a step that will not go on. state: of one that never began; one that waited for a retry has failed."""
    if row.state is StepState.WAITING or row.cut:
        return cancelled(row, why, now_s)
    if row.attempt and state is StepState.SKIPPED:
        return msgspec.structs.replace(_over(row, now_s), state=StepState.FAILED, reason=row.reason)
    return msgspec.structs.replace(_over(row, now_s), state=state, reason=why[:REASON_CHARS])


def recovered(spec: StepSpec, row: StepRow, now_s: float) -> StepRow:
    """Return a step whose attempt was cut off by the loss of its worker: made again, or failed.

    It keeps its number: it has not failed, and what it may have started elsewhere is found under the same key.
    """
    cut = msgspec.structs.replace(row, cut=True, cuts=row.cuts + 1)
    if spec.after_crash == "fail":
        reason = "its worker was lost while it ran, and it must not be repeated"
        return msgspec.structs.replace(_over(cut, now_s), state=StepState.FAILED, reason=reason)
    if cut.cuts > MOST_CUTS:
        reason = f"its worker was lost while it ran, {cut.cuts} times"
        return msgspec.structs.replace(_over(cut, now_s), state=StepState.FAILED, reason=reason)
    if row.woken:
        # What woke it was taken and is answered for: it goes on from there.
        return msgspec.structs.replace(cut, state=StepState.WAITING)
    return msgspec.structs.replace(cut, state=StepState.PENDING, wake_s=None, reason="its worker was lost while it ran")


def _over(row: StepRow, now_s: float) -> StepRow:
    return msgspec.structs.replace(row, ended_s=now_s, wake_s=None, memory=None, signal=None, taken=None, woken=False)
