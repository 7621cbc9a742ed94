"""Carries out one claimed run: what the decider says is written first, then done."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from dogwatch.core.deadline import watch_result, within
from dogwatch.engine import attempts, control
from dogwatch.engine.action import Action, Outcome, Wait
from dogwatch.engine.executor_tools import Tools, View
from dogwatch.engine.graph import Decision, Plan, Situation, decide
from dogwatch.engine.ledger import Advance, Claimed, Fenced, Order, StepRow
from dogwatch.engine.scene import Leash, StepScene
from dogwatch.engine.spec import StepSpec
from dogwatch.engine.values import Chunk, Json, RunState, StepState
from dogwatch.engine.writer import Masks, PlainMasks, Writer
from dogwatch.errors import DogwatchError, PermanentError, TransientError, Unreachable

T = TypeVar("T")
_log = logging.getLogger(__name__)

# A wait shorter than this is kept: to write it down and to claim it again would take longer than it is worth.
HOLD_S = 2.0
# An action that was cancelled is cancelled again after this time, and after as long again it is left behind.
CANCEL_S = 15.0
MOST_OUTPUT_BYTES = 256 * 1024
_TRIES_S = (0.05, 1.0)


class LeaseLost(Exception):
    """The worker may no longer own the run: nothing more is done or written."""


class _End(msgspec.Struct, frozen=True):
    """How an attempt ended: what the action returned, or a failure, or None where it was cancelled."""

    name: str
    result: Outcome | Wait | attempts.Failure | None


class Execution:
    """One claimed run. run() returns once it has ended, was released, or must be dropped."""

    def __init__(self, claimed: Claimed, tools: Tools) -> None:
        self.run_id, self.fence = claimed.run.run_id, claimed.fence
        # Grows with each answer of the ledger: an older one, which a heartbeat brought, is no news then.
        self.heard = 0
        self._claimed, self._tools = claimed, tools
        self._plan = Plan(claimed.definition)
        self._order = claimed.order
        self._rows: dict[str, StepRow] = {}
        self._dirty: dict[str, StepRow] = {}
        self._tasks: dict[str, asyncio.Task[_End]] = {}
        self._cancelled: dict[str, tuple[str, float]] = {}
        self._ended: list[_End] = []
        self._changed = asyncio.Event()
        self._stopping = self._cutting = False
        # What the newest decision was made by.
        self._decided_by = claimed.order
        self._waiting_for = claimed.run.waiting_for
        # With all secrets once it is known that they can be had; see run().
        masks: Masks = PlainMasks(list(claimed.secrets.values()))
        self._writer = Writer(self.run_id, self._append, masks, tools.clock.now_s)

    def _recover(self) -> None:
        """Take the steps as they are on disk; what ran there was cut off."""
        known = {row.name: row for row in self._claimed.steps}
        rows = [known.pop(row.name, row) for row in self._plan.fresh()]
        self._rows = {row.name: row for row in (*rows, *known.values())}
        for row in list(self._rows.values()):
            spec = self._plan.spec(row)
            if row.state is StepState.RUNNING and (row.of or control.fan_of(spec.action) is None):
                self._put(attempts.recovered(spec, row, self._now_s))
                self._note(row, "its worker was lost while it ran")

    # -- from outside ------------------------------------------------------------------------------------------------

    def tell(self, order: Order) -> None:
        """Take what is wanted of the run now."""
        for name, payload in order.signals.items():
            row = self._rows.get(name)
            if row is not None and row.state is StepState.WAITING and row.signal is None:
                self._rows[name] = msgspec.structs.replace(row, signal=(payload,))
                self._changed.set()
        if order != self._order:
            self._order = order
            self._changed.set()

    def stop(self) -> None:
        """Begin nothing more; run() returns when what runs has ended."""
        self._stopping = True
        self._changed.set()

    def cut(self) -> None:
        """End what runs: it will be made again by who claims the run next."""
        self._stopping = self._cutting = True
        for name in self._tasks:
            self._cancel(name, "its worker was stopped while it ran")
        self._changed.set()

    @property
    def busy(self) -> bool:
        """Whether any of its steps runs."""
        return bool(self._tasks)

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises: nothing but CancelledError; what runs was cancelled and has ended then."""
        try:
            self._mask_items(self._claimed.steps)
            self._recover()
            await self._go_on()
        except (Fenced, LeaseLost):
            _log.warning("run %s: dropped, another worker may have it", self.run_id)
        except Exception as error:  # noqa: BLE001 - recorded as the run's end
            _log.error("run %s: cannot be carried out:\n%s", self.run_id, self._traced(error))
            await self._end_tasks()
            await self._give_up(error)
        finally:
            await self._end_tasks()
            await self._writer.close()

    async def _go_on(self) -> None:
        while True:
            decision, ready = self._next()
            release = self._may_release(decision)
            await self._write(decision, release=release)
            if decision.state is not None or release:
                return
            if not self._tools.held():
                raise LeaseLost
            if self._withheld(decision, ready):
                continue
            for name, action in ready.items():
                self._start(name, action)
            for name, reason in decision.cancel.items():
                self._cancel(name, reason)
            if self._stopping and not self._tasks:
                return
            await self._wait(decision.wake_s)
            await self._take()

    def _withheld(self, decision: Decision, ready: Mapping[str, Action]) -> bool:
        """Take back what was about to begin where the answer brought a pause or a cancel that was there before it, or
        the worker stops by now.
        """
        now, then = self._order, self._decided_by
        if not ready or ((now.paused, now.cancel) == (then.paused, then.cancel) and not self._stopping):
            return False
        for name in ready:
            self._put(attempts.unbegun(self._rows[name]))
        for name, reason in decision.cancel.items():
            self._cancel(name, reason)
        return True

    def _next(self) -> tuple[Decision, dict[str, Action]]:
        """Decide, and make ready what begins; what cannot be made ready has failed, and it is decided again."""
        ready: dict[str, Action] = {}
        self._decided_by = self._order
        while True:
            decision = self._decide()
            for row in decision.changed.values():
                self._put(row)
            again = [name for name in decision.begin if not self._prepare(name, ready)]
            for name in ready.keys() & decision.cancel.keys():
                del ready[name]
                self._put(attempts.cancelled(self._rows[name], decision.cancel[name], self._now_s))
                again.append(name)
            if not again:
                return decision, ready

    def _decide(self) -> Decision:
        situation = Situation(
            run_id=self.run_id,
            now_s=self._now_s,
            order=self._order,
            deadline_s=self._claimed.run.deadline_s,
            stopping=self._stopping,
        )
        return decide(self._plan, self._rows, situation, self._holds)

    def _holds(self, spec: StepSpec) -> bool:
        return self._tools.language.holds(spec.when or "", self._view(self._rows[spec.name]))

    def _prepare(self, name: str, ready: dict[str, Action]) -> bool:
        """Return whether the step's action can be started; else the step is another now."""
        row = self._rows[name]
        spec = self._plan.spec(row)
        try:
            action = self._tools.language.fill(spec.action, self._view(row))
            fan = None if row.of else control.fan_of(action)
            if fan is None:
                ready[name] = action
                return True
            rows = self._hidden(spec, control.opened(row, fan, self._rows, self._now_s))
        except DogwatchError as error:
            self._put(
                msgspec.structs.replace(
                    row, state=StepState.FAILED, ended_s=self._now_s, reason=self._masked(str(error))
                )
            )
            return False
        for other in rows:
            if other is not self._rows.get(other.name):
                self._put(other)
        return False

    def _hidden(self, spec: StepSpec, rows: Sequence[StepRow]) -> Sequence[StepRow]:
        """Return the steps of a map with those marked whose items are secrets, which from now on are masked."""
        every = self._tools.language.hides(spec.action, self._claimed)
        found = control.hidden(rows, lambda item: every or self._writer.clean(item) != item)
        if every:
            self._mask_items([*self._rows.values(), *found])
        return found

    def _mask_items(self, rows: Iterable[StepRow]) -> None:
        items = [row.item for row in rows if row.hidden]
        self._writer.masks = self._tools.language.masks(self._claimed, items)

    def _may_release(self, decision: Decision) -> bool:
        if not decision.parked or self._stopping or decision.state is not None:
            return False
        return decision.wake_s is None or decision.wake_s - self._now_s > HOLD_S

    async def _write(self, decision: Decision, *, release: bool) -> None:
        steps = tuple(self._dirty.values())
        waiting_for = decision.waiting_for if decision.waiting_for != self._waiting_for else None
        if not steps and decision.state is None and not release and waiting_for is None:
            return
        await self._writer.flush()
        change = Advance(
            run_id=self.run_id,
            fence=self.fence,
            steps=steps,
            state=decision.state,
            reason=None if decision.state is None else self._masked(decision.reason),
            waiting_for=waiting_for,
            release=release,
        )
        order = await self._patiently(lambda: self._tools.ledger.advance(change))
        self._dirty.clear()
        self._waiting_for = decision.waiting_for
        self.heard += 1
        if decision.state is None and not release:
            self.tell(order)

    async def _wait(self, wake_s: float | None) -> None:
        """Return when something happened, or the time has come."""
        times = [wake_s - self._now_s] if wake_s is not None else []
        times += [at_s - self._tools.clock.monotonic_s() for _, at_s in self._cancelled.values()]
        # The wall clock may be set while we sleep.
        sleep_s = min(60.0, max(0.0, min(times))) if times else None
        if not self._changed.is_set() and sleep_s != 0.0:
            timer = asyncio.get_running_loop().call_later(sleep_s, self._changed.set) if sleep_s is not None else None
            try:
                await self._changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        self._changed.clear()

    # -- attempts ----------------------------------------------------------------------------------------------------

    def _start(self, name: str, action: Action) -> None:
        row = self._rows[name]
        task = asyncio.get_running_loop().create_task(
            self._attempt(self._plan.spec(row), row, action), name=f"run {self.run_id} {name}"
        )
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._done(name, done))

    def _done(self, name: str, task: asyncio.Task[_End]) -> None:
        if self._tasks.get(name) is not task:
            return watch_result(task)  # it was left behind
        del self._tasks[name]
        self._ended.append(_End(name, None) if task.cancelled() else task.result())
        self._changed.set()
        return None

    async def _attempt(self, spec: StepSpec, row: StepRow, action: Action) -> _End:
        ends_s = None if spec.timeout is None or row.started_s is None else row.started_s + spec.timeout
        scene = StepScene(
            self._claimed,
            row,
            clock=self._tools.clock,
            services=self._tools.services,
            writer=self._writer,
            ends_s=ends_s,
        )
        left_s = None if ends_s is None else max(0.0, ends_s - self._now_s)
        try:
            async with within(left_s, what=spec.name):
                return _End(row.name, await Leash(action.apply(scene), self._tools.held))
        except DogwatchError as error:
            return _End(row.name, _failure(error))
        except TimeoutError as error:
            late = spec.timeout is not None and scene.remaining_s() <= 0.05 * spec.timeout
            reason = attempts.late(spec.timeout or 0.0) if late else str(error) or "timed out"
            return _End(row.name, attempts.Failure(reason=reason, transient=True))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded as the step's failure
            what = "run %s: step %s failed in a way that its action does not know:\n%s"
            _log.error(what, self.run_id, row.name, self._traced(error))
            return _End(row.name, attempts.Failure(reason=f"unexpected {type(error).__name__}: {error}"))

    def _cancel(self, name: str, reason: str) -> None:
        task = self._tasks.get(name)
        if task is not None and name not in self._cancelled:
            self._cancelled[name] = (reason, self._tools.clock.monotonic_s() + CANCEL_S)
            task.cancel()

    async def _take(self) -> None:
        """Take the ends of attempts into the steps."""
        if not self._tools.held():
            raise LeaseLost
        self._insist()
        ended, self._ended = self._ended, []
        for end in ended:
            row = self._rows[end.name]
            self._writer.end(row.name, row.attempt)
            self._put(self._after(row, end))

    def _insist(self) -> None:
        """Cancel again what does not heed it, and leave it behind in the end."""
        now_s = self._tools.clock.monotonic_s()
        for name, (reason, at_s) in list(self._cancelled.items()):
            task = self._tasks.get(name)
            if task is None or at_s > now_s:
                continue
            if task.cancelling() < 2:
                task.cancel()
                self._cancelled[name] = (reason, now_s + CANCEL_S)
                continue
            _log.error("run %s: step %s does not end although it was cancelled; it is left behind", self.run_id, name)
            del self._tasks[name]
            self._ended.append(_End(name, None))

    def _after(self, row: StepRow, end: _End) -> StepRow:
        """Return the step as its attempt leaves it."""
        reason, _ = self._cancelled.pop(row.name, ("", 0.0))
        spec = self._plan.spec(row)
        result = end.result
        if result is None and reason and self._cutting:
            self._note(row, reason)
            return msgspec.structs.replace(row, cut=True)
        if result is None and reason:
            return attempts.cancelled(row, reason, self._now_s)
        try:
            match result:
                case Outcome():
                    return attempts.succeeded(
                        row, self._outputs(spec, row, result), self._masked(result.message), self._now_s
                    )
                case Wait(until_s=until_s, note=note, memory=memory):
                    return attempts.waiting(row, until_s=until_s, note=self._masked(note), memory=memory)
                case None:
                    failure = attempts.Failure(reason="was cancelled from inside")
                case _:
                    failure = result
        except DogwatchError as error:
            failure = _failure(error)
        failure = msgspec.structs.replace(failure, reason=self._masked(failure.reason))
        return attempts.failed(
            spec,
            row,
            failure,
            now_s=self._now_s,
            run_id=self.run_id,
            deadline_s=self._claimed.run.deadline_s,
        )

    def _outputs(self, spec: StepSpec, row: StepRow, outcome: Outcome) -> Mapping[str, Json]:
        """Return the action's outputs and the step's own, masked. Raises: DogwatchError."""
        outputs = dict(outcome.outputs)
        view = self._view(row, result=outcome.outputs)
        for name, expression in spec.outputs.items():
            try:
                outputs[name] = self._tools.language.value(expression, view)
            except DogwatchError as error:
                raise PermanentError(f"output {name}: {error}") from error
        try:
            encoded = msgspec.json.encode(outputs)
        except (TypeError, ValueError) as error:
            raise PermanentError(f"its outputs cannot be kept: {error}") from error
        if len(encoded) > MOST_OUTPUT_BYTES:
            raise PermanentError(f"its outputs take {len(encoded)} bytes; at most {MOST_OUTPUT_BYTES} are kept")
        cleaned: Mapping[str, Json] = self._writer.clean(outputs)
        return cleaned

    # -- small things ------------------------------------------------------------------------------------------------

    @property
    def _now_s(self) -> float:
        return self._tools.clock.now_s()

    def _put(self, row: StepRow) -> None:
        self._rows[row.name] = self._dirty[row.name] = row

    def _view(self, row: StepRow, result: Mapping[str, Json] | None = None) -> View:
        return View(claimed=self._claimed, rows=self._rows, row=row, result=result)

    def _note(self, row: StepRow, text: str) -> None:
        self._writer.write(row.name, row.attempt, "note", f"{text}\n")

    def _masked(self, text: str) -> str:
        return self._writer.mask(text)

    def _traced(self, error: BaseException) -> str:
        """Return where an error came from, for the log: what it says may have been made of secrets."""
        return self._masked("".join(traceback.format_exception(error)).rstrip())

    async def _append(self, chunks: Sequence[Chunk]) -> None:
        await self._patiently(lambda: self._tools.ledger.append(self.run_id, self.fence, chunks))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call of the ledger returns; while the database cannot be used, try again.

        Who owns this run ends the waiting: the worker cancels it before its lease is over.
        """
        wait_s, most_s = _TRIES_S
        while True:
            try:
                return await call()
            except (TransientError, Unreachable) as error:
                _log.warning("run %s: %s; trying again", self.run_id, error)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, most_s)

    async def _end_tasks(self) -> None:
        """Cancel what runs and wait for it, though not for ever."""
        tasks = {task for task in self._tasks.values() if not task.done()}
        self._tasks.clear()
        for _ in range(2):
            for task in tasks:
                task.cancel()
            if tasks:
                _, tasks = await asyncio.wait(tasks, timeout=CANCEL_S)
        for task in tasks:
            _log.error("%s does not end although it was cancelled; it is left behind", task.get_name())

    async def _give_up(self, error: Exception) -> None:
        """An error of ours, not of a step: the run must not be claimed again and again."""
        steps = [
            attempts.cancelled(row, "the run could not be carried out", self._now_s)
            for row in self._rows.values()
            if not row.state.ended
        ]
        reason = self._masked(f"the engine failed: {type(error).__name__}: {error}")
        change = Advance(
            run_id=self.run_id, fence=self.fence, steps=steps, state=RunState.FAILED, reason=reason, waiting_for=""
        )
        try:
            await self._patiently(lambda: self._tools.ledger.advance(change))
        except DogwatchError:
            _log.exception("run %s: and that could not be written", self.run_id)


def _failure(error: DogwatchError) -> attempts.Failure:
    text = f"{error} ({error.hint})" if error.hint else str(error)
    if isinstance(error, TransientError):
        return attempts.Failure(reason=text, transient=True, retry_after_s=error.retry_after_s)
    return attempts.Failure(reason=text, transient=isinstance(error, Unreachable))
