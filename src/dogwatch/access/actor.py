"""Who does something: a value that travels with every change to its audit event."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. kind: user, token, certificate, local (this machine's own socket or shell), schedule, webhook,
    rule, run, system.

    name: the user's or token's name, the schedule's, the run's id. address: from where, "" where there is none.
    """

    kind: str
    name: str
    address: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


SYSTEM = Actor(kind="system", name="dogwatch")


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """On what something is done: its noun ("run", "schedule", "probe"), its name or id, and the labels that decide
    who may see and change it (`team: shop`).
    """

    noun: str
    name: str
    labels: Mapping[str, str] = {}
