"""The check in tests/conftest.py: every kind of leak fails its test, and nothing else does.

A pytest of its own runs a file of leaking and clean tests under the real conftest; each outcome is then compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

CONFTEST = Path(__file__).parents[2] / "conftest.py"

LOOPS = """
import asyncio, uvloop

def pytest_asyncio_loop_factories():
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""

SUITE = """
import asyncio, contextlib, os, signal, socket, subprocess, sys, threading, time
import pytest, pytest_asyncio

kept = []
released = threading.Event()

@pytest.fixture(scope="session", autouse=True)
def release():
    yield
    released.set()
    for thing in kept:
        if hasattr(thing, "kill"):
            thing.kill()
            thing.wait()
        elif hasattr(thing, "close"):
            thing.close()

# -- leaks

async def test_leaks_task():
    kept.append(asyncio.create_task(asyncio.sleep(60)))
    await asyncio.sleep(0)

async def test_leaks_timer():
    asyncio.get_running_loop().call_later(60, print)

@pytest_asyncio.fixture
async def careless():
    kept.append(asyncio.create_task(asyncio.Event().wait()))
    yield
async def test_leaks_fixture_task(careless):
    pass

def test_leaks_fd():
    kept.append(os.fdopen(os.open(__file__, os.O_RDONLY)))

def test_leaks_socket():
    kept.append(socket.socketpair()[0])

async def test_leaks_fd_async():
    kept.append(open(__file__))

def test_leaks_thread():
    threading.Thread(target=released.wait, daemon=True, name="left").start()

def test_leaks_raw_thread():
    import _thread
    begun = threading.Event()
    _thread.start_new_thread(lambda: (begun.set(), released.wait()), ())
    begun.wait()

def test_leaks_threading_timer():
    timer = threading.Timer(60, print)
    timer.daemon = True
    timer.start()

def test_leaks_env():
    os.environ["LEFT_BEHIND"] = "1"

def test_leaks_env_deleted():
    del os.environ["HOME"]

def test_leaks_process():
    kept.append(subprocess.Popen(["sleep", "60"]))

def test_leaks_signal():
    signal.signal(signal.SIGUSR1, lambda *_: None)

async def test_leaks_signal_async():
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: None)

# -- no leaks

def test_clean_env_was_restored():
    assert "LEFT_BEHIND" not in os.environ and "HOME" in os.environ

def test_clean_sync(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OF_THE_FIXTURE", "1")
    (tmp_path / "x").write_text("x")
    assert asyncio.run(asyncio.to_thread(lambda: 1)) == 1
    print("captured")

async def test_clean_async():
    await asyncio.to_thread(lambda: 1)
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

async def test_clean_cancelled_just_now():
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    asyncio.get_running_loop().call_later(60, print).cancel()

async def test_clean_subprocess():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()

def test_clean_thread_that_is_leaving():
    threading.Thread(target=time.sleep, args=(0.05,)).start()

class Cycle:
    def __init__(self):
        self.me, self.descriptor = self, os.open(__file__, os.O_RDONLY)
    def __del__(self):
        os.close(self.descriptor)
def test_clean_after_collection():
    Cycle()

@pytest_asyncio.fixture
async def service():
    task = asyncio.create_task(asyncio.Event().wait())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
async def test_clean_fixture_task(service):
    pass

@pytest.fixture(scope="session")
def server():
    thread = threading.Thread(target=released.wait, daemon=True)
    thread.start()
    with socket.socket() as bound, subprocess.Popen(["sleep", "60"]) as child:
        os.environ["SERVER"] = "up"
        yield bound
        child.kill()
    del os.environ["SERVER"]
def test_clean_session_fixture_first_asked_half_way(request):
    request.getfixturevalue("server")
async def test_clean_session_fixture_async(server):
    pass

@pytest.mark.allow_leak("thread:pool-*", reason="the pool keeps its threads")
def test_clean_allowed_by_marker():
    threading.Thread(target=released.wait, daemon=True, name="pool-1").start()

@pytest.fixture(scope="module")
def reconnects(leaks):
    leaks.allow("env:RECONNECTED", reason="shows that it did")
def test_clean_allowed_by_fixture(reconnects):
    os.environ["RECONNECTED"] = "1"

@pytest.mark.xfail
def test_clean_failed_tests_are_not_checked():
    kept.append(open(__file__))
    assert False

@pytest.mark.asyncio(loop_scope="module")
async def test_clean_module_loop():
    await asyncio.sleep(0)

@pytest.mark.asyncio(loop_scope="module")
async def test_leaks_module_loop():
    kept.append(asyncio.create_task(asyncio.sleep(60)))
"""

LEAKS = {
    "test_leaks_task[{loop}]": "task:sleep",
    "test_leaks_timer[{loop}]": "timer:",
    "test_leaks_fixture_task[{loop}]": "task:Event.wait",
    "test_leaks_fd": "fd:",
    "test_leaks_socket": "fd:socket:",
    "test_leaks_fd_async[{loop}]": "fd:",
    "test_leaks_thread": "thread:left",
    "test_leaks_raw_thread": "thread:",
    "test_leaks_threading_timer": "thread:Thread-",
    "test_leaks_env": "env:LEFT_BEHIND",
    "test_leaks_env_deleted": "env:HOME",
    "test_leaks_process": "process:sleep",
    "test_leaks_signal": "signal:SIGUSR1",
    "test_leaks_signal_async[{loop}]": "signal:SIGTERM",
    "test_leaks_module_loop[{loop}]": "task:sleep",
}
EXPECTED = {name.format(loop=loop): leak for name, leak in LEAKS.items() for loop in ("asyncio", "uvloop")}


@pytest.fixture(scope="module", params=["here", "xdist"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what the check said of each test, "" for nothing."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "conftest.py").write_text(CONFTEST.read_text().replace("PATIENCE_S = 2.0", "PATIENCE_S = 0.2"))
    (folder / "inner").mkdir()
    (folder / "inner" / "conftest.py").write_text(LOOPS)
    (folder / "inner" / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode=auto\nasyncio_default_fixture_loop_scope=function\n")
    workers = ["-n", "2"] if request.param == "xdist" else ["-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", *workers, "."]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=90)
    assert (folder / "out.xml").exists(), done.stdout + done.stderr
    told: dict[str, str] = {}
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        said = "".join(
            (problem.get("message") or "") + (problem.text or "")
            for problem in case
            if problem.tag in ("error", "failure")
        )
        told[case.get("name", "")] = told.get(case.get("name", ""), "") + said
    return told


@pytest.mark.parametrize("name", EXPECTED)
def test_a_leak_fails_its_test_and_is_named(outcomes: dict[str, str], name: str) -> None:
    assert "the test left behind" in outcomes[name]
    assert EXPECTED[name] in outcomes[name]


def test_nothing_else_fails(outcomes: dict[str, str]) -> None:
    clean = {name: said for name, said in outcomes.items() if name.startswith("test_clean")}
    assert len(clean) >= 16
    assert {name: said for name, said in clean.items() if said} == {}
