"""Every kind of need, so that a plan can say what it rests on."""

from __future__ import annotations

from typing import TypeAlias

from dogwatch.fleet.operations.accounts import GroupNeed, UserNeed
from dogwatch.fleet.operations.archive import MembersNeed
from dogwatch.fleet.operations.command import ExitNeed
from dogwatch.fleet.operations.cron import CrontabNeed
from dogwatch.fleet.operations.git import GitNeed
from dogwatch.fleet.operations.mount import MountNeed
from dogwatch.fleet.operations.package import PackagesNeed
from dogwatch.fleet.operations.paths import PathNeed
from dogwatch.fleet.operations.same import SameNeed
from dogwatch.fleet.operations.service import ServiceNeed
from dogwatch.fleet.operations.sshkey import KeysNeed
from dogwatch.fleet.operations.sysctl import SysctlNeed
from dogwatch.fleet.operations.who import WhoNeed

AnyNeed: TypeAlias = (
    PathNeed
    | WhoNeed
    | SameNeed
    | ExitNeed
    | PackagesNeed
    | ServiceNeed
    | UserNeed
    | GroupNeed
    | KeysNeed
    | CrontabNeed
    | SysctlNeed
    | MountNeed
    | GitNeed
    | MembersNeed
)
