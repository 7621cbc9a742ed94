"""cel-expr-python (cel-cpp) behind our interface: the reference for everything that is not compiled here.

Imported only when an expression needs it: it maps 6 MB.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dogwatch.expressions.cel_syntax import ConditionError
from dogwatch.expressions.cel_values import CelError

_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_ORDER = re.compile(r"overload for '_[<>]=?_' applied to '\((?:int|double|dyn), (?:int|double|dyn)\)'")
_CODE = re.compile(r"^[A-Z_]+: ")


def _module() -> Any:
    try:
        from cel_expr_python import cel
    except ImportError as error:
        raise ConditionError(
            "this expression needs cel-expr-python, which is not installed", hint="install dogwatch[watch]"
        ) from error
    return cel


def _environment(cel: Any, variables: Mapping[str, str], *, loose: bool) -> Any:
    types = {
        "int": cel.Type.INT,
        "double": cel.Type.DOUBLE,
        "string": cel.Type.STRING,
        "bool": cel.Type.BOOL,
        "list": cel.Type.LIST,
        "map": cel.Type.MAP,
        "dyn": cel.Type.DYN,
    }
    if loose:
        types["int"] = types["double"] = cel.Type.DYN
    return cel.NewEnv(variables={name: types[kind] for name, kind in variables.items()})


def _error(text: str, message: str) -> ConditionError:
    found = _PLACE.search(message)
    if not found:
        return ConditionError(_CODE.sub("", message.split("\n")[0]))
    lines = text.split("\n")
    line, column = int(found[1]), int(found[2])
    position = sum(len(part) + 1 for part in lines[: line - 1]) + max(0, column - 1)
    return ConditionError(found[3].replace(" (in container '')", ""), position=position)


def compile_reference(text: str, variables: Mapping[str, str]) -> tuple[Callable[[Mapping[str, Any]], Any], str]:
    """Return a function from values to the result, and the result's type as CEL names it ("BOOL").

    The function raises CelError. Raises: ConditionError.
    """
    cel = _module()
    try:
        program = _environment(cel, variables, loose=False).compile(text)
    except RuntimeError as error:
        # Kubernetes' CEL orders int against double; cel-cpp does so only where a type is dyn.
        if not _ORDER.search(str(error)):
            raise _error(text, str(error)) from None
        try:
            program = _environment(cel, variables, loose=True).compile(text)
        except RuntimeError:
            raise _error(text, str(error)) from None

    def run(values: Mapping[str, Any]) -> Any:
        # Only what is declared and plain: it refuses a tuple, a null of a typed variable is no value.
        data = {
            name: _plain(values[name])
            for name in variables
            if name in values and (values[name] is not None or variables[name] == "dyn")
        }
        try:
            value = program.eval(data=data)
        except RuntimeError as error:
            raise CelError(_CODE.sub("", str(error))) from None
        if value.type() == cel.Type.ERROR:
            raise CelError(_CODE.sub("", str(value.plain_value())))
        return value.plain_value()

    return run, str(program.return_type())


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def reference_matcher(pattern: str) -> Callable[[str], bool]:
    """Return RE2's search for a pattern.

    Raises: ConditionError for a pattern that RE2 refuses.
    """
    quoted = "".join(f"\\U{ord(char):08x}" for char in pattern)
    run, _kind = compile_reference(f'text.matches("{quoted}")', {"text": "string"})
    try:
        run({"text": ""})
    except CelError as error:
        raise ConditionError(str(error)) from None
    return lambda text: bool(run({"text": text}))
