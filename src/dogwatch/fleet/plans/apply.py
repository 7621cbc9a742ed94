"""Applies a plan: exactly its changes, on hosts that are still as it was made for; goes on after a crash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.core.component import Registry
from dogwatch.errors import Conflict, DogwatchError
from dogwatch.fleet.connection import Connection, Ended, HostFailed, RemoteCommand, State
from dogwatch.fleet.login import Login
from dogwatch.fleet.operations.carrying import (
    Stage,
    bootstrap,
    journal_script,
    payload,
    roll_back_script,
    stage_script,
)
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.reading import facts_of, joined, read_function, seals_of
from dogwatch.fleet.operations.state import Later
from dogwatch.fleet.operations.state import State as Facts
from dogwatch.fleet.operations.steps import AnyStep
from dogwatch.fleet.operations.who import WhoNeed
from dogwatch.fleet.plans.asking import answer_of, ask, pieces
from dogwatch.fleet.plans.decide import steps_of
from dogwatch.fleet.plans.journal import Line, Notes
from dogwatch.fleet.plans.plan import STEPS_EACH, HostPlan, Item
from dogwatch.fleet.plans.secrets import opened
from dogwatch.fleet.playbook.expand import Task

_BROKEN = b"dogwatch-broken "


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one host. state: applied, unchanged, failed, moved, locked, stopped, rolled back."""

    host: str
    state: str
    message: str = ""
    changed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.state in ("applied", "unchanged", "rolled back")

    @property
    def refused(self) -> bool:
        return self.state in ("moved", "locked")


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    """One apply. holder: what others are told who find a host locked. folders: host → where its state is kept there.

    secrets: host → values. resume: hosts may have been begun before. timeout_s: of the changes on a host.
    """

    apply_id: str
    salt: str
    holder: str
    plans: Mapping[str, HostPlan]
    secrets: Mapping[str, Mapping[str, str]]
    operations: Registry[Operation]
    folders: Mapping[str, str] = {}
    resume: bool = False
    timeout_s: float = 600.0


class Applier:
    """Applies host by host; `work` is what a FleetRun does on each."""

    def __init__(self, applying: Applying, journal: Notes) -> None:
        self._applying, self._journal = applying, journal
        self.done: dict[str, Done] = {}

    async def work(self, host: str, login: Login, connection: Connection) -> Ended:
        self._journal.add(Line(what="host", host=host))
        try:
            plan = opened(self._applying.plans[host], self._applying.secrets.get(host, {}), self._applying.salt)
            done = await _Host(self._applying, plan, login, connection).apply()
        except Conflict as error:
            done = Done(host=host, state="moved", message=str(error))
        except HostFailed as error:
            done = Done(host=host, state=str(error.state), message=str(error))
        except DogwatchError as error:
            done = Done(host=host, state="failed", message=str(error))
        return self._end(done)

    async def back(self, host: str, login: Login, connection: Connection) -> Ended:
        """Take back what the apply did on the host."""
        try:
            plan = opened(self._applying.plans[host], self._applying.secrets.get(host, {}), self._applying.salt)
            done = await _Host(self._applying, plan, login, connection).back()
        except HostFailed as error:
            done = Done(host=host, state=str(error.state), message=str(error))
        except DogwatchError as error:
            done = Done(host=host, state="failed", message=str(error))
        return self._end(done)

    def _end(self, done: Done) -> Ended:
        self.done[done.host] = done
        self._journal.add(Line(what="ended", host=done.host, state=done.state, message=done.message[:500]))
        if done.ok:
            return Ended(state=State.SUCCEEDED)
        return Ended(state=State.NON_ZERO, exit_code=11 if done.refused else 1, note=done.message)


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage's script said. end: its last word with what stands behind it."""

    done: tuple[int, ...] = ()
    end: str = ""
    more: str = ""
    words: str = ""
    moved: bytes = b""


