"""Every kind of need, so that a plan can say what it rests on."""

from __future__ import annotations

from typing import TypeAlias

from dogwatch.fleet.operations.command import ExitNeed
from dogwatch.fleet.operations.paths import PathNeed
from dogwatch.fleet.operations.same import SameNeed
from dogwatch.fleet.operations.who import WhoNeed

AnyNeed: TypeAlias = PathNeed | WhoNeed | SameNeed | ExitNeed
