"""Regular expressions over what targets send: RE2, whose time grows only linearly, whatever the input.

Python's own `re` backtracks: 40 bytes from a hostile target can hold the event loop for minutes, and no bound on bytes
mends that. RE2's syntax is also what blackbox_exporter's users have written (docs/decisions/0026).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_MAX_PROGRAM_BYTES = 1024 * 1024
_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")


@lru_cache(maxsize=1024)
def pattern(text: str) -> Any:
    """Return the compiled expression; it takes str or bytes.

    Raises: ValueError saying what is wrong with it.
    """
    import re2

    options = re2.Options()
    options.max_mem = _MAX_PROGRAM_BYTES
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        why = error.args[0] if error.args else error
        raise ValueError(why.decode() if isinstance(why, bytes) else str(why)) from error


def matches(expression: str, subject: bytes | str) -> bool:
    """Return whether the expression matches somewhere in the subject."""
    return pattern(expression).search(subject) is not None


def pattern_faults(expression: str | None, *path: str | int) -> list[tuple[tuple[str | int, ...], str, str]]:
    """Return the fault of an option that holds a regular expression."""
    if expression is None:
        return []
    try:
        pattern(expression)
    except ValueError as error:
        return [(path, f"is not a regular expression: {error}", "RE2 syntax: no look-around, no backreferences")]
    return []


def expand(template: str, match: Any) -> str:
    """Return a template with `$1`, `${1}`, `${name}` replaced by a match's groups, `$$` by `$`.

    As blackbox_exporter does: a group that does not exist, or did not take part, is empty. match: or None.
    """

    def replace(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name = found[2] or found[3]
        if match is None:
            return ""
        try:
            group = match.group(int(name) if name.isdigit() else name)
        except (IndexError, KeyError):
            return ""
        return group.decode("utf-8", "replace") if isinstance(group, bytes) else group or ""

    return _REFERENCE.sub(replace, template)
