"""Which state of a run may follow which, in one table; and what is said to who asks for another."""

from __future__ import annotations

from dogwatch.engine.values import RunState
from dogwatch.errors import Conflict

_S = RunState
FOLLOWS: dict[RunState, frozenset[RunState]] = {
    _S.SCHEDULED: frozenset({_S.QUEUED, _S.PAUSED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.PAUSED: frozenset({_S.SCHEDULED, _S.QUEUED, _S.RUNNING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
# What an owner may write: its run is running or paused.
OWNER_WRITES = frozenset(FOLLOWS[_S.RUNNING] & FOLLOWS[_S.PAUSED]) | {_S.RUNNING, _S.PAUSED}


def check(run_id: str, before: RunState, after: RunState, verb: str) -> None:
    """Raises: Conflict where the state may not follow. verb: what was asked for ("pause")."""
    if after in FOLLOWS[before]:
        return
    why = f"it has {before.value}" if before in (_S.SUCCEEDED, _S.FAILED) else f"it is {before.value}"
    raise Conflict(f"cannot {verb} run {run_id}: {why}")
