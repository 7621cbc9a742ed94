"""Incidents and remedies in one step: first what is wrong is known, then what is done about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.rules.desk import Input, Setting, step
from dogwatch.rules.incident import Decisions, State
from dogwatch.rules.remedy.decide import Acts, Scene, react, relevant
from dogwatch.rules.remedy.values import Became, Result

# Actions that follow from each other at one time, in a rehearsal.
_MOST_REHEARSED = 20


def worth(setting: Setting, state: State, inputs: Sequence[Input]) -> list[Input]:
    """Return the inputs that can matter."""
    return [one for one in inputs if not isinstance(one, Became) or relevant(setting.remedies, state.remedy, one)]


def step_both(setting: Setting, state: State, inputs: Sequence[Input], now_s: float) -> tuple[State, Decisions]:
    """Return the next state and what follows, of both deciders."""
    state, decisions = step(setting, state, inputs, now_s)
    if not setting.remedies and not state.remedy.episodes:
        return state, decisions

    def frozen(targets: Sequence[str], labels: Mapping[str, str]) -> str:
        return next((one.spec.name for one in setting.freeze.on(now_s) if one.takes(targets, labels)), "")

    scene = Scene(
        now_s=now_s,
        clock_s=state.clock_s,
        alerts=state.alerts,
        incidents=state.incidents,
        frozen=frozen,
        rehearsed=setting.rehearsed,
    )
    events = [one for one in inputs if isinstance(one, Became | Result)]
    memory, acts = react(setting.remedies, state.remedy, scene, events)
    every, says = [decisions, _of(acts)], list(acts.says)
    for _ in range(_MOST_REHEARSED):
        if not setting.rehearsed or not acts.starts:
            break
        ended = [Result(key=start.key, ok=True) for start in acts.starts]
        memory, acts = react(setting.remedies, memory, scene, ended)
        every.append(_of(acts))
        says += acts.says
    state = msgspec.structs.replace(state, remedy=memory)
    if says:
        state, told = step(setting, state, says, now_s)
        every.append(told)
    return state, together(every)


def _of(acts: Acts) -> Decisions:
    return Decisions(notes=acts.notes, starts=acts.starts, releases=acts.releases, cancels=acts.cancels)


def together(every: Sequence[Decisions]) -> Decisions:
    """Return several steps' decisions as one."""
    if len(every) == 1:
        return every[0]
    return Decisions(
        notes=[note for one in every for note in one.notes],
        notices=[notice for one in every for notice in one.notices],
        ended=[incident for one in every for incident in one.ended],
        starts=[start for one in every for start in one.starts],
        releases=[release for one in every for release in one.releases],
        cancels=[cancel for one in every for cancel in one.cancels],
    )
