"""What the self-watch found: a symptom, the evidence, and the cause where it is known."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fact. what: in words. The numbers where there are some: first and last value, growth per hour, span."""

    what: str
    first: float | None = None
    last: float | None = None
    per_hour: float | None = None
    span_s: float | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something is wrong, or will be.

    key: the same as long as it is the same trouble ("growth:task:Probe.run"). symptom: one sentence with numbers.
    cause: one sentence, "" where unknown. since_s: wall clock, when it was first found. active: False once, in the
    event that says that it is over.
    """

    key: str
    symptom: str
    evidence: Sequence[Evidence]
    cause: str = ""
    since_s: float = 0.0
    active: bool = True
