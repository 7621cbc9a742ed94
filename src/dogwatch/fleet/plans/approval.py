"""Somebody agrees to a plan: a line beside it, for exactly this file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from dogwatch.errors import NotAllowed
from dogwatch.fleet.plans.plan import Plan


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """plan: digest of the file that was agreed to. by: who."""

    plan: str
    by: str
    at_s: float


def approve(path: Path, plan: Plan, digest: str, by: str, now_s: float) -> None:
    """Agree to a plan. Raises: NotAllowed where it is one's own."""
    if plan.made_by == by:
        raise NotAllowed(f"{by} made this plan, and cannot agree to it", hint="somebody else must")
    line = msgspec.json.encode(Approval(plan=digest, by=by, at_s=now_s)) + b"\n"
    descriptor = os.open(_file(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_approved(path: Path, plan: Plan, digest: str) -> str:
    """Return who agreed, "" where nobody need. Raises: NotAllowed."""
    if not any(play.approval for play in plan.plays):
        return ""
    try:
        lines = _file(path).read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        try:
            found = msgspec.json.decode(line, type=Approval)
        except msgspec.DecodeError:
            continue
        if found.plan == digest and found.by != plan.made_by:
            return found.by
    raise NotAllowed(
        "the playbook asks for approval, and nobody has agreed to this plan",
        hint=f"somebody else than {plan.made_by}: dogwatch fleet apply {path} --approve",
    )


def _file(path: Path) -> Path:
    return path.with_name(path.name + ".approved")
