"""Carries out what the decider of remedies decided: budgets claimed and runs started in one transaction, and how they
ended told back to the decider.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from dogwatch.access.actor import SYSTEM, Actor
from dogwatch.engine.book.topics import of_run
from dogwatch.engine.port import Runs, Starter
from dogwatch.engine.values import Json, Run, RunState, StartRun, StepRun, Trigger
from dogwatch.errors import Conflict, DogwatchError, NotFound, TransientError
from dogwatch.notify.message import Message
from dogwatch.rules.incident import Decisions, Notice, State
from dogwatch.rules.remedy import budget, records
from dogwatch.rules.remedy.decide import WITHDRAWN
from dogwatch.rules.remedy.values import Cancel, Episode, Result, Start
from dogwatch.rules.watcher import Key
from dogwatch.store.database import Database, Tx

log = logging.getLogger(__name__)
# A notice can get lost: each run is looked at by itself so often.
_LOOK_S = 5.0
# Runs that are looked at in one turn.
_MOST_LOOKED_AT = 200
_MOST_TEXT = 2000


class Prepared(msgspec.Struct, kw_only=True):
    """What one step wants to be done. started, refused: filled in by its transaction."""

    decisions: Decisions
    before: Mapping[Key, Episode]
    after: Mapping[Key, Episode]
    starters: Mapping[str, Starter]
    failed: list[Result]
    started: dict[str, str]
    refused: list[Result]
    texts: Sequence[tuple[str, str, str]] = ()


class Acting:
    """The live side of remedies. wake: called when there is something to be decided."""

    def __init__(self, database: Database, runs: Runs, *, address: Callable[[], str] = lambda: "") -> None:
        """address: of the console, as people reach it; "" where nobody said."""
        self._database, self._runs, self._address = database, runs, address
        self.wake: Callable[[], None] = lambda: None
        # Of actions under way: the run by key, when it was looked at last, and what listens for its end.
        self._open: dict[str, str] = {}
        self._looked_s: dict[str, float] = {}
        self._deaf: dict[str, Callable[[], None]] = {}
        self._told: set[str] = set()
        self._results: list[Result] = []
        self._cancels: list[Cancel] = []
        self._texts: dict[str, tuple[str, str]] = {}
        self._written: set[str] = set()

    def use(self, texts: Mapping[str, tuple[str, str]]) -> None:
        """Know the texts of rules: version → (name, text)."""
        self._texts = dict(texts)

    def stop(self) -> None:
        for deaf in self._deaf.values():
            deaf()
        self._deaf = {}

    # -- Reading -----------------------------------------------------------------------------------------------------

    def load(self, tx: Tx) -> tuple[dict[Key, Episode], dict[str, str]]:
        return records.load(tx)

    def begin(self, episodes: Mapping[Key, Episode], runs: Mapping[str, str]) -> None:
        """Go on from what is on disk: actions without a run were refused, and nobody had heard of it yet."""
        self.stop()
        self._open, self._looked_s, self._results, self._told = {}, {}, [], set()
        for episode in episodes.values():
            if not episode.act:
                continue
            if runs.get(episode.act):
                self._watch(episode.act, runs[episode.act])
            else:
                self._results.append(Result(key=episode.act, ok=False, refused=True, reason="it was not begun"))

    def _watch(self, key: str, run_id: str) -> None:
        self._open[key] = run_id
        self._told.add(key)  # it may have ended before anybody listened

        def told() -> None:
            self._told.add(key)
            self.wake()

        self._deaf[key] = self._database.listen(of_run(run_id), told)

    def _unwatch(self, key: str) -> None:
        self._open.pop(key, None)
        self._looked_s.pop(key, None)
        self._told.discard(key)
        deaf = self._deaf.pop(key, None)
        if deaf is not None:
            deaf()

    # -- How actions ended -------------------------------------------------------------------------------------------

    async def results(self, now_s: float) -> list[Result]:
        """Return how actions ended since. They are given again until `took`."""
        due = [
            key for key in self._open
            if key in self._told or abs(now_s - self._looked_s.get(key, 0.0)) >= _LOOK_S
        ]  # fmt: skip
        known = {result.key for result in self._results}
        for key in due[:_MOST_LOOKED_AT]:
            if key in known:
                continue
            self._told.discard(key)
            self._looked_s[key] = now_s
            result = await self._look(key, self._open[key])
            if result is not None:
                self._results.append(result)
        return list(self._results)

    def took(self, results: Sequence[Result]) -> None:
        """Forget results that are decided upon and on disk."""
        keys = {result.key for result in results}
        self._results = [result for result in self._results if result.key not in keys]
        for key in keys:
            self._unwatch(key)

    async def _look(self, key: str, run_id: str) -> Result | None:
        try:
            run = await self._runs.show(run_id)
        except NotFound:
            return Result(key=key, ok=False, reason="its run is not kept any more")
        if not run.state.ended:
            return None
        if run.state is RunState.SUCCEEDED:
            return Result(key=key, ok=True)
        return _failed(key, run, await self._runs.steps(run_id))

    # -- Writing -----------------------------------------------------------------------------------------------------

    def prepare(self, decisions: Decisions, before: State, after: State) -> Prepared:
        """Validate what is to be started, outside of the transaction."""
        starters: dict[str, Starter] = {}
        failed: list[Result] = []
        for start in decisions.starts:
            try:
                starters[start.key] = self._runs.starter(_request(start))
            except DogwatchError as error:
                failed.append(Result(key=start.key, ok=False, acted=False, reason=f"cannot be started: {error}"))
        versions = {start.version for start in decisions.starts}
        versions |= {one.version for number, one in after.incidents.items() if number not in before.incidents}
        texts = [
            (version, *self._texts[version])
            for version in sorted(versions)
            if version in self._texts and version not in self._written
        ]
        return Prepared(
            decisions=decisions,
            before=before.remedy.episodes,
            after=after.remedy.episodes,
            starters=starters,
            failed=failed,
            started={},
            refused=[],
            texts=texts,
        )

    def save(self, tx: Tx, prepared: Prepared) -> None:
        """Write it down and start what fits its budget, in the transaction that writes the incidents' step.

        It may be called more than once: what it fills in is what the last call did.
        """
        prepared.started, prepared.refused = {}, []
        records.save_episodes(tx, prepared.before, prepared.after)
        for version, name, text in prepared.texts:
            records.note_version(tx, version, name, text)
        for gone in prepared.decisions.releases:
            budget.release(tx, gone.key, void=gone.void)
            records.ended(tx, gone.key, gone.outcome, gone.reason)
        for start in prepared.decisions.starts:
            self._start(tx, start, prepared)

    def _start(self, tx: Tx, start: Start, prepared: Prepared) -> None:
        starter = prepared.starters.get(start.key)
        if starter is None:
            records.began(tx, start, "")
            return
        if start.budget is not None:
            room = budget.claim(tx, start.budget, start.key, lasts_s=start.until_s)
            if not room.ok:
                records.began(tx, start, "")
                prepared.refused.append(
                    Result(
                        key=start.key, ok=False, refused=True, acted=False, reason=room.why, retry_s=room.retry_s or 5.0
                    )
                )
                return
        try:
            run_id = starter(tx).run.run_id
        except Conflict as error:
            budget.release(tx, start.key, void=True)
            records.began(tx, start, "")
            prepared.refused.append(
                Result(key=start.key, ok=False, refused=True, acted=False, reason=str(error), retry_s=5.0)
            )
            return
        records.began(tx, start, run_id)
        prepared.started[start.key] = run_id

    def hint(self, tx: Tx, notice: Notice, message: Message) -> Message:
        """Return the message with how what it asks for is approved."""
        base = self._address().rstrip("/")
        if base and len(notice.parts) == 1:
            message = msgspec.structs.replace(message, url=f"{base}/incidents/{notice.parts[0].number}")
        asked = {part.number for part in notice.parts if part.kind == "asked"}
        runs: list[Json] = [run_id for number in sorted(asked) for run_id in records.open_runs(tx, number)]
        if not runs:
            return message
        ways = [f"approve or reject: {base}/runs/{one}" if base else f"dogwatch run approve {one}" for one in runs]
        return msgspec.structs.replace(
            message, text="\n".join([message.text, *ways]), data={**message.data, "runs": runs}
        )

    def done(self, prepared: Prepared) -> None:
        """It is on disk."""
        self._results += [*prepared.failed, *prepared.refused]
        for key, run_id in prepared.started.items():
            self._watch(key, run_id)
        self._written.update(version for version, _name, _text in prepared.texts)
        self._cancels += prepared.decisions.cancels
        if prepared.failed or prepared.refused:
            self.wake()

    def purge(self, tx: Tx, before_s: float, claims_s: float) -> None:
        records.purge(tx, before_s)
        budget.forget(tx, claims_s)

    async def withdraw(self) -> None:
        """Cancel approvals that nobody needs any more; what is being done already goes on."""
        for cancel in self._cancels:
            run_id = self._open.get(cancel.key)
            if run_id is None:
                continue
            try:
                run = await self._runs.show(run_id)
                if run.waiting_for.startswith("approval"):
                    await self._runs.cancel(run_id, SYSTEM, reason=cancel.reason)
            except TransientError:
                return
            except DogwatchError as error:
                log.info("run %s cannot be withdrawn: %s", run_id, error)
        self._cancels = []


def _request(start: Start) -> StartRun:
    labels = dict(start.labels)
    return StartRun(
        job=start.job,
        parameters={
            "target": start.group,
            "targets": list(start.targets),
            "labels": labels,
            "incident": start.number,
            "rule": start.rule,
            "reason": start.reason[:_MOST_TEXT],
            "step": start.step,
            "attempt": start.attempt,
            "unit": labels.get("unit", ""),
            "container": labels.get("container", ""),
            "host": labels.get("ssh", ""),
        },
        actor=Actor(kind="rule", name=start.remedy),
        trigger=Trigger(
            kind="rule",
            name=start.rule,
            data={
                "incident": start.number,
                "remedy": start.remedy,
                "version": start.version,
                "reason": start.reason[:_MOST_TEXT],
                "targets": list(start.targets),
                "labels": labels,
                "step": start.step,
                "attempt": start.attempt,
                "undo": start.undo,
            },
        ),
        key=start.key,
        reason=f"incident #{start.number}: {start.says}"[:_MOST_TEXT],
        labels=labels,
    )


def _failed(key: str, run: Run, steps: Sequence[StepRun]) -> Result:
    """Return what a run that did not succeed means: whether it did anything, and whether somebody said no."""
    by_name = {step.name: step for step in steps}
    act = by_name.get("act")
    acted = act is not None and act.attempt > 0
    ask = by_name.get("ask")
    reason = (act.reason if act is not None and acted else "") or run.reason or str(run.state)
    declined = False
    if ask is not None and ask.reason.startswith("rejected"):
        declined, reason = True, ask.reason
    elif ask is not None and not acted and ask.reason:
        reason = ask.reason
    if run.state is RunState.CANCELLED:
        if not acted and WITHDRAWN in run.reason:
            return Result(key=key, ok=False, refused=True, acted=False, reason=WITHDRAWN, retry_s=1.0)
        declined = True
    return Result(key=key, ok=False, reason=reason, declined=declined, acted=acted)
