"""How many files may be open at once."""

from __future__ import annotations

import contextlib
import resource

# What systemd gives a service by default; programs that close every descriptor there may be would take ages with more.
_MOST = 524_288


def raise_limit() -> None:
    """Take what the system gives to those who ask: each file that is followed is open, and the usual 1,024 are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
