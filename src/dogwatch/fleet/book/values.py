"""What is kept of a fleet run."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.fleet.connection import State
from dogwatch.fleet.results import HostResult

# A host's states before it has ended; the others are those of connection.State.
WAITING = "waiting"
RUNNING = "running"
# What a run that goes on leaves as it is: the host's own end. The rest was ended by us, or never begun.
OPEN_STATES = frozenset({State.CANCELLED, State.NOT_STARTED})


class RunState(enum.StrEnum):
    """partly: some hosts failed. stopped: a rule, the deadline or trouble here ended it before all had their turn."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTLY = "partly"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class Key(msgspec.Struct, frozen=True):
    """Which run: its id, and the step of the engine's run where it is one."""

    run_id: str
    step: str = ""

    def __str__(self) -> str:
        return f"{self.run_id}/{self.step}" if self.step else self.run_id


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """A run that begins. what: for people. orders: what is needed to go on, no secrets; sealed: those, encrypted.

    hosts: in order, each with its labels. retry_of: the run whose failed hosts these are. done: of hosts that are not
    repeated, as they ended there.
    """

    what: str
    targets: str
    orders: Mapping[str, Any]
    sealed: bytes | None = None
    actor: Actor
    hosts: Mapping[str, Mapping[str, str]]
    retry_of: str = ""
    done: Mapping[str, HostResult] = {}


class FleetRunRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is kept. counts: hosts by how they are now."""

    key: Key
    state: RunState
    reason: str
    what: str
    targets: str
    orders: Mapping[str, Any]
    sealed: bytes | None
    actor: Actor
    retry_of: str
    attempt: int
    hosts: int
    created_s: float
    ended_s: float | None
    counts: Mapping[str, int] = {}


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A host of a run. result: None where it has not ended. begun: whether the command may have begun there.

    state: waiting, running, or how it ended. attempt: of the run, in which that happened.
    """

    host: str
    place: int
    state: str
    attempt: int
    batch: int
    labels: Mapping[str, str]
    result: HostResult | None
    begun_s: float | None = None
    ended_s: float | None = None


def end_state(results: Sequence[HostResult], reason: str) -> RunState:
    """Return how a run ended, from how its hosts did."""
    states = {one.state for one in results}
    if State.NOT_STARTED in states or (reason and State.CANCELLED in states):
        return RunState.CANCELLED if State.CANCELLED in states else RunState.STOPPED
    well = sum(one.ok for one in results)
    if well == len(results):
        return RunState.SUCCEEDED
    return RunState.PARTLY if well else RunState.FAILED
