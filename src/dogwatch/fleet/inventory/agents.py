"""Hosts on which a worker of Dogwatch runs, or ran: its registry knows them without anybody writing them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dogwatch.fleet.inventory.draft import Draft, Place, Setting, name_fault, shown

LOST = "lost"


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker tells of its machine. host: as it calls itself. state: active, draining, lost."""

    host: str
    state: str
    labels: Mapping[str, str] = {}
    heartbeat_s: float = 0.0
    version: str = ""


def fill(agents: Sequence[Agent], draft: Draft, place: Place, *, group: str, lost: bool) -> None:
    """Put hosts into a draft: each once, in a group. Of several workers on one, who was heard of last counts.

    lost: also hosts of which nothing is heard any more; they are lost where all of their workers are.
    """
    alive = {one.host for one in agents if one.state != LOST}
    for one in sorted(agents, key=lambda agent: (agent.state != LOST, agent.heartbeat_s)):
        if one.host not in alive and not lost:
            continue
        fault = name_fault(one.host)
        if fault:
            # One machine with a strange name must not cost all others.
            draft.warn(place, f"{shown(one.host)} cannot be the name of a host: {fault}")
            continue
        host = draft.host(one.host, place)
        assert host is not None
        draft.group(group, place).hosts.setdefault(one.host, place)
        host.labels.update({name: Setting(value, place) for name, value in one.labels.items()})
        values = {"dogwatch_agent_state": one.state, "dogwatch_agent_version": one.version}
        host.vars.update({name: Setting(value, place) for name, value in values.items()})
