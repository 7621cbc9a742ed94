"""What others say of targets, as signals: whether alerts of theirs about a target are out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dogwatch.core.values import Signal, Value

PATH = "alert.firing"


class Board:
    """Keeps which alerts of others are out, by what they are about."""

    def __init__(self) -> None:
        # Target → (name, with and without who raised it) → the alerts of that name that are out.
        self._out: dict[str, dict[str, set[tuple[str, str]]]] = {}

    def tell(
        self, target: str, rule: str, group: str, labels: Mapping[str, str], *, firing: bool, now_s: float
    ) -> Signal | None:
        """Take what somebody says; return what is another value now, None where nothing is."""
        known = self._out.setdefault(target, {})
        before = _values(known)
        for name in (rule, rule.partition(":")[2] or rule):
            groups = known.setdefault(name, set())
            (groups.add if firing else groups.discard)((rule, group))
        after = _values(known)
        changed: dict[str, Value] = {name: value for name, value in after.items() if before.get(name) != value}
        if not any(known.values()):
            del self._out[target]
        if not changed:
            return None
        return Signal(source="alert", target=target, time_s=round(now_s, 3), values=changed, labels=labels)


def _values(known: Mapping[str, set[tuple[str, str]]]) -> dict[str, Value]:
    found: dict[str, Value] = {f'{PATH}["{name}"]': bool(groups) for name, groups in known.items()}
    return {**found, PATH: any(known.values())}