class _Host:
    def __init__(self, applying: Applying, plan: HostPlan, login: Login, connection: Connection) -> None:
        self._applying, self._plan, self._login, self._connection = applying, plan, login, connection
        self._folder = applying.folders.get(plan.host, "")
        # Of its own on each host: two hosts may share a file system.
        self._id = f"{applying.apply_id}-{hashlib.sha256(plan.host.encode()).hexdigest()[:8]}"
        self._names = {item.at: item.name for item in plan.items}
        self._changed: list[str] = []

    async def apply(self) -> Done:
        if self._plan.problems:
            return self._over("failed", "nothing is done: " + "; ".join(self._plan.problems))
        if not self._plan.items:
            return self._over("unchanged")
        finished: set[int] = set()
        seal = self._plan.seal
        if self._applying.resume:
            finished, moved = await self._so_far()
            if moved:
                return self._over("moved", f"changed since the plan: {', '.join(moved)}")
            # What was checked just now is checked again under the lock only where nothing was done yet.
            seal = "" if finished else self._plan.seal
        return await self._stages(finished, seal)

    async def _stages(self, finished: set[int], seal: str) -> Done:
        """Run stage after stage: one ends where something must be decided on what it has made."""
        waiting: list[tuple[int, AnyStep]] = []
        took: set[int] = {number // STEPS_EACH for number in finished}
        for item in self._plan.items:
            if item.handler and item.notified_by and not self._notified(item, took):
                continue
            steps = item.numbered()
            if item.later:
                if waiting:
                    told = await self._run(waiting, seal, last=False)
                    waiting, seal = [], ""
                    if told.end != "ok":
                        return self._failed(told)
                steps = await self._decide(item)
            if steps:
                took.add(item.at)
            waiting += [(number, step) for number, step in steps if number not in finished]
        # Also with nothing left to do: the host must be told that it is over.
        told = await self._run(waiting, seal, last=True)
        return self._over("applied") if told.end == "ok" else self._failed(told)

    def _notified(self, item: Item, took: set[int]) -> bool:
        return any(at in took for at in item.notified_by)

    async def _decide(self, item: Item) -> list[tuple[int, AnyStep]]:
        """Decide an operation now that what it waited for is made."""
        operation = msgspec.convert(dict(item.fields), self._applying.operations.get(item.kind))
        texts = {item.files[name].decode(errors="replace"): text for name, text in item.texts.items()}
        context = Context(
            name=item.name, render=lambda text: texts.get(text, text), local=lambda name: item.files[name]
        )
        needs = joined([WhoNeed(), *operation.needs(context)])
        read = await ask(self._connection, self._login, needs, timeout_s=self._applying.timeout_s)
        task = Task(index=item.at, name=item.name, operation=operation, context=context, hide=item.hide)
        try:
            steps = steps_of(task, Facts(dict(read.facts)))
        except Later as later:  # it waits for something that it itself would bring
            raise Conflict(f"{item.name} cannot be decided even after {later.after}") from None
        return [(item.at * STEPS_EACH + number, step) for number, step in enumerate(steps, 1)]

    async def _so_far(self) -> tuple[set[int], list[str]]:
        """Return the steps that are done, and the facts that are neither as before them nor as they made them."""
        needs = self._plan.needs
        reads = read_function(needs, self._plan.mark)
        script = journal_script(self._id, self._folder, reads)
        raw = await answer_of(self._connection, self._login, script, timeout_s=self._applying.timeout_s)
        head, _, rest = raw.partition(b"journal-end\n")
        finished, begun = _progress(head)
        facts = seals_of(facts_of(needs, rest[rest.find(b"\n" + self._plan.mark.encode()) :], self._plan.mark))
        allowed = {key: {seal} for key, seal in self._plan.facts.items()}
        for item in self._plan.items:
            for number, step in item.numbered():
                for key, seal in step.effects.items():
                    if number in finished:
                        allowed[key] = {seal}
                    elif number in begun:
                        allowed.setdefault(key, set()).add(seal)
            if item.later and any(number // STEPS_EACH == item.at for number in finished | begun):
                # What was decided on the way is not in the plan: it is decided again, from what is so.
                return finished, []
        loose = any(
            getattr(step, "loose", False) for item in self._plan.items for n, step in item.numbered() if n in finished
        )
        moved = [
            key
            for key, seal in facts.items()
            if key in allowed and seal not in allowed[key] and "?" not in allowed[key] and not loose
        ]
        return finished, moved

    async def back(self) -> Done:
        """Take the finished and begun steps back, the last first."""
        head = await answer_of(
            self._connection,
            self._login,
            journal_script(self._id, self._folder, "reads() { :; }\n"),
            timeout_s=self._applying.timeout_s,
        )
        finished, begun = _progress(head.partition(b"journal-end\n")[0])
        known = {number: step for item in self._plan.items for number, step in item.numbered()}
        touched = sorted(finished | begun)
        steps = [(number, known[number]) for number in touched if number in known]
        lost = [number for number in touched if number not in known]
        if not touched:
            return self._over("unchanged", "nothing was done here")
        script = roll_back_script(self._id, self._applying.holder, steps)
        told, notes = await self._carry(script, b"")
        left = [line.partition(" ")[2] for line in notes if line.startswith(("left ", "stuck "))]
        left += [f"{self._names.get(number // STEPS_EACH, '')}: decided on the way, not taken back" for number in lost]
        if told.end == "ok":
            return self._over("rolled back", "; ".join(left))
        return self._over("locked" if told.end in ("locked", "open") else "failed", "; ".join(left) or told.words)

    async def _run(self, steps: Sequence[tuple[int, AnyStep]], seal: str, *, last: bool) -> _Told:
        reads = read_function(self._plan.needs, self._plan.mark) if seal else ""
        script, blobs = stage_script(
            Stage(
                apply_id=self._id,
                holder=self._applying.holder,
                steps=steps,
                last=last,
                wait_s=30 if self._applying.resume else 0,
                reads=reads,
                seal=seal,
            )
        )
        told, _ = await self._carry(script, blobs)
        for number in told.done:
            name = self._names.get(number // STEPS_EACH, "")
            if name not in self._changed:
                self._changed.append(name)
        return told

    async def _carry(self, script: str, blobs: bytes) -> tuple[_Told, list[str]]:
        data = payload(script, blobs)
        size = len(data) - len(blobs)
        ended = await self._connection.run(
            RemoteCommand(
                script=bootstrap(self._id, len(data), size, folder=self._folder),
                stdin=pieces(data),
                become=self._login.become,
                timeout_s=self._applying.timeout_s,
                grace_s=10.0,
                limit_bytes=128 * 1024 * 1024,
            )
        )
        if ended.state is State.TIMED_OUT:
            raise HostFailed(ended.state, f"{ended.note}; --resume goes on where it stands")
        return _told(ended.stdout, ended.stderr), ended.stdout.decode(errors="replace").splitlines()

    def _failed(self, told: _Told) -> Done:
        if told.end == "moved":
            return self._over("moved", f"changed since the plan: {', '.join(self._moved(told.moved)) or 'its facts'}")
        if told.end == "locked":
            return self._over("locked", f"another apply holds it: {told.more or 'unknown'}")
        if told.end == "open":
            return self._over("locked", f"apply {told.more} was left unfinished there: resume it or roll it back")
        if told.end == "stopped":
            return self._over("stopped", "stopped before all was done; --resume goes on")
        if told.end == "failed":
            number = int(told.more) if told.more.isdigit() else 0
            return self._over("failed", f"{self._names.get(number // STEPS_EACH, 'a step')}: {told.words or 'failed'}")
        return self._over("failed", told.words or "the host did not tell how it ended; --resume finds out")

    def _moved(self, raw: bytes) -> list[str]:
        try:
            facts = seals_of(facts_of(self._plan.needs, raw, self._plan.mark))
        except DogwatchError:
            return []
        return [key for key, seal in facts.items() if self._plan.facts.get(key) != seal]

    def _over(self, state: str, message: str = "") -> Done:
        return Done(host=self._plan.host, state=state, message=message, changed=tuple(self._changed))


def _told(out: bytes, err: bytes) -> _Told:
    broken = out.find(_BROKEN)
    if broken >= 0:
        return _Told(end="broken", words=out[broken + len(_BROKEN) :].decode(errors="replace").strip())
    body, _, last = out.rstrip(b"\n").rpartition(b"\n")
    words = last.decode(errors="replace").split(" ", 2)
    if words[0] != "end":
        told = err.decode(errors="replace").strip()
        return _Told(words=told[-500:], done=_numbers(out, b"done"))
    end, more = words[1] if len(words) > 1 else "", words[2] if len(words) > 2 else ""
    if end == "moved":
        return _Told(end=end, moved=body.partition(b"moved\n")[2])
    failing = body.partition(f"\nfailed {more}\n".encode())[2].decode(errors="replace").strip() if more else ""
    told = f"{more} {failing}".strip() if end == "broken" else failing
    return _Told(end=end, more=more, words=told, done=_numbers(body, b"done"))


def _numbers(out: bytes, word: bytes) -> tuple[int, ...]:
    found = []
    for line in out.split(b"\n"):
        first, _, rest = line.partition(b" ")
        if first == word and rest.isdigit():
            found.append(int(rest))
    return tuple(found)


def _progress(journal: bytes) -> tuple[set[int], set[int]]:
    """Return the steps that were done, and those that were begun and not seen to end; what was undone counts as new."""
    done: set[int] = set()
    begun: set[int] = set()
    for line in journal.decode(errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        number = rest.split(" ")[0]
        if not number.isdigit():
            continue
        if word == "begun":
            begun.add(int(number))
        elif word == "done":
            done.add(int(number))
            begun.discard(int(number))
        elif word == "undone":
            done.discard(int(number))
            begun.discard(int(number))
    return done, begun
