"""Regular expressions of conditions: RE2's meaning, and never more than linear time in the text.

A pattern without unbounded repetition means the same to Python's `re` and cannot run away, so it is used for those,
and for `"ok":\\s*true`: a repeated class between two characters that it does not contain, where no stretch of text is
looked at twice. Every other goes to RE2 inside the reference implementation, which costs 100 times as much.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dogwatch.expressions.cel_reference import reference_matcher

# Returns something true where the text holds the pattern.
Search = Callable[[str], object]
# Literals, ".", escaped punctuation, simple classes, \d \w \s, anchors, "?", groups without repetition, "|".
_SAFE = re.compile(
    r"""(?:
        [A-Za-z0-9 _<>=@%&~#"'!,:;/-]
      | [^\x00-\x7f]
      | \.
      | \\[.\-/+*?()\[\]{}|^$\\"]
      | \\[dws]
      | \[\^?(?:[A-Za-z0-9 _.,:;/@%=+*]|[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9])+\]
      )\??
      | [(|)^$]
    """,
    re.VERBOSE,
)
# A character that stands for itself, then a class repeated without bound, then another such character.
_LITERAL = r"""([A-Za-z0-9_<>=@%&~#"'!,:;/-]|\\[.\-/+*?()\[\]{}|^$\\"])"""
_BETWEEN = re.compile(rf"{_LITERAL}(\\[dws]|[ ])[*+](?={_LITERAL})(?!.[?*+{{])")
# RE2's \s does not contain the vertical tab, Python's does.
_CLASSES = {r"\s": r"[\t\n\f\r ]"}


def _repeats_safely(between: re.Match[str]) -> bool:
    """Return whether neither neighbour is of the repeated class, so that a stretch is entered and left one way."""
    members = re.compile(between[2], re.ASCII)
    return not any(members.fullmatch(between[side][-1]) for side in (1, 3))


def _is_safe(pattern: str) -> bool:
    at = depth = 0
    while at < len(pattern):
        between = _BETWEEN.match(pattern, at)
        if between is not None and _repeats_safely(between):
            at = between.end()
            continue
        match = _SAFE.match(pattern, at)
        if match is None:
            return False
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        at = match.end()
        # A group that may be left out, or an empty branch: rare, and RE2 reads them its own way.
        if depth < 0 or pattern[at : at + 1] in ("?", "*", "+", "{"):
            return False
    return depth == 0 and pattern.count("?") <= 8


def matcher(pattern: str) -> Search:
    """Return a search for a constant pattern.

    Raises: ConditionError for a pattern that RE2 refuses.
    """
    if not _is_safe(pattern):
        return reference_matcher(pattern)
    # RE2's $ is the very end of the text, Python's also stands before a final newline.
    return re.compile(_python(pattern), re.ASCII).search


def _python(pattern: str) -> str:
    """Return a pattern of the safe kind as Python writes it."""
    out = []
    at = 0
    while at < len(pattern):
        step = 2 if pattern[at] == "\\" else 1
        part = pattern[at : at + step]
        out.append(r"\Z" if part == "$" else _CLASSES.get(part, part))
        at += step
    return "".join(out)
