"""When alerts of others were out, as values that backtests take."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dogwatch.rules.topology import Node
from dogwatch.rules.watcher import Alert


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that was out. ended_s: None while it is."""

    alert: Alert
    begun_s: float
    ended_s: float | None = None


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a recorded time beside its results: what was watched, and what others said."""

    nodes: Sequence[Node]
    hosts: Sequence[str] = ()
    firings: Sequence[Firing] = ()
