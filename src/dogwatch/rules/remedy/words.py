"""What people read of remedies, and the names of their runs. Pure."""

from __future__ import annotations

import hashlib
import re

from dogwatch.rules.remedy.values import Remedy, Step
from dogwatch.rules.watcher import Alert, Key

_KEY_CHARS = 400
_PARAMETER = re.compile(r"\{\{\s*params\.(target|incident)\s*\}\}")


def run_key(number: int, key: Key, step: int, attempt: int, *, undo: bool = False) -> str:
    """Return the key of an action: the same for the same attempt of the same step about the same incident, so that it
    is started once whatever crashes.
    """
    text = f"remedy/{number}/{key[0]}/{key[1]}/{step}/{attempt}{'/undo' if undo else ''}"
    if len(text) <= _KEY_CHARS:
        return text
    return text[:_KEY_CHARS] + hashlib.sha256(text.encode()).hexdigest()[:32]


def filled(text: str, key: Key, number: int) -> str:
    """Return a text about an action with the commonest of its templates filled in, for people."""
    if "{{" not in text:
        return text
    values = {"target": key[1], "incident": str(number)}
    return _PARAMETER.sub(lambda match: values[match[1]], text)


def plan(remedy: Remedy, step: Step, alert: Alert, why: str, left: str) -> str:
    """Return what would be done, or why it would not be now."""
    if why:
        return f"would {step.says} for {alert.group}, but not now: {why}"
    rest = len(remedy.steps) - 1
    scope = remedy.budget.scope
    if rest:
        return f"would {step.says} for {alert.group}, then up to {rest} more (budget {scope}: {left} left)"
    return f"would {step.says} for {alert.group} (budget {scope}: {left} left)"


def spent(remedy: Remedy, group: str) -> str:
    names = ", ".join(step.name for step in remedy.steps)
    return f"all has been tried for {group} without success: {names}"
