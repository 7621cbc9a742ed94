"""Fixtures for every test: whatever a test leaves behind fails it.

Checked after each test and all its function-scope fixtures: tasks and timers of its event loop (before pytest-asyncio
closes the loop and so hides them), then file descriptors, threads, child processes, environment variables and signal
handlers. What fixtures of a higher scope opened while they were set up is theirs and not a leak.

A service that goes on opening things (a server thread per connection, a pool that reconnects) names them, in a test or
a fixture of any scope:

    @pytest.mark.allow_leak("thread:pool-*", reason="the pool keeps its threads")

    @pytest.fixture(scope="session")
    def database(leaks):
        leaks.allow("fd:socket:*", reason="the pool reconnects")

A pattern is `kind:name` in fnmatch's language; kinds are task, timer, fd, thread, process, env, signal. Only a test
that passed is checked: a traceback keeps its frames, and with them what they opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
import pytest_timeout
from hypothesis import settings

from dogwatch.daemon import compiled

if TYPE_CHECKING:
    from tests.integration.docker_fixture import DockerDaemon
    from tests.postgres import Postgres

# With DOGWATCH_COMPILED=1 the tests run what scripts/compile built; else the sources, which is what coverage of a
# change needs.
if os.environ.get(compiled.SWITCH) == "1" and (_why := compiled.activate()):
    raise RuntimeError(f"{compiled.SWITCH}=1, but the compiled modules cannot be used: {_why}")

# How long a leaving thread, descriptor or task may take before it counts as left behind.
PATIENCE_S = 2.0
# Libraries open these once and keep them for the life of the process.
KEPT_FOR_LIFE = ("/dev/urandom", "/dev/random", "/dev/null")
# pytest-timeout's own watchdog, where it uses a thread.
OWN_THREADS = ("pytest_timeout*", "pytest-timeout*")
OWN_ENVIRONMENT = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")
# A shell that runs the tests in its background has these ignored, and so would every program that a test starts.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
WATCHED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_passed = pytest.StashKey[bool]()
# name ("fd:/tmp/x") → what a person needs to find it
Leaks = dict[str, str]


# -- what there is ---------------------------------------------------------------------------------------------------


def _descriptors() -> set[tuple[int, str]]:
    """Return every descriptor with what it points to; the standard three belong to pytest's capture."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path for each would double the cost of every test
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
            if int(name) > 2 and target not in KEPT_FOR_LIFE and not target.startswith("/proc/"):
                found.add((int(name), target))
    return found


