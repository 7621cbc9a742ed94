"""What templates are given of runs: the graph of steps, their timeline, and what each order would do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.engine.values import Run, RunState, StepRun, StepState
from dogwatch.words import Phrase

# The icon and colour of each state of runs, steps, workers, schedules, fires, deliveries and messages.
ICONS = {
    "on": "maintenance",
    "next": "pending",
    "over": "skipped",
    "open": "down",
    "acknowledged": "waiting",
    "resolved": "up",
    "merged": "skipped",
    "succeeded": "up",
    "failed": "down",
    "scheduled": "pending",
    "queued": "pending",
    "pending": "pending",
    "active": "up",
    "draining": "degraded",
    "lost": "down",
    "disabled": "paused",
    "behind": "degraded",
    "superseded": "degraded",
    "ended": "skipped",
    "unknown": "pending",
    "started": "up",
    "manual": "up",
    "refused": "degraded",
    "missed": "degraded",
    "accepted": "up",
    "ignored": "skipped",
    "duplicate": "skipped",
    "sending": "running",
    "delivered": "up",
    "dead": "down",
    "applied": "up",
    "unchanged": "skipped",
}
NODE_WIDTH, NODE_HEIGHT = 152, 46
_GAP_X, _GAP_Y, _EDGE = 36, 14, 8
# A graph of more steps is a list: nobody reads it.
_MOST_DRAWN = 150
_NAME_DRAWN = 16


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A step in the graph. title: its name as far as it fits. note: below it. items: (done, of) of a map."""

    step: StepRun
    x: int
    y: int
    title: str
    note: str


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    done: bool


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Steps from left to right, each to the right of all that it needs."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    width: int
    height: int


def icon_of(state: str) -> str:
    return ICONS.get(state, state)


def shown_state(run: Run) -> str:
    """Return a run's state in a word. One that only waits, for a person or a time, says so: it works at nothing."""
    return "waiting" if run.waiting_for and run.state == RunState.RUNNING else str(run.state)


def is_item(step: StepRun) -> bool:
    """Return whether a step is one item of a map: `deploy[2]`."""
    return step.name.endswith("]") and "[" in step.name


