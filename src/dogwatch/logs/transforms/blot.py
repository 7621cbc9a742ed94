"""Blotting patterns out of values, many values at a time."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from itertools import groupby, repeat
from operator import sub
from typing import Any

import msgspec

# The part before the @ has at most 64 characters by RFC 5321; without a bound, long runs would cost their square.
EMAIL = r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
# The same for Python's own engine, which need not try again: no part holds what ends it.
_EMAIL = r"[A-Za-z0-9._%+-]{1,64}+@[A-Za-z0-9-]++\.[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)*+"
_BETWEEN = "\0"
# In JSON: what follows the local part, unless the text that it is in is a name.
_EMAIL_END = re.compile(rb'@[A-Za-z0-9-]++\.[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)*+(?![^"\\]*+(?:\\.[^"\\]*+)*+"\s*:)')
_LOCAL = (string.ascii_letters + string.digits + "._%+-").encode()
# Escapes of what an address is made of. Others are written by many programs.
_ASCII_ESCAPE = re.compile(rb"\\u00(?:2[5bdeBDE]|3[0-9]|[4-7])")


class Blot:
    """One pattern and what stands in its place. Patterns run in RE2, in time linear in the text.

    needle: a character without which nothing is found, "" if there is none. seen: how many needles were looked at, of
    which nothing can be left but in the values they were in.
    """

    def __init__(self, pattern: str, mask: str | Callable[[re.Match[str]], str]) -> None:
        import re2

        # Python's own engine is many times faster where nearly every value has one; this pattern is bounded.
        self.needle = "@" if pattern == EMAIL else ""
        self.seen = 0
        self.pattern = pattern
        compiled = re.compile(_EMAIL) if self.needle else re2.compile(pattern)
        self._search: Callable[[str], object] = compiled.search
        self._mask = msgspec.json.encode(mask)[1:-1] if isinstance(mask, str) else None
        template = mask.replace("\\", "\\\\") if isinstance(mask, str) else mask
        self._sub: Callable[[str], str] = lambda text: compiled.sub(template, text)
        # Whatever is found in a value is found as well where it stands between others: of most patterns that is true.
        self._joins = bool(self.needle) or not re.search(r"(?<!\[)\^|\$|\\[AzZ]", pattern)

    @property
    def anywhere(self) -> bool:
        """Return whether it has no needle, and does not ask where a text begins or ends."""
        return self._joins and not self.needle

    def finds(self, text: str) -> bool:
        return self.needle in text if self.needle else self._search(text) is not None

    def together(self, values: list[str]) -> list[str] | None:
        """Return the changed values; None where nothing is to be changed. Raises: TypeError if one is no text."""
        joined = _BETWEEN.join(values)
        if not self._joins:
            changed = [self._sub(value) for value in values]
            return changed if changed != values else None
        if self.needle:
            self.seen += joined.count(self.needle)
        if not self.finds(joined):
            return None
        if self.needle and joined.count(_BETWEEN) == len(values) - 1:
            return self._sub(joined).split(_BETWEEN)
        return [self._sub(value) if self.finds(value) else value for value in values]

    def in_json(self, lines: bytes) -> bytes | None:
        """Return the lines changed in their texts, not in their names; None where this way that cannot be said."""
        escapes = b"\\" in lines
        if not self.needle:
            return lines if self._joins and not escapes and self._search(lines.decode()) is None else None
        if escapes and _ASCII_ESCAPE.search(lines):
            return None
        if b"@" not in lines:
            return lines
        return None if self._mask is None else _without_addresses(lines, self._mask, escapes=escapes)

    def one(self, value: str) -> str:
        return self._sub(value) if self.finds(value) else value


class Blots:
    """Several patterns, looked for together: where none is found, none is tried."""

    needle = ""
    seen = 0

    def __init__(self, blots: Sequence[Blot]) -> None:
        import re2

        self._blots = blots
        # Names of groups can be given once.
        joined = "|".join("(?:" + re.sub(r"\(\?P<\w+>", "(?:", one.pattern) + ")" for one in blots)
        self._search: Callable[[str], object] = re2.compile(joined).search

    def together(self, values: list[str]) -> list[str] | None:
        """Return the changed values; None where nothing is to be changed. Raises: TypeError if one is no text."""
        if self._search(_BETWEEN.join(values)) is None:
            return None
        return _texts(values, self._blots)

    def in_json(self, lines: bytes) -> bytes | None:
        """Return the lines where nothing is found in them."""
        return lines if b"\\" not in lines and self._search(lines.decode()) is None else None

    def one(self, value: str) -> str:
        for blot in self._blots:
            value = blot.one(value)
        return value


def grouped(blots: Sequence[Blot]) -> list[Blot | Blots]:
    """Return the same with those that stand side by side, and can be looked for together, as one."""
    found: list[Blot | Blots] = []
    for anywhere, some in groupby(blots, lambda blot: blot.anywhere):
        several = list(some)
        if anywhere and len(several) > 1:
            found.append(Blots(several))
        else:
            found += several
    return found


def _without_addresses(lines: bytes, mask: bytes, *, escapes: bool) -> bytes | None:
    """Cut at the ends of addresses, and take their beginnings off what is before them."""
    parts = _EMAIL_END.split(lines)
    last = parts.pop()
    if not parts:
        return lines
    heads = list(map(bytes.rstrip, parts, repeat(_LOCAL)))
    sizes = set(map(sub, map(len, parts), map(len, heads)))
    if min(sizes) < 1 or max(sizes) > 64:
        return None
    if escapes and any(map(bytes.endswith, heads, repeat(b"\\"))):
        # The first letter may belong to an escape.
        return None
    heads.append(last)
    return mask.join(heads)


def blot_out(column: list[Any], blots: Sequence[Blot | Blots]) -> list[Any] | None:
    """Return the values with the patterns blotted out, in lists and objects too; None where nothing was there."""
    try:
        return _texts(column, blots)
    except TypeError:
        kinds = set(map(type, column))
    if str not in kinds:
        return _deep(column, blots) if kinds & {dict, list} else None
    places = [at for at, value in enumerate(column) if value.__class__ is str]
    values = _texts([column[at] for at in places], blots)
    result = list(column)
    for at, value in zip(places, values or (), strict=values is not None):
        result[at] = value
    if kinds & {dict, list}:
        return _deep(result, blots)
    return None if values is None else result


def _texts(values: list[str], blots: Sequence[Blot | Blots]) -> list[str] | None:
    changed = False
    for blot in blots:
        if (found := blot.together(values)) is not None:
            values, changed = found, True
    return values if changed else None


def _deep(values: list[Any], blots: Sequence[Blot | Blots]) -> list[Any]:
    return [_blotted(value, blots) if isinstance(value, dict | list) else value for value in values]


def _blotted(value: Any, blots: Sequence[Blot | Blots]) -> Any:
    if isinstance(value, str):
        for blot in blots:
            value = blot.one(value)
        return value
    if isinstance(value, list):
        return [_blotted(one, blots) for one in value]
    if isinstance(value, dict):
        return {key: _blotted(one, blots) for key, one in value.items()}
    return value


def masking(mask: str, key: str, *, luhn: bool) -> str | Callable[[re.Match[str]], str]:
    """Return what stands in place of a match: the mask, or with a key the match's keyed hash, so that one value has one
    stand-in. What a group `keep` of the pattern took stays. luhn: numbers whose check digit is wrong stay as they are.
    """
    import hmac

    def replace(match: re.Match[str]) -> str:
        text, kept = match.group(), ""
        if luhn and not _luhn(text):
            return text
        if "keep" in match.re.groupindex:
            kept = match["keep"]
        if not key:
            return kept + mask
        return kept + hmac.digest(key.encode(), text.removeprefix(kept).encode(), "sha256").hex()[:16]

    return replace


def _luhn(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
