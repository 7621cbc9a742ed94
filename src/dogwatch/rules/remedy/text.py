"""A rule's own text, and the version that it makes: what is explained later is explained by the rule as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dogwatch.engine.action import Action
from dogwatch.engine.book.encode import encode, fields_of
from dogwatch.engine.spec import JobSpec, StepSpec

if TYPE_CHECKING:
    from dogwatch.rules.spec import RuleSpec


def text_of(spec: msgspec.Struct) -> str:
    """Return the JSON of a rule or of what else has a `do`, as configuration has it; defaults and secrets left out."""
    return msgspec.json.encode(_plain(spec), order="sorted").decode()


def version_of(text: str) -> str:
    """Return the name of a text: the beginning of its hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def action_plain(action: Action) -> dict[str, Any]:
    """Return an action as it is written: `{exec: {run: …}}`; {} where only its description came along."""
    if type(action) is Action:
        return {}
    found = msgspec.json.decode(encode(JobSpec(name="", steps=[StepSpec(name="a", action=action)])))
    options = found["steps"][0]["action"]
    return {options.pop("$action"): options}


def on_wire(spec: RuleSpec) -> dict[str, Any]:
    """Return a rule for a rehearsal elsewhere: what its actions do is said in words, and nothing else of them."""
    out: dict[str, Any] = msgspec.to_builtins(spec)
    for plain, step in zip(out["do"], spec.do, strict=True):
        plain["says"] = step.says or step.action.plan().summary[:200]
        plain["name"] = step.name
        plain["action"] = {}
        if plain["undo"] is not None:
            plain["undo"]["action"] = {}
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Action):
        return action_plain(value)
    if isinstance(value, msgspec.Struct):
        out: dict[str, Any] = {}
        for field in fields_of(type(value)):
            item = getattr(value, field.name)
            made = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
            if item == made:
                continue
            plain = _plain(item)
            # An action stands beside the other keys, under its kind.
            out.update(plain if isinstance(item, Action) else {field.encode_name: plain})
        return out
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return msgspec.to_builtins(value)
