"""What the engine is told when it is made."""

from __future__ import annotations

import msgspec

from dogwatch.probes.engine.resolver import ResolverFiles


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """limit: attempts at the same time; None takes three quarters of the descriptor limit, at most 8,192.

    queue_limit: attempts that may wait for a slot; more end at once. tls: standard, pyopenssl, or auto (the faster
    one that is installed). Descriptor limits are read when the engine opens.
    """

    limit: int | None = None
    queue_limit: int = 20_000
    tls: str = "auto"
    resolver: ResolverFiles = ResolverFiles()
