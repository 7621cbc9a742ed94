"""Metric families and the Prometheus text format, version 0.0.4.

Own code, not prometheus-client: series text is rendered once by its owner and kept, so that a scrape of 50,000
series does not hold the event loop (docs/decisions/0003).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class Family(msgspec.Struct, frozen=True):
    """One metric. kind: gauge, counter, histogram, untyped. series: (`name{label="value"}`, value) pairs."""

    name: str
    kind: str
    help: str
    series: Iterable[tuple[str, float]]


class Counter:
    """A number that only grows. Not locked: owned by one thread."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return `name{a="b"}`, escaped; keep it, it does not change."""
    if not labels:
        return name
    pairs = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
    return f"{name}{{{pairs}}}"


def number(value: float) -> str:
    """Return a sample value as the format wants it."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def render(families: Iterable[Family]) -> str:
    """Return the exposition of families. Families with no series are left out."""
    out: list[str] = []
    for family in families:
        lines = [f"{text} {number(value)}" for text, value in family.series]
        if lines:
            out.append(f"# HELP {family.name} {family.help}")
            out.append(f"# TYPE {family.name} {family.kind}")
            out.extend(lines)
    out.append("")
    return "\n".join(out)
