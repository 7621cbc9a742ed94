"""Parameters of jobs: what their definitions must be, and what a run may be started with."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.config.section import Fault, Path
from dogwatch.core.component import nearest
from dogwatch.engine.spec import JobSpec, Parameter
from dogwatch.engine.values import Json
from dogwatch.errors import UsageError
from dogwatch.expressions.cel_regex import matcher
from dogwatch.expressions.cel_syntax import INT_MAX, INT_MIN, ConditionError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
_SHOWN_CHARS = 60
_NOUNS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "list": "a list",
    "map": "a map",
}
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


def is_required(parameter: Parameter) -> bool:
    """Return whether a run cannot be started without it."""
    return parameter.default is None if parameter.required is None else parameter.required


# -- definitions -----------------------------------------------------------------------------------------------------


def parameter_faults(parameter: Parameter, path: Path) -> Iterator[Fault]:
    """Find what is wrong with a parameter as it is defined."""
    default = parameter.default
    yield from _bound_faults(parameter, path)
    for at, choice in enumerate(parameter.choices):
        wrong = _type_mistake(parameter.type, choice)
        if wrong:
            yield Fault((*path, "choices", at), wrong)
    if parameter.required and default is not None:
        yield Fault((*path, "required"), "is required and has a default", "leave one of the two out")
    if default is None:
        return
    wrong = _type_mistake(parameter.type, default)
    if wrong:
        yield Fault((*path, "default"), wrong)
    elif (mistake := _rule_mistake(parameter, default)) is not None:
        yield Fault((*path, "default"), mistake[0], mistake[1])
    if parameter.secret:
        yield Fault((*path, "default"), "a secret must not stand in the configuration", "use the job's secrets")


def _bound_faults(parameter: Parameter, path: Path) -> Iterator[Fault]:
    if parameter.pattern:
        if parameter.type != "string":
            yield Fault((*path, "pattern"), f"only text has a pattern, and the type is {parameter.type}")
        try:
            # By itself, too: `a)(b` is none, and would be one inside of parentheses.
            for pattern in (parameter.pattern, f"^({parameter.pattern})$"):
                matcher(pattern)
        except ConditionError as error:
            why = str(error).removeprefix("invalid regular expression: ")
            hint = "RE2 syntax: no look-around, no backreferences"
            yield Fault((*path, "pattern"), f"is not a regular expression: {why}", hint)
    for name, bound in (("min", parameter.min), ("max", parameter.max)):
        if bound is not None and parameter.type not in ("integer", "number"):
            yield Fault((*path, name), f"only numbers have bounds, and the type is {parameter.type}")
    if parameter.min is not None and parameter.max is not None and parameter.min > parameter.max:
        yield Fault((*path, "min"), f"is more than max ({parameter.max:g})")


# -- values ----------------------------------------------------------------------------------------------------------


def check_parameters(job: JobSpec, given: Mapping[str, Json]) -> dict[str, Json]:
    """Return the value of every parameter: given, else its default, else null, in the order of the job.

    Raises: UsageError with every mistake, a line each; values of secrets are not shown.
    """
    mistakes: list[tuple[str, str]] = [
        (f"job {job.name} has no parameter '{name[:_SHOWN_CHARS]}'", nearest(name[:100], list(job.parameters)))
        for name in given
        if name not in job.parameters
    ]
    values: dict[str, Json] = {}
    for name, parameter in job.parameters.items():
        value = given.get(name)
        if value is None:
            values[name] = parameter.default
            if is_required(parameter):
                mistakes.append((f"{name} is missing: {_wanted(parameter)}", _example(parameter, name)))
            continue
        values[name] = value
        mistake = mistake_of(parameter, value)
        if mistake is not None:
            mistakes.append((f"{name}: {mistake[0]}", mistake[1]))
    if not mistakes and (size := _size(values)) > MAX_BYTES:
        mistakes.append((f"the parameters have {size} bytes; at most {MAX_BYTES}", "pass the name of a file instead"))
    if mistakes:
        raise UsageError("\n".join(message for message, _ in mistakes), hint=next((h for _, h in mistakes if h), ""))
    return values


def parameter_mistakes(job: JobSpec, given: Mapping[str, Json]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, message, hint) of every parameter that a start with these would be refused for."""
    for name in given:
        if name not in job.parameters:
            yield name, f"the job '{job.name}' has no parameter '{name}'", nearest(name[:100], list(job.parameters))
    for name, parameter in job.parameters.items():
        if given.get(name) is None:
            if is_required(parameter):
                yield name, f"the job '{job.name}' needs the parameter '{name}'", "write it below parameters"
        elif (mistake := mistake_of(parameter, given[name])) is not None:
            yield name, mistake[0], mistake[1]


