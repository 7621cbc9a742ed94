"""From a host's tasks and facts to its plan: pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.core.units import format_size
from dogwatch.errors import DogwatchError
from dogwatch.fleet.operations.operation import Operation
from dogwatch.fleet.operations.paths import PathNeed, above
from dogwatch.fleet.operations.reading import joined, seals_of
from dogwatch.fleet.operations.state import Later, Need, State
from dogwatch.fleet.operations.steps import AnyStep, Attributes, Write
from dogwatch.fleet.operations.who import WhoNeed
from dogwatch.fleet.plans.plan import HostPlan, Item
from dogwatch.fleet.playbook.expand import Task

# Of one host; a plan is read whole.
_PAYLOAD_BYTES = 64 * 1024 * 1024


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What a host answered. raw: from its first mark on."""

    mark: str
    needs: Sequence[Need[Any]]
    raw: bytes
    facts: Mapping[str, Any]


def needs_of(tasks: Sequence[Task]) -> tuple[list[Need[Any]], list[str]]:
    """Return everything that must be read for the tasks, and why some of them cannot be done at all."""
    found: list[Need[Any]] = [WhoNeed()]
    problems: list[str] = []
    for task in tasks:
        try:
            found += task.operation.needs(task.context)
        except DogwatchError as error:
            problems.append(_told(task, error))
    return joined(found), problems


def decide_host(host: str, tasks: Sequence[Task], read: Read) -> HostPlan:
    """Return what is to be changed on a host. Nothing but its arguments is looked at."""
    state = State(dict(read.facts))
    items: list[Item] = []
    problems: list[str] = []
    settled = False
    for at, task in enumerate(tasks):
        notified: tuple[int, ...] = ()
        if task.handler:
            if not settled:
                items, settled = without_detours(items, seals_of(read.facts)), True
            notified = _notified(at, task, tasks, items)
            if not notified:
                continue
        try:
            item = _decided(at, task, state, notified)
        except DogwatchError as error:
            problems.append(_told(task, error))
            continue
        if item is not None:
            items.append(item)
    if not settled:
        items = without_detours(items, seals_of(read.facts))
    size = sum(len(getattr(step, "content", b"")) for item in items for step in item.steps)
    if size > _PAYLOAD_BYTES:
        problems.append(f"the changes are {format_size(size)} large, more than {format_size(_PAYLOAD_BYTES)}")
    return HostPlan(
        host=host,
        problems=tuple(problems),
        total=len(tasks),
        mark=read.mark,
        seal=hashlib.sha256(read.raw).hexdigest(),
        needs=tuple(read.needs),  # type: ignore[arg-type]
        facts=seals_of(read.facts),
        items=() if problems else tuple(items),
    )


def _told(task: Task, error: DogwatchError) -> str:
    return f"{task.name}: {error}{f'; {error.hint}' if error.hint else ''}"


def without_detours(items: Sequence[Item], before: Mapping[str, str]) -> list[Item]:
    """Return the items without changes of files that, all done, leave them as they were.

    Two operations on one file, the second undoing what the first does to it: it would change for a moment, each time.
    """
    steps = [step for item in items for step in item.steps]
    # Something that runs in between may read the file, and what is decided later may write to it.
    if any(item.later for item in items) or not all(isinstance(step, Write | Attributes) for step in steps):
        return list(items)
    last: dict[str, str] = {}
    for step in steps:
        last.update(step.effects)
    same = {key for key, seal in last.items() if before.get(key) == seal}
    kept = [
        msgspec.structs.replace(
            item, steps=tuple(step for step in item.steps if not step.effects or not set(step.effects) <= same)
        )
        for item in items
    ]
    return [item for item in kept if item.steps]


def _notified(at: int, task: Task, tasks: Sequence[Task], items: Sequence[Item]) -> tuple[int, ...]:
    """Return the places of operations that change something and notify this handler."""
    return tuple(item.at for item in items if item.at < at and task.name in tasks[item.at].notify)


def _decided(at: int, task: Task, state: State, notified: tuple[int, ...]) -> Item | None:
    item = Item(
        at=at,
        name=task.name,
        kind=task.operation.kind,
        handler=task.handler,
        notified_by=notified,
        hide=task.hide,
    )
    before = state.copy()
    try:
        steps = steps_of(task, state)
    except Later as later:
        state.restore(before)
        leave(task, state)
        fields, files, texts = _kept(task)
        return msgspec.structs.replace(item, later=later.after, fields=fields, files=files, texts=texts)
    return msgspec.structs.replace(item, steps=steps) if steps else None


def steps_of(task: Task, state: State) -> tuple[AnyStep, ...]:
    """Return a task's steps, each with what it makes of facts. Raises: Later, Refused, CannotRead."""
    found: list[AnyStep] = []
    state.effects.clear()
    for step in task.operation.decide(task.context, state):
        shown = step.diff if not task.hide or not step.diff else "(hidden)\n"
        found.append(msgspec.structs.replace(step, effects=dict(state.effects), diff=shown))
        state.effects.clear()
    return tuple(found)


def leave(task: Task, state: State) -> None:
    """Say that nobody knows yet what a task that is decided later makes of what it reads."""
    needs = task.operation.needs(task.context)
    folders = {folder for need in needs if isinstance(need, PathNeed) for folder in above(need.path)}
    for need in needs:
        if isinstance(need, WhoNeed) or (isinstance(need, PathNeed) and need.path in folders):
            continue
        state.forget(need, task.name)


def _kept(task: Task) -> tuple[Mapping[str, Any], Mapping[str, bytes], Mapping[str, str]]:
    """Return what is needed to decide a task later, without the playbook."""
    operation: Operation = task.operation
    files: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    for name in operation.local_files:
        src = getattr(operation, name)
        if isinstance(src, str):
            files[src] = task.context.local(src)
            if operation.kind == "template":
                texts[src] = task.context.render(files[src].decode())
    return msgspec.to_builtins(operation), files, texts
