"""Host ranges: `web[01:20]` and `[a:c]` as in Ansible, `web[01-20,25]` as in ClusterShell; and folding."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

LIMIT = 100_000
_PART = re.compile(r"(?P<first>\d+|[A-Za-z]|)(?:(?P<sign>[-:])(?P<last>\d+|[A-Za-z])(?:[:/](?P<step>\d+))?)?")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"[0-9A-Za-z,:/-]+")
_DIGITS = re.compile(r"(\d+)")


def has_range(text: str) -> bool:
    return any(is_range(inside) for inside in _BRACKETS.findall(text))


def is_range(inside: str) -> bool:
    """Return whether what stands in brackets is meant as a range, and not as an IPv6 address."""
    return bool(_RANGE.fullmatch(inside)) and inside.count(":") <= 2 * (inside.count(",") + 1) and "::" not in inside


def expand(text: str, *, limit: int = LIMIT) -> list[str]:
    """Return the names that a pattern with ranges stands for, in order; the text itself where it has none.

    Raises: ValueError saying what is wrong with it, or that it stands for more than `limit` names.
    """
    pieces: list[Sequence[str]] = []
    count = 1
    at = 0
    for match in _BRACKETS.finditer(text):
        if not is_range(match[1]):
            raise ValueError(f"'[{match[1]}]' is not a range; write [01-20], [1:9:2] or [a:c]")
        values = _values(match[1], limit)
        count *= len(values)
        if count > limit:
            raise ValueError(f"stands for more than {limit} names")
        pieces += [(text[at : match.start()],), values]
        at = match.end()
    rest = text[at:]
    if "[" in rest or "]" in rest:
        raise ValueError("a bracket is not closed")
    if not pieces:
        return [text]
    return ["".join(parts) for parts in itertools.product(*pieces, (rest,))]


def _values(inside: str, limit: int) -> list[str]:
    values: list[str] = []
    for part in inside.split(","):
        values += _part(part, limit)
    return list(dict.fromkeys(values))


def _part(part: str, limit: int) -> list[str]:
    match = _PART.fullmatch(part)
    if match is None or not part or (not match["first"] and not match["sign"]):
        raise ValueError(f"'{part}' is not a range; write 01-20, 1:9:2 or a:c")
    first, last = match["first"] or "0", match["last"] or match["first"]
    step = int(match["step"] or 1)
    if step < 1:
        raise ValueError(f"the step of '{part}' must be at least 1")
    if first.isdigit() != last.isdigit():
        raise ValueError(f"'{part}' goes from a number to a letter")
    if not first.isdigit():
        if first.islower() != last.islower():
            raise ValueError(f"'{part}' mixes small and capital letters")
        letters = range(ord(first), ord(last) + 1, step)
        return _some([chr(code) for code in letters], part)
    padded = len(first) > 1 and first.startswith("0")
    if padded and len(last) != len(first):
        raise ValueError(f"'{part}': with leading zeros both ends must have the same number of digits")
    if (int(last) - int(first)) // step >= limit:
        raise ValueError(f"'{part}' stands for more than {limit} names")
    width = len(first) if padded else 0
    return _some([str(number).zfill(width) for number in range(int(first), int(last) + 1, step)], part)


def _some(values: list[str], part: str) -> list[str]:
    if not values:
        raise ValueError(f"'{part}' ends before it begins")
    return values


def fold(names: Iterable[str]) -> str:
    """Return names as a person reads them: `web[01-03,07],db-1`; `expand` of each part gives them back.

    The number folded is the last one in which names differ from each other: `rack[1-2]-a`, not `rack1-a,rack2-a`.
    """
    rest = list(dict.fromkeys(names))
    order = {name: at for at, name in enumerate(rest)}
    out: list[tuple[int, str]] = []
    families: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in rest:
        for key, digits in _keys(name):
            families.setdefault(key, []).append((digits, name))
    taken: set[str] = set()
    for (before, after), members in sorted(families.items(), key=lambda item: (-len(item[1]), order[item[1][0][1]])):
        free = [(digits, name) for digits, name in members if name not in taken]
        if len(free) > 1:
            taken.update(name for _digits, name in free)
            inside = ",".join(_runs([digits for digits, _name in free]))
            out.append((min(order[name] for _digits, name in free), f"{before}[{inside}]{after}"))
    out += [(order[name], name) for name in rest if name not in taken]
    return ",".join(text for _at, text in sorted(out))


def _keys(name: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield each number of a name, the last first, with what stands around it. Names with brackets stay as they are."""
    if "[" in name or "]" in name or ":" in name:
        return
    pieces = _DIGITS.split(name)
    for at in range(len(pieces) - 2, 0, -2):
        if pieces[at].isascii():
            yield ("".join(pieces[:at]), "".join(pieces[at + 1 :])), pieces[at]


def _runs(digits: Sequence[str]) -> Iterator[str]:
    """Yield `01-03` and `07`. Numbers of different widths never share a run: `9-10` has no zeros, `09-10` has."""
    widths: dict[int, list[int]] = {}
    for text in digits:
        padded = len(text) > 1 and text.startswith("0")
        widths.setdefault(len(text) if padded else 0, []).append(int(text))
    # A number without leading zeros that is as wide as padded ones continues them: 08, 09, 10.
    plain = widths.pop(0, [])
    for width in sorted(widths):
        widths[width] += [number for number in plain if len(str(number)) == width]
        plain = [number for number in plain if len(str(number)) != width]
    if plain:
        widths[0] = plain
    for width, numbers in sorted(widths.items()):
        numbers.sort()
        start = last = numbers[0]
        for number in [*numbers[1:], None]:
            if number is not None and number == last + 1:
                last = number
                continue
            first = str(start).zfill(width)
            yield first if start == last else f"{first}-{str(last).zfill(width)}"
            if number is not None:
                start = last = number