def read_text(kind: str, text: str) -> Json:
    """Return what a text of a command line or a form means for a parameter's type: `3`, `true`, JSON; lists of plain
    words may be written with commas. What cannot be read stays text, and check_parameters says what is wrong with it.
    """
    stripped = text.strip()
    match kind:
        case "integer" if _INTEGER.fullmatch(stripped) and len(text) < 30:
            return int(stripped)
        case "number" if (number := _number(stripped)) is not None:
            return number
        case "boolean" if stripped.lower() in _BOOLEANS:
            return _BOOLEANS[stripped.lower()]
        case "list" if not stripped.startswith("["):
            return [word.strip() for word in stripped.split(",")] if stripped else []
        case "list" | "map":
            try:
                return msgspec.json.decode(stripped)
            except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
                return text
    return text


def mistake_of(parameter: Parameter, value: Json) -> tuple[str, str] | None:
    """Return (message, hint) for a value that the parameter does not take, None for one that it does."""
    wrong = _type_mistake(parameter.type, value, shown="" if parameter.secret else None)
    return (wrong, "") if wrong else _rule_mistake(parameter, value)


def hidden_values(job: JobSpec, parameters: Mapping[str, Json]) -> Iterator[str]:
    """Yield every text inside of the values of secret parameters, to be masked."""
    for name, parameter in job.parameters.items():
        if parameter.secret:
            yield from leaves(parameters.get(name))


def shown_parameters(job: JobSpec, parameters: Mapping[str, Json], mask: str = "***") -> dict[str, Json]:
    """Return the values as people may see them and as they are stored: secret ones masked."""
    secret = {name for name, parameter in job.parameters.items() if parameter.secret}
    return {name: mask if name in secret and value is not None else value for name, value in parameters.items()}


def leaves(value: Json) -> Iterator[str]:
    """Yield every text inside of a value, numbers as text."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _number(text: str) -> int | float | None:
    if _INTEGER.fullmatch(text) and len(text) < 30:
        return int(text)
    try:
        value = float(text) if len(text) < 60 and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _wanted(parameter: Parameter) -> str:
    noun = _NOUNS[parameter.type]
    if parameter.choices and not parameter.secret:
        return f"one of {', '.join(_plain(choice) for choice in parameter.choices[:10])}"
    return f"{noun}, {parameter.doc}" if parameter.doc else noun


def _example(parameter: Parameter, name: str) -> str:
    sample = {"integer": "3", "number": "0.5", "boolean": "true", "list": "[…]", "map": "{…}"}
    value = _plain(parameter.choices[0]) if parameter.choices else sample.get(parameter.type, "…")
    return f"give {name}={value}"


def _plain(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown(parameter: Parameter, value: Json) -> str:
    if parameter.secret:
        return "something else"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "list":
            return isinstance(value, list | tuple)
    return isinstance(value, Mapping)


def _type_mistake(kind: str, value: Json, shown: str | None = None) -> str:
    if _is(kind, value):
        return _unfit(value)
    text = json.dumps(value, ensure_ascii=False, default=str) if shown is None else "something else"
    return f"expected {_NOUNS[kind]}, found {text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '…'}"


def _unfit(value: Json, depth: int = 0) -> str:
    """Return why a value of the right type cannot be used all the same, "" where it can."""
    if depth > MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH} levels"
    match value:
        case str():
            if "\0" in value:
                return "contains the character NUL"
            return "" if value.isascii() or _encodable(value) else "is not proper Unicode text"
        case bool() | None:
            return ""
        case int():
            return "" if INT_MIN <= value <= INT_MAX else "is beyond 64 bits"
        case float():
            return "" if math.isfinite(value) else "is not a finite number"
        case Mapping():
            wrong = (_unfit(key) if isinstance(key, str) else "has a name that is no text" for key in value)
            return next((one for one in wrong if one), "") or _first_unfit(list(value.values()), depth)
        case list() | tuple():
            return _first_unfit(value, depth)
    return f"cannot hold {type(value).__name__}"


def _first_unfit(values: Sequence[Json], depth: int) -> str:
    return next((wrong for value in values if (wrong := _unfit(value, depth + 1))), "")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rule_mistake(parameter: Parameter, value: Json) -> tuple[str, str] | None:
    """Return what choices, pattern and bounds have against a value of the right type."""
    if parameter.choices and value not in parameter.choices:
        words = [_plain(choice) for choice in parameter.choices]
        hint = "" if parameter.secret else nearest(_plain(value)[:100], words)
        return f"{_shown(parameter, value)} is none of the choices", hint
    if parameter.pattern and isinstance(value, str) and not _matches(parameter.pattern, value):
        return f"{_shown(parameter, value)} does not match {parameter.pattern}", ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if parameter.min is not None and value < parameter.min:
            return f"{_shown(parameter, value)} is less than {parameter.min:g}", ""
        if parameter.max is not None and value > parameter.max:
            return f"{_shown(parameter, value)} is more than {parameter.max:g}", ""
    return None


def _matches(pattern: str, value: str) -> bool:
    try:
        return bool(matcher(f"^({pattern})$")(value))
    except ConditionError:
        # Told where the pattern is defined.
        return True


def _size(values: Mapping[str, Json]) -> int:
    try:
        return len(msgspec.json.encode(values))
    except (TypeError, ValueError, RecursionError):
        return MAX_BYTES + 1
