"""A sampling profiler: a thread looks at the stacks of all others, many times a second."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from dogwatch.diagnose.frame import fit, short, table

# Whose innermost frame is here waits for something; uvloop waits without a frame of its own.
_IDLE = (
    ("selectors.py", "select"),
    ("threading.py", "wait"),
    ("threading.py", "_wait_for_tstate_lock"),
    ("concurrent/futures/thread.py", "_worker"),
    ("asyncio/runners.py", "run"),
    ("queue.py", "get"),
    ("socket.py", "accept"),
)
_DEPTH = 128


class Hot(msgspec.Struct, frozen=True, kw_only=True):
    """A function. self_ratio: share of the busy samples in which it was innermost; total_ratio: anywhere."""

    function: str
    file: str
    self_ratio: float
    total_ratio: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """samples: stacks seen. busy: those that did not wait.

    collapsed: `thread;outer;inner` → count, as flame graph tools read it, the waiting ones included.
    """

    seconds: float
    samples: int
    busy: int
    collapsed: dict[str, int]
    top_self: Sequence[Hot]
    top_total: Sequence[Hot]


Stack = tuple[tuple[str, str], ...]
# Name of the thread, its stack, whether it computed.
Key = tuple[str, Stack, bool]


async def profile(seconds: float, *, hz: float = 100.0, top: int = 20) -> Profile:
    """Watch this process for a while; cancelling it ends the watching.

    Threads other than the main one are looked at by a thread. That thread sees others only when they let go of the
    interpreter's lock, and an event loop does so in select: the main thread is therefore sampled by SIGPROF, which
    counts CPU time and interrupts wherever it is. Called elsewhere than in the main thread, only the thread looks.
    Cost while it runs: some 20 µs a sample for a few threads, below half a percent at 100 Hz.
    Raises: ValueError for nonsense.
    """
    if not (0 < seconds <= 3600 and 0 < hz <= 1000):
        raise ValueError(f"{seconds} s at {hz} Hz; up to an hour, up to 1000 Hz")
    ended = threading.Event()
    main: Counter[Key] = Counter()
    with _sampled_by_signal(main, hz) as skipped:
        watching = asyncio.get_running_loop().run_in_executor(None, watch, seconds, hz, ended, skipped)
        try:
            counts = await asyncio.shield(watching)
        finally:
            ended.set()
            if not watching.done():
                await asyncio.wait([watching])
    return summarize(counts + main, seconds=seconds, top=top)


@contextmanager
def _sampled_by_signal(counts: Counter[Key], hz: float) -> Iterator[int]:
    """Count the main thread's stacks by CPU time; yields the thread that need not be looked at, 0 for none."""
    free = signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not free:
        yield 0
        return

    def sample(_number: int, frame: FrameType | None) -> None:
        steps = _steps(frame)
        # The timer counts the CPU time of all threads: it also fires while this one waits.
        counts["MainThread", steps, not _idle(steps)] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, 1 / hz, 1 / hz)
    try:
        yield threading.get_ident()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        # A signal that is still on its way would end the process under the default action.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


def watch(seconds: float, hz: float, ended: threading.Event, skipped: int = 0) -> Counter[Key]:
    """Sample all threads but this one and `skipped` until the time is over or `ended` is set."""
    counts: Counter[Key] = Counter()
    ours = (threading.get_ident(), skipped)
    cpu_s: dict[int, float] = {}
    due_s = looked_s = time.monotonic()
    until_s = due_s + seconds
    while due_s < until_s:
        threads = {thread.ident: thread for thread in threading.enumerate()}
        now_s = time.monotonic()
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented
            if ident not in ours:
                thread = threads.get(ident)
                steps = _steps(frame)
                busy = not _idle(steps)
                used_s = _cpu_s(thread)
                if busy and thread is not None and used_s is not None:
                    # Whoever waits in a C function looks busy; its CPU time tells.
                    busy = used_s - cpu_s.get(ident, used_s) > 0.05 * (now_s - looked_s)
                    cpu_s[ident] = used_s
                counts[thread.name if thread else "unnamed", steps, busy] += 1
        looked_s = now_s
        # A late sample is not made up for.
        due_s = max(due_s + 1 / hz, time.monotonic())
        if ended.wait(max(0.0, due_s - time.monotonic())):
            break
    return counts


def _cpu_s(thread: threading.Thread | None) -> float | None:
    """Return the CPU time that a thread has used, None where the kernel does not say."""
    if thread is None or thread.native_id is None:
        return None
    try:
        return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_bytes().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _steps(frame: FrameType | None) -> Stack:
    steps: list[tuple[str, str]] = []
    while frame is not None and len(steps) < _DEPTH:
        steps.append((frame.f_code.co_qualname, frame.f_code.co_filename))
        frame = frame.f_back
    return tuple(reversed(steps))


def summarize(counts: Counter[Key], *, seconds: float, top: int = 20) -> Profile:
    """Return the profile of counted stacks; pure."""
    own: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    collapsed: Counter[str] = Counter()
    busy = 0
    for (thread, steps, computed), count in counts.items():
        collapsed[";".join([thread, *(f"{name} ({short(file)})" for name, file in steps)])] += count
        if steps and computed:
            busy += count
            own[steps[-1]] += count
            for step in set(steps):
                total[step] += count

    def hot(key: tuple[str, str]) -> Hot:
        return Hot(function=key[0], file=key[1], self_ratio=own[key] / busy, total_ratio=total[key] / busy)

    return Profile(
        seconds=seconds,
        samples=counts.total(),
        busy=busy,
        collapsed=dict(collapsed.most_common()),
        top_self=[hot(key) for key, _ in own.most_common(top)],
        top_total=[hot(key) for key, _ in total.most_common(top)],
    )


def _idle(steps: Stack) -> bool:
    if not steps:
        return True
    name, file = steps[-1]
    return any(file.endswith(end) and name.rsplit(".", 1)[-1] == function for end, function in _IDLE)


def render_profile(found: Profile, *, width: int = 80) -> str:
    """Return the hottest functions by own and by total time."""
    text = f"{found.samples} samples in {found.seconds:g} s, {found.busy} busy\n"
    for title, hots in (("own time", found.top_self), ("with what they call", found.top_total)):
        rows = [
            (f"{hot.self_ratio:.0%}", f"{hot.total_ratio:.0%}", fit(f"{hot.function} ({short(hot.file)})", width - 14))
            for hot in hots
        ]
        text += f"\n{title}\n" + table(("self", "total", "function"), rows, width=width) + "\n"
    return text
