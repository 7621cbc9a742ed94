"""Every thread of this process and where it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import msgspec

from dogwatch.diagnose.frame import Frame, fit, stack


class ThreadInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One thread that Python knows.

    native_id: the kernel's number, as in top -H; 0 where unknown. stack: outermost first.
    """

    name: str
    ident: int
    native_id: int
    daemon: bool
    stack: Sequence[Frame]


def inspect_threads() -> list[ThreadInfo]:
    """Return every thread, those of C libraries that never ran Python excepted."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    found = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented
        thread = known.get(ident)
        found.append(
            ThreadInfo(
                name=thread.name if thread else "unnamed",
                ident=ident,
                native_id=(thread.native_id or 0) if thread else 0,
                daemon=thread.daemon if thread else True,
                stack=stack(frame),
            )
        )
    return sorted(found, key=lambda info: (info.name != "MainThread", info.name))


def render_threads(threads: Sequence[ThreadInfo], *, width: int = 80) -> str:
    """Return the threads with their stacks, innermost frame first."""
    lines = [f"{len(threads)} threads"]
    for info in threads:
        facts = f"  native id {info.native_id}{'  daemon' if info.daemon else ''}"
        lines += ["", fit(info.name, width - len(facts)) + facts]
        lines += [fit(f"    {frame}", width) for frame in reversed(info.stack)]
    return "\n".join(lines)
