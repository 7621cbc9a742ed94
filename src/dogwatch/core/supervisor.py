"""Owns named tasks and the order of stopping.

Stop: take no new work → finish what runs, up to the grace period → cancel → flush and record → close. Each step of a
phase is named and bounded; one that fails or hangs is recorded, and the rest go on.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from dogwatch.core.deadline import cancel_and_wait, watch_result
from dogwatch.core.units import Seconds, format_duration

Hook = Callable[[], Awaitable[object]]

_log = logging.getLogger(__name__)


class Phase(enum.IntEnum):
    """The order of stopping."""

    REFUSE = 1  # take no new work
    FINISH = 2  # finish what runs; its hooks run side by side and share the grace period
    CANCEL = 3  # the supervisor cancels its tasks, then these hooks run
    FLUSH = 4  # flush and record
    CLOSE = 5  # close the store

    @property
    def word(self) -> str:
        return self.name.lower()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """grace_s: for what runs to finish. hook_s: for each hook of the other phases, and for cancelled tasks to end.

    hurry_s: takes the place of hook_s after a second signal. abandon_s: for a hook that was cancelled to clean up.
    """

    grace_s: Seconds = 10.0
    hook_s: Seconds = 5.0
    hurry_s: Seconds = 1.0
    abandon_s: Seconds = 1.0


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How one step of the stop went.

    outcome: done, failed, late (cancelled at its limit), stuck (left behind), cut (skipped by a second signal).
    """

    phase: str
    name: str
    outcome: str
    duration_s: float = 0.0
    error: str = ""


class StopReport(msgspec.Struct, frozen=True, kw_only=True):
    """Why and how the daemon ended. exit_code: 0, 1 where a task ended unexpectedly, 143 or 130 after a signal."""

    reason: str
    exit_code: int
    duration_s: float
    steps: Sequence[StepRecord]

    @property
    def clean(self) -> bool:
        return all(step.outcome == "done" for step in self.steps)