def _threads() -> dict[int, str]:
    """Return every thread that Python knows, also those started without the threading module."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {ident: names.get(ident, "unnamed") for ident in sys._current_frames()}


def _processes() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _signals() -> dict[signal.Signals, object]:
    return {number: signal.getsignal(number) for number in WATCHED_SIGNALS}


def _tasks(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[object]]:
    return set() if loop.is_closed() else asyncio.all_tasks(loop)


def _timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    """Return the timers that would still fire. uvloop shows its own only to the garbage collector."""
    scheduled = getattr(loop, "_scheduled", None)
    if scheduled is None:
        sets = [held for held in gc.get_referents(loop) if isinstance(held, set)]
        scheduled = [item for held in sets for item in held if type(item).__name__ == "TimerHandle"]
    return [handle for handle in scheduled if not handle.cancelled()]


class Snapshot:
    """What the process had at one moment."""

    def __init__(self) -> None:
        self.descriptors = _descriptors()
        self.threads = _threads()
        self.processes = _processes()
        self.environment = dict(os.environ)
        self.signals = _signals()

    def adopt(self, before: Snapshot, after: Snapshot) -> None:
        """Take what appeared between two other snapshots for granted."""
        self.descriptors |= after.descriptors - before.descriptors
        self.threads |= {ident: name for ident, name in after.threads.items() if ident not in before.threads}
        self.processes |= after.processes - before.processes
        for name in after.environment.keys() | before.environment.keys():
            if after.environment.get(name) != before.environment.get(name):
                self.environment.pop(name, None)
                if name in after.environment:
                    self.environment[name] = after.environment[name]
        self.signals |= {n: handler for n, handler in after.signals.items() if handler != before.signals[n]}


# -- how it is told --------------------------------------------------------------------------------------------------


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "not started"
    return "".join(traceback.format_list(traceback.extract_stack(frame)[-3:])).rstrip()


def _describe_descriptor(number: int, target: str) -> str:
    if target.startswith("socket:"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as twin:
            return f"descriptor {number}: {target} {twin.family.name} {twin.getsockname()}"
    return f"descriptor {number}: {target}"


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join(words).strip() or "(ended, but nobody waited for it)"
    return ""


def _task_leaks(tasks: Iterable[asyncio.Task[object]]) -> Leaks:
    found = {}
    for task in tasks:
        coroutine = task.get_coro()
        name = getattr(coroutine, "__qualname__", repr(coroutine))
        stack = task.get_stack(limit=1)
        found[f"task:{name}"] = f"{task.get_name()} still runs:\n{_place(stack[0] if stack else None)}"
    return found


def _timer_leaks(handles: Iterable[asyncio.TimerHandle]) -> Leaks:
    # uvloop's handle does not show its callback; its repr does.
    found = {}
    for handle in handles:
        callback = getattr(handle, "_callback", None)
        name = getattr(callback, "__qualname__", None) or repr(handle)
        found[f"timer:{name}"] = repr(handle)
    return found


def _process_leaks(before: Snapshot) -> Leaks:
    found = {}
    for process in _processes() - before.processes:
        command = _command(process)
        # multiprocessing's tracker lives as long as the process that used it
        if command and "multiprocessing.resource_tracker" not in command:
            found[f"process:{Path(command.split()[0]).name}"] = f"process {process}: {command}"
    return found


def _process_wide_leaks(before: Snapshot) -> Leaks:
    found: Leaks = {}
    for number, target in sorted(_descriptors() - before.descriptors):
        found[f"fd:{target}"] = _describe_descriptor(number, target)
    frames = sys._current_frames()
    for ident, name in _threads().items():
        if ident not in before.threads and not any(fnmatch.fnmatch(name, own) for own in OWN_THREADS):
            found[f"thread:{name}"] = f"thread {ident} is at:\n{_place(frames.get(ident))}"
    found |= _process_leaks(before)
    for number, handler in _signals().items():
        if handler != before.signals[number]:
            found[f"signal:{number.name}"] = f"handler is {handler!r}, was {before.signals[number]!r}"
    for name in sorted(os.environ.keys() | before.environment.keys()):
        was, now = before.environment.get(name), os.environ.get(name)
        if was != now and name not in OWN_ENVIRONMENT:
            found[f"env:{name}"] = f"was {was!r}, is {now!r}"
    return found


# -- what is allowed -------------------------------------------------------------------------------------------------


class LeakRegister:
    """Which leaks are somebody's own, and the snapshot of the test that runs now."""

    def __init__(self) -> None:
        self._allowed: list[str] = []
        self.baseline: Snapshot | None = None

    def allow(self, *patterns: str, reason: str) -> None:
        """Let what matches `kind:name` be, until the end of the session."""
        if not reason:
            raise ValueError("say why the leak is allowed")
        self._allowed.extend(patterns)

    def unexpected(self, found: Leaks, item: pytest.Item) -> Leaks:
        marked = [pattern for marker in item.iter_markers("allow_leak") for pattern in marker.args]
        allowed = [*self._allowed, *marked]
        return {name: text for name, text in found.items() if not any(fnmatch.fnmatchcase(name, p) for p in allowed)}


_register = LeakRegister()


