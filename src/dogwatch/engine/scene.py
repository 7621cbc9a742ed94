"""What an attempt of a step is given by the executor, and the leash that keeps it from outliving its worker's lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from dogwatch.access.actor import Actor
from dogwatch.core import deadline
from dogwatch.core.clock import Clock
from dogwatch.engine.ledger import Claimed, StepRow
from dogwatch.engine.values import Json
from dogwatch.engine.writer import Writer
from dogwatch.errors import PermanentError

T = TypeVar("T")
# Where nothing bounds an attempt but the run, which is ended from outside.
_UNBOUNDED_S = 86400.0


class Services:
    """What actions may ask the running program for, by type."""

    def __init__(self, *, given: Mapping[type[Any], object] | None = None) -> None:
        self._given: dict[type[Any], object] = dict(given or {})

    def add(self, service: type[T], value: T) -> None:
        self._given[service] = value

    def get(self, service: type[T]) -> T:
        found = self._given.get(service)
        if found is None:
            raise PermanentError(f"this program has no {service.__name__}")
        return found  # type: ignore[return-value]


class StepScene:
    """See action.Scene; one for each attempt."""

    def __init__(
        self, claimed: Claimed, row: StepRow, *, clock: Clock, services: Services, writer: Writer, ends_s: float | None
    ) -> None:
        run = claimed.run
        self.run_id, self.step, self.attempt = run.run_id, row.name, row.attempt
        self.idempotency_key = f"{run.run_id}.{row.name}"
        self.actor = Actor(kind="run", name=run.run_id)
        self.job, self.labels = run.job, run.labels
        self.woken, self.memory = row.woken, row.memory
        self.signal: Json = row.taken[0] if row.taken is not None else None
        self._clock, self._services, self._writer = clock, services, writer
        self._ends_s = ends_s

    @property
    def now_s(self) -> float:
        return self._clock.now_s()

    def remaining_s(self) -> float:
        bound_s = deadline.remaining_s()
        left_s = _UNBOUNDED_S if self._ends_s is None else max(0.0, self._ends_s - self._clock.now_s())
        return left_s if bound_s is None else min(left_s, bound_s)

    def write(self, text: bytes | str, stream: str = "stdout") -> None:
        self._writer.write(self.step, self.attempt, stream, text)

    def mask(self, text: str) -> str:
        return self._writer.mask(text)

    def get(self, service: type[T]) -> T:
        return self._services.get(service)


class Leash(Coroutine[Any, Any, T]):
    """Drives an action's coroutine, and cancels it instead of resuming it once the lease is lost.

    A process that was stopped (SIGSTOP, a suspended machine) wakes in whatever was ready, long before a timer of its
    own tells it that another worker has its runs: so it is asked before each of the action's own steps.
    """

    def __init__(self, inner: Coroutine[Any, Any, T], held: Callable[[], bool]) -> None:
        self._inner, self._held = inner, held
        self._cut = False

    def send(self, value: Any) -> Any:
        if not self._cut and not self._held():
            self._cut = True
            return self._inner.throw(asyncio.CancelledError("the worker lost its lease"))
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __next__(self) -> Any:
        return self.send(None)

    def __iter__(self) -> Leash[T]:
        return self

    def __await__(self) -> Any:
        return self
