"""What a worker asks of the ledger of runs: claim, advance, heartbeat. All that is decided elsewhere is written here.

A worker owns a run through its fence: a number that grows with every change of owner. Whoever comes with an older one
is refused and must drop the run, its processes included.

A worker listens to the topics of engine/book/topics.py: READY ("runs"), then it claims; of_worker(its id), then it
sends a heartbeat, which brings orders and signals for what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from dogwatch.engine.spec import JobSpec
from dogwatch.engine.values import Chunk, Json, Run, RunState, StepState
from dogwatch.errors import Conflict


class Fenced(Conflict):
    """The run belongs to another worker by now, or to nobody."""

    code = "fenced"


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it is on disk, written whole by each change.

    item and index: of a map's child, whose parent is `of`. hidden: the item holds a secret; on disk it is sealed.
    memory: what a Wait remembered. cut: an attempt was running when its worker was lost, and is made again under the
    same number; cuts: how often. signal: (payload,) of what wakes it, not yet taken. taken: (payload,) of what woke it,
    None for its time, while that attempt goes on; woken: it does.
    """

    name: str
    kind: str
    state: StepState = StepState.PENDING
    attempt: int = 0
    reason: str = ""
    started_s: float | None = None
    ended_s: float | None = None
    wake_s: float | None = None
    outputs: Mapping[str, Json] = {}
    memory: Json = None
    of: str = ""
    index: int = 0
    item: Json = None
    hidden: bool = False
    cut: bool = False
    cuts: int = 0
    signal: tuple[Json] | None = None
    taken: tuple[Json] | None = None
    woken: bool = False


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What people and rules want of a run: cancel ("" or the reason), and whether it is paused.

    signals: of waiting steps, name → payload, as long as they were not taken: a row that is written in another state
    than waiting takes its signal.
    """

    cancel: str = ""
    paused: bool = False
    signals: Mapping[str, Json] = {}


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A run that this worker owns now. definition: as it was when the run was started, without secrets' values."""

    run: Run
    fence: int
    definition: JobSpec
    steps: Sequence[StepRow]
    order: Order
    secrets: Mapping[str, str] = {}


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of one run, on disk together. steps: new and changed ones.

    state and reason: of the run; None leaves them. release: the worker keeps nothing of it: it is parked until the
    earliest wake_s of its steps, a signal, or an order. A state that is final releases it as well.
    """

    run_id: str
    fence: int
    steps: Sequence[StepRow] = ()
    state: RunState | None = None
    reason: str | None = None
    waiting_for: str | None = None
    release: bool = False


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """What a heartbeat answers. orders: of the runs it holds that have any. lost: runs it holds that are no longer
    its own. missing: runs that are its own and that it does not hold (an answer was lost): give them back.
    now_s: the database's clock.
    """

    orders: Mapping[str, Order]
    lost: Sequence[str]
    missing: Sequence[str]
    draining: bool
    now_s: float | None = None


class WorkerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """worker_id: unique for each start of a process. ttl_s: without a heartbeat for so long it counts as lost."""

    worker_id: str
    host: str
    boot_id: str
    pid: int
    labels: Mapping[str, str]
    slots: int
    ttl_s: float
    version: str


class Ledger(Protocol):
    """Raises everywhere: TransientError while the database cannot be used; the same call may then be made again."""

    async def register(self, worker: WorkerIdentity) -> None: ...

    async def heartbeat(self, worker_id: str, held: Mapping[str, int]) -> Beat:
        """held: run id → fence.

        Raises: Fenced where this worker was declared lost; it must drop all and register anew.
        """
        ...

    async def leave(self, worker_id: str) -> None:
        """Give back every run and be forgotten: a stop, after which nothing of it runs."""
        ...

    async def claim(self, worker_id: str, slots: int) -> Sequence[Claimed]:
        """Take up to so many runs that are due: by priority, then age; locks, concurrency and rates are observed."""
        ...

    async def advance(self, change: Advance) -> Order:
        """Write, and return the orders that the run has now. Raises: Fenced; nothing is written then."""
        ...

    async def append(self, run_id: str, fence: int, chunks: Sequence[Chunk]) -> None:
        """Keep output, within the run's bound. Raises: Fenced."""
        ...

    async def reap(self) -> int:
        """Take the runs of workers without a heartbeat from them; return how many. Any process may do it, any time."""
        ...
