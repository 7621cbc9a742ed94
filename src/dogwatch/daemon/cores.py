"""Memory of a daemon or a worker holds secrets: none of it is written down when it crashes."""

from __future__ import annotations

import resource


def no_core_dumps() -> None:
    """Let this process, and what it starts, leave no core files. A program that wants one can raise its limit again."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