def pytest_configure(config: pytest.Config) -> None:
    # A busy machine is not a slow function: pytest-timeout bounds tests, hypothesis need not time each example.
    # In CI the same examples every time: what it says of a change must be about the change. New ones are found by hand.
    settings.register_profile("dogwatch", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("dogwatch")
    config.addinivalue_line("markers", "allow_leak(*patterns, reason): `kind:name` patterns of what may stay behind")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return how many processes `-n auto` means: one more than the processors that we may use, as many tests wait.

    xdist itself counts the machine's cores, whatever a container or `taskset` leaves us of them.
    """
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # xdist heeds it
    processors = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        processors = min(processors, int(quota) / int(period))
    return max(1, round(processors)) + 1


def pytest_sessionstart() -> None:
    # libuv keeps one pipe for the life of the process from the first loop on: let it come before any test.
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, object, object]:
    if call.when == "call":
        item.stash[_passed] = call.excinfo is None
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Give a fixture of a higher scope what it opens, even when a test asks for it half-way."""
    baseline = _register.baseline
    if baseline is None or fixturedef.scope == "function":
        return (yield)
    before = Snapshot()
    result = yield
    baseline.adopt(before, Snapshot())
    return result


# -- tests that hang -------------------------------------------------------------------------------------------------


class _Watchdog:
    """Ends the process when a test takes too long, as pytest-timeout does, with one thread for all tests and not one
    for each: on a busy machine the start and the end of a thread cost a small test more than itself.
    """

    def __init__(self) -> None:
        self._watched: tuple[float, pytest.Item, object] | None = None
        self._thread: threading.Thread | None = None

    def watch(self, item: pytest.Item, settings: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pytest_timeout of all tests", daemon=True)
            self._thread.start()
        self._watched = (time.monotonic() + settings.timeout, item, settings)

    def rest(self) -> None:
        self._watched = None

    def _run(self) -> None:
        while True:
            time.sleep(1.0)
            watched = self._watched
            if watched is not None and time.monotonic() > watched[0]:
                pytest_timeout.timeout_timer(watched[1], watched[2])
                self._watched = None


_watchdog = _Watchdog()


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    if settings.method != "thread":
        return None
    _watchdog.watch(item, settings)
    return True


def pytest_timeout_cancel_timer() -> None:
    _watchdog.rest()


# -- the check -------------------------------------------------------------------------------------------------------


def _wait_until_none(look: Callable[[], Leaks], pause: Callable[[float], object]) -> Leaks:
    """Return what is still there after a short patience; nearly always the first look finds nothing."""
    found = look()
    if not found:
        return found
    deadline, wait_s = time.monotonic() + PATIENCE_S, 0.001
    while found and time.monotonic() < deadline:
        gc.collect()
        pause(wait_s)
        wait_s = min(wait_s * 2, 0.1)
        found = look()
    return found


def _fail(leaks: Leaks) -> None:
    if leaks:
        lines = [f"  {name}\n      {text}".replace("\n  File", "\n      File") for name, text in leaks.items()]
        pytest.fail("the test left behind:\n" + "\n".join(lines), pytrace=False)


@pytest.fixture(scope="session")
def leaks() -> LeakRegister:
    """Say `leaks.allow("thread:name-*", reason=…)` in a fixture whose service opens things on its own."""
    return _register


@pytest.fixture(scope="session")
def postgres(leaks: LeakRegister) -> Iterator[Postgres]:
    """A running server, for tests that leave it running; each makes a database of its own."""
    from tests.postgres import server

    leaks.allow("process:postgres*", reason="the server lives for the whole run")
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[DockerDaemon]:
    """A real dockerd with the image `busybox:test`; skips with the reason where it cannot start."""
    from tests.integration.docker_fixture import dockerd

    with dockerd() as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves descriptors, threads, processes, variables or signal handlers behind."""
    _register.baseline = before = Snapshot()
    yield
    _register.baseline = None
    found: Leaks = {}
    if request.node.stash.get(_passed, False):
        found = _wait_until_none(lambda: _register.unexpected(_process_wide_leaks(before), request.node), time.sleep)
    _restore(before)
    _fail(found)


def _restore(before: Snapshot) -> None:
    """Put environment and signal handlers back, so that one test's leak is not the next one's trouble."""
    if dict(os.environ) != before.environment:
        for name in set(os.environ) - set(before.environment) - set(OWN_ENVIRONMENT):
            del os.environ[name]
        os.environ.update({name: text for name, text in before.environment.items() if name not in OWN_ENVIRONMENT})
    for number, handler in before.signals.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_task_left_behind(request: pytest.FixtureRequest, _nothing_left_behind: None) -> Iterator[None]:
    """Fail an async test that leaves tasks or timers on its loop; the loop comes first, so it closes after the look."""
    scope = getattr(request.node, "_loop_scope", None)
    if scope is None:
        yield
        return
    runner: asyncio.Runner = request.getfixturevalue(f"_{scope}_scoped_runner")
    loop = runner.get_loop()
    tasks, timers = _tasks(loop), _timers(loop)
    yield
    if loop.is_closed() or not request.node.stash.get(_passed, False):
        return

    def look() -> Leaks:
        old = {id(handle) for handle in timers}
        found = _task_leaks(_tasks(loop) - tasks)
        found |= _timer_leaks(handle for handle in _timers(loop) if id(handle) not in old)
        return _register.unexpected(found, request.node)

    _fail(_wait_until_none(look, lambda wait_s: runner.run(asyncio.sleep(wait_s))))
