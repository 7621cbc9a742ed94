"""A saved plan: for every host the changes, the facts that they rest on, and what is decided only on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dogwatch.errors import UsageError
from dogwatch.fleet.operations.needs import AnyNeed
from dogwatch.fleet.operations.steps import AnyStep

FORMAT = 1
# Numbers of an operation's steps are index * this + 1, 2, …: they stay when others are decided on the way.
STEPS_EACH = 1000


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One operation on one host that changes something. at: its place among the host's tasks.

    later: the operation after whose change it can only be decided; then kind, fields, files and texts say what it is.
    notified_by: of a handler, the places of who notifies it. sure: one of these changes something for certain.
    """

    at: int
    name: str
    kind: str
    steps: tuple[AnyStep, ...] = ()
    later: str = ""
    fields: Mapping[str, Any] = {}
    files: Mapping[str, bytes] = {}
    texts: Mapping[str, str] = {}
    handler: bool = False
    notified_by: tuple[int, ...] = ()
    hide: bool = False

    def numbered(self) -> list[tuple[int, AnyStep]]:
        return [(self.at * STEPS_EACH + number, step) for number, step in enumerate(self.steps, 1)]


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed on one host. problems: why nothing can be. total: operations that hold for it.

    mark, seal: what the answer to its reads begins its parts with, and the digest of the whole answer. facts: key →
    digest of each. secrets: name → salted digest of every secret that stands in it.
    """

    host: str
    problems: tuple[str, ...] = ()
    total: int = 0
    mark: str = ""
    seal: str = ""
    needs: tuple[AnyNeed, ...] = ()
    facts: Mapping[str, str] = {}
    items: tuple[Item, ...] = ()
    secrets: Mapping[str, str] = {}

    @property
    def steps(self) -> int:
        return sum(len(item.steps) for item in self.items)

    @property
    def changes(self) -> bool:
        return bool(self.items)


class PlayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One play. batches, max_fail: as the playbook has them. probes: match and seconds. secrets: where they come from.

    unread: host → why it could not be read; it is no part of the plan.
    """

    name: str
    targets: str
    hosts: tuple[HostPlan, ...]
    unread: Mapping[str, str] = {}
    become: bool | None = None
    become_user: str = ""
    batches: str = ""
    max_fail: str = ""
    approval: bool = False
    probes: tuple[str, ...] = ()
    settle_s: float = 60.0
    secrets: Mapping[str, str] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan file. salt: of the digests of secrets. folder: what the secrets' files are relative to."""

    format: int = FORMAT
    plan_id: str
    made_at_s: float
    made_by: str
    playbook: str
    folder: str
    salt: str
    plays: tuple[PlayPlan, ...]

    @property
    def hosts(self) -> list[HostPlan]:
        return [host for play in self.plays for host in play.hosts]


def encoded(plan: Plan) -> bytes:
    return msgspec.json.encode(plan)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_plan(path: Path) -> tuple[Plan, str]:
    """Return the plan of a file, and the digest of the file. Raises: UsageError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{path} is not a plan: {error}", hint="`dogwatch fleet plan FILE -o PLAN` writes one"
        ) from None
    if plan.format != FORMAT:
        raise UsageError(f"{path} was written by another Dogwatch (format {plan.format})", hint="plan again")
    return plan, digest_of(data)