class Supervisor:
    """Start tasks, add hooks, then await `run()`: it returns when everything has stopped."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._may_end: set[str] = set()
        self._hooks: list[tuple[Phase, str, Hook, float | None]] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reason = ""
        self._exit_code = 0
        self._steps: list[StepRecord] = []
        self._cancelling = False

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def names(self) -> tuple[str, ...]:
        """Return the names of the tasks that run."""
        return tuple(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, object], *, may_end: bool = False) -> asyncio.Task[Any]:
        """Start a named task. may_end: returning is fine; an error never is.

        Raises: ValueError if a task of that name runs; RuntimeError once the stop has begun to cancel.
        """
        if name in self._tasks or self._cancelling:
            work.close()
            if self._cancelling:
                raise RuntimeError(f"cannot start {name}: stopping")
            raise ValueError(f"a task named {name} runs already")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        if may_end:
            self._may_end.add(name)
        task.add_done_callback(self._ended)
        return task

    def on_stop(self, phase: Phase, name: str, hook: Hook, *, timeout_s: float | None = None) -> None:
        """Run `hook` in that phase, in the order of adding. timeout_s: instead of the usual limit."""
        self._hooks.append((phase, name, hook, timeout_s))

    def stop(self, reason: str, exit_code: int = 0) -> None:
        """Begin to stop; the first reason stays."""
        if not self._stop.is_set():
            self._reason, self._exit_code = reason, exit_code
            _log.info("stopping: %s", reason)
            self._stop.set()

    def hurry(self, reason: str) -> None:
        """Skip waiting: cancel what runs at once, and give each remaining step only a moment."""
        self.stop(reason)
        if not self._hurry.is_set():
            _log.warning("stopping at once: %s", reason)
            self._hurry.set()

    async def run(self) -> StopReport:
        """Wait for a reason to stop, then stop in order. Cancelling it is a reason, too."""
        interrupted = False
        try:
            await self._stop.wait()
        except asyncio.CancelledError:
            interrupted = True
            self.stop("cancelled", 1)
        started_s = time.monotonic()
        # A task of its own, so that a cancellation that comes while stopping does not tear the stop apart.
        stop = asyncio.get_running_loop().create_task(self._stop_in_order(), name="stop")
        while not stop.done():
            try:
                await asyncio.wait([stop])
            except asyncio.CancelledError:
                interrupted = True
                self.hurry("cancelled while stopping")
        stop.result()
        report = StopReport(
            reason=self._reason,
            exit_code=self._exit_code,
            duration_s=time.monotonic() - started_s,
            steps=tuple(self._steps),
        )
        _log.info("stopped in %s: %s", format_duration(report.duration_s), report.reason)
        if interrupted:
            raise asyncio.CancelledError
        return report

    def _ended(self, task: asyncio.Task[Any]) -> None:
        name = task.get_name()
        if self._tasks.get(name) is task:
            del self._tasks[name]
        may_end = name in self._may_end
        self._may_end.discard(name)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("task %s failed: %s: %s", name, type(error).__name__, error, exc_info=error)
            if self._cancelling or self._stop.is_set():
                self._steps.append(_step(Phase.CANCEL, f"task {name}", "failed", error=_said(error)))
            self.stop(f"task {name} failed: {_said(error)}", 1)
        elif not self._stop.is_set() and not may_end:
            how = "was cancelled" if task.cancelled() else "ended"
            _log.error("task %s %s unexpectedly", name, how)
            self.stop(f"task {name} {how} unexpectedly", 1)

    async def _stop_in_order(self) -> None:
        await self._run_hooks(Phase.REFUSE)
        await self._finish()
        self._cancelling = True
        await self._cancel_tasks()
        for phase in (Phase.CANCEL, Phase.FLUSH, Phase.CLOSE):
            await self._run_hooks(phase)

    async def _run_hooks(self, phase: Phase) -> None:
        for name, hook, timeout_s in self._of(phase):
            await self._bounded(phase, name, hook, self._limits.hook_s if timeout_s is None else timeout_s)

    async def _finish(self) -> None:
        hooks = self._of(Phase.FINISH)
        if self._hurry.is_set():
            self._steps.extend(_step(Phase.FINISH, name, "cut") for name, _, _ in hooks)
            return
        grace_s = self._limits.grace_s
        steps = [
            asyncio.create_task(
                self._bounded(Phase.FINISH, name, hook, grace_s if own is None else min(own, grace_s), cut=True)
            )
            for name, hook, own in hooks
        ]
        if steps:
            await asyncio.wait(steps)

    async def _cancel_tasks(self) -> None:
        """Cancel the newest first: what was started later may lean on what was started before."""
        tasks = list(reversed(self._tasks.values()))
        for task in tasks:
            task.cancel()
        if tasks:
            started_s = time.monotonic()
            stuck = await self._wait(tasks, self._limits.hook_s)
            for task in stuck:
                _log.error("task %s does not end", task.get_name())
            self._steps.extend(
                _step(Phase.CANCEL, f"task {task.get_name()}", "stuck", time.monotonic() - started_s) for task in stuck
            )

    def _of(self, phase: Phase) -> list[tuple[str, Hook, float | None]]:
        return [(name, hook, timeout_s) for own, name, hook, timeout_s in self._hooks if own is phase]

    async def _bounded(self, phase: Phase, name: str, hook: Hook, timeout_s: float, *, cut: bool = False) -> None:
        """Run a hook up to its limit; cancel it then; leave it behind where it does not even end so."""

        async def call() -> None:
            await hook()

        started_s = time.monotonic()
        task = asyncio.get_running_loop().create_task(call(), name=f"stop {phase.word} {name}")
        outcome, error = "done", None
        if await self._wait([task], timeout_s, cut=cut):
            outcome = "cut" if cut and self._hurry.is_set() else "late"
            task.cancel()
            await asyncio.wait([task], timeout=self._limits.abandon_s)
        if not task.done():
            outcome = "stuck"
            task.add_done_callback(watch_result)
        elif task.cancelled():
            outcome = "failed" if outcome == "done" else outcome
        elif (error := task.exception()) is not None:
            outcome = "failed"
        duration_s = time.monotonic() - started_s
        self._steps.append(_step(phase, name, outcome, duration_s, error=_said(error) if error else ""))
        if outcome != "done":
            _log.error("stop: %s of %s: %s", phase.word, name, outcome, exc_info=error)

    async def _wait(
        self, tasks: Sequence[asyncio.Task[Any]], timeout_s: float, *, cut: bool = False
    ) -> set[asyncio.Task[Any]]:
        """Wait for tasks and return those that still run.

        A second signal shortens the limit to hurry_s from then on, or to nothing where `cut`.
        """
        pending = set(tasks)
        until_s = time.monotonic() + timeout_s
        hurried = asyncio.get_running_loop().create_task(self._hurry.wait(), name="stop hurry")
        try:
            while pending and not self._hurry.is_set() and (left_s := until_s - time.monotonic()) > 0:
                done, _ = await asyncio.wait({*pending, hurried}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                pending -= done
            if pending and self._hurry.is_set() and not cut:
                left_s = min(until_s - time.monotonic(), self._limits.hurry_s)
                _, pending = await asyncio.wait(pending, timeout=max(0.0, left_s))
        finally:
            await cancel_and_wait([hurried])
        return pending


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _step(phase: Phase, name: str, outcome: str, duration_s: float = 0.0, *, error: str = "") -> StepRecord:
    return StepRecord(phase=phase.word, name=name, outcome=outcome, duration_s=duration_s, error=error)
