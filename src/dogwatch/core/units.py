"""Durations, sizes and shares as people write them: `30s`, `64MiB`, `25%`; and the field types that carry them."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

# The converter (config/) reads `unit` and accepts text; the value a component sees is always the base unit.
Seconds = Annotated[float, Meta(ge=0, extra={"unit": "duration"})]
Bytes = Annotated[int, Meta(ge=0, extra={"unit": "size"})]
Ratio = Annotated[float, Meta(ge=0, le=1, extra={"unit": "share"})]
# Never shown: not in `config show`, errors, pages, logs or the store.
Secret = Annotated[str, Meta(extra={"secret": True})]
# A CEL expression; the section's check compiles it, so that a mistake is a configuration error.
Expression = Annotated[str, Meta(extra={"cel": True})]

_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*((?:[kmgt]i?)?b)", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def parse_duration(text: str) -> float:
    """Return seconds for `500ms`, `30s`, `1h30m`, `7d`.

    Raises: ValueError with what is accepted.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"'{text}' is not a duration; write it as 500ms, 30s, 5m, 1h30m or 7d")
    return sum(float(number) * _DURATIONS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_size(text: str) -> int:
    """Return bytes for `512B`, `64KiB`, `10MB`.

    Raises: ValueError with what is accepted.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"'{text}' is not a size; write it as 512B, 64KiB, 10MB or 2GiB")
    return int(float(match[1]) * _SIZES[match[2].lower()])


def parse_share(text: str) -> float:
    """Return a ratio for `25%`.

    Raises: ValueError with what is accepted.
    """
    match = _SHARE.fullmatch(text)
    if not match:
        raise ValueError(f"'{text}' is not a share; write it as 25% or 0.25")
    return float(match[1]) / 100


def format_duration(seconds: float) -> str:
    """Return the shortest exact-enough text: `250ms`, `1.5s`, `5m`, `1h30m`, `2d4h`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def format_size(size_bytes: float) -> str:
    """Return `512 B`, `1.5 KiB`, `64 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} TiB"
