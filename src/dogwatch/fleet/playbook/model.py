"""A playbook as it is written: plays, operations, handlers. Values are still templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.fleet.rollout import Rollout


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One operation or handler. fields: as written. when: CEL. notify: names of handlers. each: done for each item.

    hide: its diffs are not shown.
    """

    name: str
    kind: str
    fields: Mapping[str, Any]
    file: str
    line: int
    when: str = ""
    notify: tuple[str, ...] = ()
    each: Any = None
    hide: bool = False


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes of a daemon must say after a batch.

    match: `label=value` words; `{{ host }}` is filled in.
    settle_s: how long they may take to be up.
    """

    match: tuple[str, ...]
    settle_s: float = 60.0


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """Operations for some hosts. hosts: a target expression. become, become_user: as whom, None as the inventory says.

    defaults: weaker than the inventory. vars: stronger. secrets: name → value, never shown. approval: somebody else
    must agree to the plan. uses_facts: something in it reads `facts`.
    """

    name: str
    hosts: str
    file: str
    line: int
    operations: tuple[Entry, ...]
    handlers: tuple[Entry, ...] = ()
    become: bool | None = None
    become_user: str = ""
    defaults: Mapping[str, Any] = {}
    vars: Mapping[str, Any] = {}
    secrets: Mapping[str, str] = {}
    rollout: Rollout = Rollout()
    batches: str = ""
    max_fail: str = ""
    approval: bool = False
    probes: Watched | None = None
    uses_facts: bool = False


class Playbook(msgspec.Struct, frozen=True, kw_only=True):
    """A file. folder: what the paths of its files are relative to. confined: it reads nothing outside of that."""

    file: str
    folder: Path
    plays: tuple[Play, ...]
    confined: bool = False
