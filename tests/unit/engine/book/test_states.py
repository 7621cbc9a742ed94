"""The table of transitions."""

from __future__ import annotations

import pytest

from dogwatch.engine.book.states import FOLLOWS, OWNER_WRITES, check
from dogwatch.engine.values import RunState
from dogwatch.errors import Conflict


def test_nothing_follows_an_end_and_every_state_can_be_reached() -> None:
    assert set(FOLLOWS) == set(RunState)
    for state in RunState:
        assert state.ended == (not FOLLOWS[state])
        assert any(state in after for after in FOLLOWS.values()) or state is RunState.SCHEDULED
    assert {
        RunState.RUNNING,
        RunState.PAUSED,
        RunState.SUCCEEDED,
        RunState.FAILED,
        RunState.CANCELLED,
    } == OWNER_WRITES


def test_the_message_says_why() -> None:
    check("r1", RunState.QUEUED, RunState.PAUSED, "pause")
    with pytest.raises(Conflict, match="cannot pause run r1: it has succeeded"):
        check("r1", RunState.SUCCEEDED, RunState.PAUSED, "pause")
    with pytest.raises(Conflict, match="cannot cancel run r1: it is cancelled"):
        check("r1", RunState.CANCELLED, RunState.CANCELLED, "cancel")
