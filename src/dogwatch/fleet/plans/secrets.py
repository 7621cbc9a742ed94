"""Secrets in plans: the file holds their names in the place of their values, and digests to tell that they moved."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.engine.masks import MASK, Masker
from dogwatch.errors import Conflict
from dogwatch.fleet.plans.plan import HostPlan

# A value may stand within quotes within quotes: a script that a shell hands to a shell.
_NESTINGS = 4
_SHORTEST_CHARS = 4
_SHOWN = ("title", "diff")
# What says what a step is, whatever a secret happens to be.
_KEPT = ("do", "need", "kind", "before", "effects")


def sealed(plan: HostPlan, secrets: Mapping[str, str], salt: str, masked: Sequence[str] = ()) -> HostPlan:
    """Return the plan with names in the place of secrets, and diffs without them. masked: values that nothing can be
    asked for again when it is applied: they stay in what is done, and are not in what is shown.
    """
    known = {name: value for name, value in secrets.items() if len(value) >= _SHORTEST_CHARS}
    if not known and not masked:
        return plan
    forms = sorted(
        ((form, f"\0secret:{name}:{depth}\0") for name, value in known.items() for depth, form in _forms(value)),
        key=lambda one: -len(one[0]),
    )
    used: set[str] = set()

    def seal(text: str) -> str:
        for form, mark in forms:
            if form in text:
                text = text.replace(form, mark)
                used.add(mark.split(":")[1])
        return text

    masker = Masker([*known.values(), *masked])
    shown = msgspec.structs.replace(
        plan,
        problems=tuple(map(masker.mask, plan.problems)),
        items=tuple(
            msgspec.structs.replace(item, name=masker.mask(item.name), later=masker.mask(item.later))
            for item in plan.items
        ),
    )
    sealed_plan = _changed(shown, seal, lambda text: _masked(text, masker))
    return msgspec.structs.replace(sealed_plan, secrets={name: _digest(secrets[name], salt) for name in sorted(used)})


def opened(plan: HostPlan, secrets: Mapping[str, str], salt: str) -> HostPlan:
    """Return the plan with the secrets in it. Raises: Conflict where one is another than when it was made."""
    if not plan.secrets:
        return plan
    for name, digest in plan.secrets.items():
        if name not in secrets or _digest(secrets[name], salt) != digest:
            what = "is another" if name in secrets else "is not there any more"
            raise Conflict(f"secret '{name}' {what} since the plan was made", hint="plan again")
    marks = {f"\0secret:{name}:{depth}\0": form for name in plan.secrets for depth, form in _forms(secrets[name])}

    def unseal(text: str) -> str:
        if "\0secret:" in text:
            for mark, form in marks.items():
                text = text.replace(mark, form)
        return text

    return _changed(plan, unseal, lambda text: text)


def _changed(plan: HostPlan, change: Callable[[str], str], show: Callable[[str], str]) -> HostPlan:
    """Return the plan with other text where secrets may stand: in what is done and what is asked, not in names."""
    plain = msgspec.to_builtins(plan, builtin_types=(bytes,))
    for key in ("items", "needs"):
        plain[key] = _walked(plain[key], change, show)
    return msgspec.convert(plain, HostPlan)


def _forms(value: str) -> list[tuple[int, str]]:
    """Return the value as it stands, and as it stands within quotes of sh; each once."""
    found = [(0, value)]
    form = value
    for depth in range(1, _NESTINGS + 1):
        form = shlex.quote(f" {form}")[2:-1]
        if form != found[-1][1]:
            found.append((depth, form))
    return found


def _walked(value: Any, change: Callable[[str], str], show: Callable[[str], str], key: str = "") -> Any:
    if isinstance(value, str):
        return show(value) if key in _SHOWN else change(value)
    if isinstance(value, bytes):
        return change(value.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    if isinstance(value, dict):
        return {name: below if name in _KEPT else _walked(below, change, show, name) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_walked(below, change, show, key) for below in value]
    return value


def _masked(text: str, masker: Masker) -> str:
    """Return a diff without secrets; where a new line holds one, the old line beside it held one, too."""
    masked = masker.mask(text)
    if MASK not in masked or masked == text:
        return masked
    lines = masked.split("\n")
    for at, line in enumerate(lines):
        if line.startswith("+") and MASK in line:
            back = at - 1
            while back >= 0 and lines[back].startswith(("-", "+")):
                if lines[back].startswith("-"):
                    lines[back] = f"-{MASK}"
                back -= 1
    return "\n".join(lines)


def _digest(value: str, salt: str) -> str:
    return hashlib.scrypt(value.encode(), salt=salt.encode(), n=1024, r=8, p=1, dklen=16).hex()
