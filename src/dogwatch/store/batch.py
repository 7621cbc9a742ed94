"""What the event loop hands to the writer: everything of one commit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dogwatch.core.values import Transition
from dogwatch.store.columns import ResultColumns, ResultJournal, SampleColumns, SampleJournal
from dogwatch.store.protocol import Failure, Ping, TargetState
from dogwatch.store.tails import Piece

Waiter = asyncio.Future[None]


@dataclass(slots=True)
class Batch:
    """Rows of one transaction. Numbers are given by the event loop, so that a batch can be tried again safely.

    results and samples: (first journal number, rows). alive: (id, since_s, until_s). trim: journal numbers below
    which everything is sealed. forget: series without history. synced: the commit waits for the disk.
    """

    targets: list[tuple[int, str]] = field(default_factory=list)
    series: list[tuple[int, str, str]] = field(default_factory=list)
    results: list[tuple[int, ResultJournal]] = field(default_factory=list)
    samples: list[tuple[int, SampleJournal]] = field(default_factory=list)
    result_seals: list[Piece[ResultColumns]] = field(default_factory=list)
    sample_seals: list[Piece[SampleColumns]] = field(default_factory=list)
    states: dict[str, TargetState] = field(default_factory=dict)
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    transitions: list[tuple[int, Transition]] = field(default_factory=list)
    pings: list[tuple[int, Ping, Waiter]] = field(default_factory=list)
    documents: list[tuple[str, bytes, Waiter]] = field(default_factory=list)
    # Resolved when the batch is written, or at its first failure (a transition then waits in memory).
    announced: list[Waiter] = field(default_factory=list)
    # Resolved when the batch is written or counted as lost.
    flushed: list[Waiter] = field(default_factory=list)
    forget: list[int] = field(default_factory=list)
    alive: tuple[int, float, float] = (0, 0.0, 0.0)
    trim: tuple[int, int] = (0, 0)
    synced: bool = False

    def durable(self) -> bool:
        return bool(self.transitions or self.pings or self.documents)

    def counts(self) -> dict[str, int]:
        """Return its rows by table."""
        return {
            "results": sum(len(rows) for _, rows in self.results),
            "samples": sum(len(rows) for _, rows in self.samples),
            "states": len(self.states),
            "failures": len(self.failures),
            "transitions": len(self.transitions),
            "pings": len(self.pings),
            "documents": len(self.documents),
        }