def levels(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the column of each step: 0 for those that need none, else one more than the last of what it needs."""
    found: dict[str, int] = {}
    left = list(needs)
    while left:
        ready = [name for name in left if all(need in found or need not in needs for need in needs[name])]
        # Configuration refuses circles; should one come all the same, it is drawn in one column.
        for name in ready or left:
            found[name] = 1 + max((found.get(need, -1) for need in needs[name]), default=-1)
        left = [name for name in left if name not in found]
    return found


def graph(steps: Sequence[StepRun]) -> Graph | None:
    """Return where each step is drawn; None where there is nothing to see in a graph."""
    shown = [step for step in steps if not is_item(step)]
    if len(shown) < 2 or len(shown) > _MOST_DRAWN:
        return None
    columns = levels({step.name: step.needs for step in shown})
    rows: dict[int, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for step in shown:
        column = columns[step.name]
        places[step.name] = (column, rows.get(column, 0))
        rows[column] = rows.get(column, 0) + 1
    tallest = max(rows.values())
    nodes = [_node(step, steps, places[step.name], rows[columns[step.name]], tallest) for step in shown]
    at = {node.step.name: node for node in nodes}
    edges = [_edge(at[need], at[step.name]) for step in shown for need in step.needs if need in at]
    return Graph(
        nodes=nodes,
        edges=edges,
        width=(max(columns.values()) + 1) * (NODE_WIDTH + _GAP_X) - _GAP_X + 2 * _EDGE,
        height=tallest * (NODE_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _EDGE,
    )


def _node(step: StepRun, steps: Sequence[StepRun], place: tuple[int, int], count: int, tallest: int) -> Node:
    column, row = place
    free = (tallest - count) * (NODE_HEIGHT + _GAP_Y) // 2
    items = [one for one in steps if is_item(one) and one.name.startswith(f"{step.name}[")]
    note = f"{sum(one.state.ended for one in items)} of {len(items)}" if items else step.kind
    return Node(
        step=step,
        x=_EDGE + column * (NODE_WIDTH + _GAP_X),
        y=_EDGE + free + row * (NODE_HEIGHT + _GAP_Y),
        title=step.name if len(step.name) <= _NAME_DRAWN else f"{step.name[: _NAME_DRAWN - 1]}…",
        note=note,
    )


def _edge(before: Node, after: Node) -> Edge:
    x1, y1 = before.x + NODE_WIDTH, before.y + NODE_HEIGHT // 2
    x2, y2 = after.x, after.y + NODE_HEIGHT // 2
    middle = (x2 - _GAP_X + x2) // 2
    # It turns in the gap before the later step, so that it never crosses a column of steps at an angle.
    path = f"M{x1} {y1}H{x2 - _GAP_X}C{middle} {y1} {middle} {y2} {x2} {y2}" if y1 != y2 else f"M{x1} {y1}H{x2}"
    return Edge(path=path, done=before.step.state.ended)


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A step on the timeline. start and length: shares of the whole, 0 to 1; length 0 for one that has not begun."""

    step: StepRun
    start: float
    length: float
    duration_s: float | None


def timeline(run: Run, steps: Sequence[StepRun], now_s: float) -> list[Bar]:
    """Return when each step worked, as shares of the run's time so far."""
    begin_s = run.started_s if run.started_s is not None else run.created_s
    end_s = max([run.ended_s or now_s, *(step.ended_s or 0.0 for step in steps), begin_s + 0.001])
    whole_s = end_s - begin_s
    bars = []
    for step in steps:
        if step.started_s is None:
            bars.append(Bar(step=step, start=0.0, length=0.0, duration_s=None))
            continue
        last_s = step.ended_s if step.ended_s is not None else end_s
        start = min(1.0, max(0.0, (step.started_s - begin_s) / whole_s))
        length = min(1.0 - start, max(0.004, (last_s - step.started_s) / whole_s))
        bars.append(Bar(step=step, start=start, length=length, duration_s=max(0.0, last_s - step.started_s)))
    return bars


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Something a person may ask of a run now. verb: of the API. needs: the permission on runs.

    effects: what it will do, a line each. asks: the label of the text field beside it, "" for none.
    """

    key: str
    verb: str
    needs: str
    title: str
    effects: Sequence[str]
    asks: str = ""
    body: Mapping[str, object] = {}
    harsh: bool = False


def orders(run: Run, steps: Sequence[StepRun]) -> list[Order]:
    """Return what may be asked of the run in its state, each with what it will do."""
    named = {state: [step.name for step in steps if step.state == state] for state in StepState}
    if run.state.ended:
        return _again(run, named)
    found = [
        order
        for step in steps
        if step.state == StepState.WAITING and step.kind == "approve"
        for order in _decisions(step, steps)
    ]
    running = _list(named[StepState.RUNNING])
    if run.state == RunState.PAUSED:
        found.append(
            Order(
                key="resume",
                verb="resume",
                needs="change",
                title=Phrase("Resume"),
                effects=[Phrase("Steps whose turn it is begin again.")],
            )
        )
    elif run.state in (RunState.RUNNING, RunState.QUEUED):
        effects = [Phrase("No further step begins until it is resumed.")]
        if running:
            effects.append(Phrase("What runs ends by itself: {0}.", running))
        found.append(
            Order(
                key="pause",
                verb="pause",
                needs="change",
                title=Phrase("Pause"),
                effects=effects,
                asks=Phrase("Why (kept in the audit trail)"),
            )
        )
    effects = [Phrase("Ends what runs: {0}.", running)] if running else []
    rest = _list([*named[StepState.WAITING], *named[StepState.PENDING]])
    if rest:
        effects.append(Phrase("Does not begin, cleanup steps excepted: {0}.", rest))
    effects.append(Phrase("Runs that it started are cancelled, too. What its steps did so far is not undone."))
    found.append(
        Order(
            key="cancel",
            verb="cancel",
            needs="cancel",
            title=Phrase("Cancel the run"),
            effects=effects,
            asks=Phrase("Why (kept in the run and the audit trail)"),
            harsh=True,
        )
    )
    return found


def _decisions(step: StepRun, steps: Sequence[StepRun]) -> list[Order]:
    after = _list([one.name for one in steps if step.name in one.needs])
    return [
        Order(
            key=f"approve-{step.name}",
            verb="decide",
            needs="approve",
            title=Phrase("Approve") if step.name == "approve" else Phrase("Approve {0}", step.name),
            effects=[Phrase("The run goes on with {0}.", after) if after else Phrase("The run goes on.")],
            asks=Phrase("Comment"),
            body={"approve": True, "step": step.name},
        ),
        Order(
            key=f"reject-{step.name}",
            verb="decide",
            needs="approve",
            title=Phrase("Reject") if step.name == "approve" else Phrase("Reject {0}", step.name),
            effects=[
                Phrase("The step {0} fails, and {1} does not begin.", step.name, after)
                if after
                else Phrase("The step {0} fails.", step.name)
            ],
            asks=Phrase("Why"),
            body={"approve": False, "step": step.name},
            harsh=True,
        ),
    ]


def _again(run: Run, named: Mapping[StepState, Sequence[str]]) -> list[Order]:
    everything = [name for state in StepState for name in named[state]]
    found = [
        Order(
            key="rerun",
            verb="rerun",
            needs="run",
            title=Phrase("Run again"),
            effects=[
                Phrase("Starts a new run of {0} with the same parameters.", run.job),
                Phrase("All steps: {0}.", _list(everything)),
            ],
            body={"failed_only": False},
            harsh=True,
        )
    ]
    kept = _list(named[StepState.SUCCEEDED])
    repeated = [name for name in everything if name not in named[StepState.SUCCEEDED]]
    if run.state != RunState.SUCCEEDED and kept and repeated:
        found.insert(
            0,
            Order(
                key="rerun-failed",
                verb="rerun",
                needs="run",
                title=Phrase("Run again what failed"),
                effects=[
                    Phrase("Starts a new run with the same parameters."),
                    Phrase("Repeats: {0}.", _list(repeated)),
                    Phrase("Keeps the outputs of: {0}.", kept),
                ],
                body={"failed_only": True},
                harsh=True,
            ),
        )
    return found


def _list(names: Sequence[str]) -> str:
    """Return `a, b and 3 more`."""
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
