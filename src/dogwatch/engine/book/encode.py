"""Job definitions as JSON and back. Secrets stay out: their places are filled from the configuration again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from dogwatch.core.component import Registry
from dogwatch.engine.action import Action
from dogwatch.engine.spec import JobSpec, StepSpec
from dogwatch.errors import PermanentError

S = TypeVar("S", bound=msgspec.Struct)
# Names the kind of an action among its options; no option is written so.
_KIND = "$action"


def encode(spec: JobSpec) -> bytes:
    """Return the definition, the same bytes for the same job. What is a secret is left out."""
    return msgspec.json.encode(_plain(spec), order="sorted")


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        hidden = _secret_fields(type(value))
        out = {
            field.name: _plain(item)
            for field in fields_of(type(value))
            if field.name not in hidden and not _is_default(field, item := getattr(value, field.name))
        }
        if isinstance(value, JobSpec):
            out["secrets"] = dict.fromkeys(value.secrets, "")
        if isinstance(value, Action):
            out[_KIND] = value.kind
        return out
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return msgspec.to_builtins(value)


@lru_cache(maxsize=1024)
def fields_of(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return a struct's fields. msgspec resolves annotations anew each time, which thousands of jobs would feel."""
    return msgspec.structs.fields(kind)


def _is_default(field: msgspec.structs.FieldInfo, value: object) -> bool:
    if field.default is not msgspec.NODEFAULT:
        return type(value) is type(field.default) and value == field.default
    if field.default_factory is not msgspec.NODEFAULT:
        made = field.default_factory()
        return type(value) is type(made) and bool(value == made)
    return False


@lru_cache(maxsize=1024)
def _secret_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    """Return the fields of the struct that hold a secret and nothing else (`token: Secret | None`)."""
    if kind is JobSpec:
        return frozenset()
    return frozenset(field.name for field in fields_of(kind) if not field.required and _is_secret(field.type))


def _is_secret(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return any(isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("secret") for meta in hint.__metadata__)
    return any(_is_secret(part) for part in get_args(hint))


class Decoder:
    """Reads definitions. actions: every kind that this program has."""

    def __init__(self, actions: Registry[Action]) -> None:
        self._actions = actions

    def decode(self, body: bytes) -> JobSpec:
        """Raises: PermanentError for a definition that this program cannot read (a kind that is gone)."""
        try:
            return self._struct(JobSpec, msgspec.json.decode(body))
        except (msgspec.ValidationError, TypeError) as error:
            raise PermanentError(f"the run's definition cannot be read by this Dogwatch: {error}") from error

    def _struct(self, kind: type[S], data: Mapping[str, Any]) -> S:
        hints = get_type_hints(kind, include_extras=True)
        values = {name: self._value(hints[name], item) for name, item in data.items() if name in hints}
        return kind(**values)

    def _action(self, data: Mapping[str, Any]) -> Action:
        name = str(data.get(_KIND, ""))
        kind = self._actions.find(name)
        if kind is None:
            raise PermanentError(f"the run's definition has a step of kind '{name}', which this Dogwatch has not")
        return self._struct(kind, data)

    def _value(self, hint: Any, data: Any) -> Any:
        parts = _parts(hint)
        if not isinstance(data, dict | list) or not _may_hold_action(hint):
            # Written by an older Dogwatch, a definition may have what is checked more strictly by now.
            return msgspec.convert(data, hint, strict=False)
        if isinstance(data, list):
            inner = (get_args(_without(hint, list)) or (Any,))[0]
            made = [self._value(inner, item) for item in data]
            return tuple(made) if get_origin(_without(hint, tuple)) is tuple else made
        if any(map(_is_action, parts)):
            return self._action(data)
        struct = next((part for part in parts if _is_struct(part)), None)
        if struct is not None:
            return self._struct(struct, data)
        inner = (get_args(_without(hint, dict)) or (Any, Any))[-1]
        return {key: self._value(inner, item) for key, item in data.items()}


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _is_action(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Action)


@lru_cache(maxsize=1024)
def _may_hold_action(hint: Any) -> bool:
    """Return whether the type has a place for actions; what users write as JSON has none, whatever its keys are."""
    return _reaches_action(hint, set())


def _reaches_action(hint: Any, seen: set[Any]) -> bool:
    for part in _parts(hint):
        if _is_action(part):
            return True
        if _is_struct(part) and part not in seen:
            seen.add(part)
            below = get_type_hints(part, include_extras=True)
            if any(_reaches_action(below[field.name], seen) for field in msgspec.structs.fields(part)):
                return True
        if any(_reaches_action(one, seen) for one in get_args(part)):
            return True
    return False


def _parts(hint: Any) -> list[Any]:
    """Return what a hint may be: the members of a union, without their annotations."""
    if get_origin(hint) is Annotated:
        return _parts(hint.__origin__)
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        return [part for one in get_args(hint) for part in _parts(one)]
    return [hint]


def _without(hint: Any, wanted: type) -> Any:
    """Return the member of a union that is a container of this sort."""
    for part in _parts(hint):
        origin = get_origin(part)
        if isinstance(origin, type) and (issubclass(origin, wanted) or issubclass(origin, Mapping) == (wanted is dict)):
            return part
    return hint


def refill(spec: JobSpec, current: JobSpec | None) -> JobSpec:
    """Return a definition with the secrets that the configuration has now in the same places.

    current: the job of that name in force; None where there is none any more.
    """
    if current is None:
        return spec
    by_name = {step.name: step for step in current.steps}
    steps = [_refilled(step, by_name.get(step.name)) for step in spec.steps]
    return msgspec.structs.replace(spec, steps=steps)


def _refilled(step: StepSpec, now: StepSpec | None) -> StepSpec:
    if now is None or type(now.action) is not type(step.action):
        return step
    return msgspec.structs.replace(step, action=_copied(step.action, now.action))


def _copied(old: S, now: S) -> S:
    """Return old with the secret fields of now, also of structs inside it."""
    changes: dict[str, Any] = {name: getattr(now, name) for name in _secret_fields(type(old))}
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(now, field.name)
        if isinstance(before, msgspec.Struct) and type(before) is type(after):
            changes[field.name] = _copied(before, after)
    return msgspec.structs.replace(old, **changes) if changes else old
