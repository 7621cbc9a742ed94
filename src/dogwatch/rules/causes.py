"""Which of the alerts that are out is the cause of which. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dogwatch.rules.topology import Topology
from dogwatch.rules.watcher import Alert


def named(alert: Alert) -> str:
    """Return as what an alert is a cause: its target, or its group where it is about several."""
    return alert.targets[0] if alert.targets == (alert.group,) else alert.group


class Causes:
    """Answers for one set of alerts.

    A target's cause is what it depends on, as far up as something is wrong there. What has nothing wrong above it is
    a cause itself: nothing can hide it. Targets in a circle are each their own.
    """

    def __init__(self, topology: Topology, alerts: Iterable[Alert]) -> None:
        self._topology = topology
        # Target → the root that it stands for: itself, or the group of an alert over several.
        self._wrong: dict[str, str] = {}
        self._roots: dict[str, str | None] = {}
        alerts = list(alerts)
        for alert in alerts:
            for target in alert.targets:
                if named(alert) == target:
                    self._wrong[target] = target
                else:
                    self._wrong.setdefault(target, named(alert))

    def root(self, alert: Alert) -> str:
        """Return the cause of an alert; its own name where it is one."""
        own = named(alert)
        found = [self._above(target) for target in alert.targets]
        # A group is explained only where each of its targets is.
        if not found or any(one is None or one == own for one in found):
            return own
        return min(one for one in found if one is not None)

    def _above(self, target: str) -> str | None:
        """Return the topmost wrong thing above a target; None where there is nothing."""
        if target not in self._roots:
            wrong = [one for one in self._topology.above(target) if one in self._wrong]
            tops = [one for one in wrong if not any(up in self._wrong for up in self._topology.above(one))]
            self._roots[target] = self._wrong[tops[0]] if tops else None
        return self._roots[target]
