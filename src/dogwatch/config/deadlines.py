"""How long a reload and the plan of one may take."""

from __future__ import annotations

import msgspec


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """How long each phase of a reload may take in all, seconds. stop_s: also for undoing what was started."""

    load_s: float = 30.0
    build_s: float = 30.0
    start_s: float = 30.0
    stop_s: float = 30.0
