"""The action seam: what a step, a remediation or a release hook does to the world, and what it is given for it."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol, TypeVar

import msgspec

from dogwatch.access.actor import Actor
from dogwatch.core.component import Component
from dogwatch.engine.values import Json

T = TypeVar("T")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an action would do, for a person. summary: one line. details: lines below it. undo: how to take it back.

    destructive: it ends or removes something.
    """

    summary: str
    details: tuple[str, ...] = ()
    undo: str = ""
    destructive: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an action ended well. outputs: what later steps read. changed: whether the world is another now."""

    outputs: Mapping[str, Json] = {}
    changed: bool = True
    message: str = ""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Instead of an outcome: nothing to do until a time or a signal. The step waits on disk, no worker is held.

    until_s: wall clock; None for a signal only. note: what it waits for ("approval by ops"). memory: what apply is
    given back, beside the signal, when it is called again. label: of an approval: who may decide.
    """

    until_s: float | None = None
    note: str = ""
    memory: Json = None


class Scene(Protocol):
    """What an action is given. It lives as long as one attempt.

    attempt: from 1. idempotency_key: the same for every attempt of this step of this run, for peers that understand
    it. memory and signal: after a Wait, what it remembered and what woke it (None: its time came); `woken` is True.
    """

    run_id: str
    step: str
    attempt: int
    idempotency_key: str
    actor: Actor
    job: str
    labels: Mapping[str, str]
    woken: bool
    memory: Json
    signal: Json

    @property
    def now_s(self) -> float: ...

    def remaining_s(self) -> float:
        """Return the time until the attempt's deadline; it is cancelled then in any case."""
        ...

    def write(self, text: bytes | str, stream: str = "stdout") -> None:
        """Keep output; secrets in it are masked, and its size is bounded."""
        ...

    def mask(self, text: str) -> str:
        """Return the text with every secret of this run replaced."""
        ...

    def get(self, service: type[T]) -> T:
        """Return a service of the running program (a launcher of processes, an HTTP client, runs, an outbox).

        Raises: PermanentError where this program has none.
        """
        ...


class Action(Component, frozen=True, kw_only=True):
    """Does one thing. Its text fields may hold templates, `{{ params.env }}`; it is given them filled in.

    outputs: the names that its outcome always has, name → CEL type, so that conditions are checked at load; "*": any.
    control: the engine itself carries it out (map).
    """

    outputs: ClassVar[Mapping[str, str]] = {}
    control: ClassVar[bool] = False
    # Text fields that are shell scripts: what a template puts there is quoted for the shell.
    shell: ClassVar[tuple[str, ...]] = ()

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        """Yield (path, message, hint) for what field types cannot check; fields may hold templates. No I/O."""
        return ()

    @abc.abstractmethod
    def plan(self) -> Change:
        """Say what apply would do, without doing or reading anything. Templates are filled in as far as known."""

    @abc.abstractmethod
    async def apply(self, scene: Scene) -> Outcome | Wait:
        """Do it. Cancelled at its deadline or when its run is: it must leave nothing behind.

        Raises: TransientError (worth another attempt), PermanentError and other DogwatchErrors (not).
        """
