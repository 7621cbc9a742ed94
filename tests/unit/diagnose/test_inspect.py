"""Looking at this process: tasks, descriptors, threads, heap, profile. All goes out as JSON and fits 80 columns."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator

import msgspec
import pytest

from dogwatch.core.deadline import cancel_and_wait
from dogwatch.core.pool import Pool
from dogwatch.diagnose import creation
from dogwatch.diagnose.fds import count_fds, count_kinds, inspect_fds, render_fds
from dogwatch.diagnose.frame import fit, table
from dogwatch.diagnose.heap import inspect_heap, render_heap
from dogwatch.diagnose.profile import profile, render_profile
from dogwatch.diagnose.tasks import TaskInfo, count_sites, inspect_tasks, render_tasks
from dogwatch.diagnose.threads import inspect_threads, render_threads


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def numbers(event: asyncio.Event) -> AsyncIterator[int]:
    yield 1
    await inner(event)


async def over_generator(event: asyncio.Event) -> None:
    async for _ in numbers(event):
        pass


@contextlib.asynccontextmanager
async def tasks(*work) -> AsyncIterator[list[asyncio.Task[object]]]:
    made = [asyncio.create_task(one, name=f"task {number}") for number, one in enumerate(work)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        await cancel_and_wait(made)


def found(name: str) -> TaskInfo:
    return next(info for info in inspect_tasks() if info.name == name)


async def test_the_whole_await_chain_is_shown() -> None:
    async with tasks(outer(asyncio.Event())):
        info = found("task 0")
        assert [frame.name for frame in info.chain] == ["outer", "inner", "Event.wait"]
        assert info.chain[0].file == __file__
        assert info.chain[0].line == outer.__code__.co_firstlineno + 1
        assert (info.state, info.coroutine, info.waits_for) == ("waiting", "outer", "Future")
        assert msgspec.json.decode(msgspec.json.encode(info))["chain"][1]["name"] == "inner"


async def test_it_sees_through_async_generators_and_gathering_and_other_tasks() -> None:
    event = asyncio.Event()

    async def gather() -> None:
        await asyncio.gather(inner(event), inner(event))

    async def wait_for(task: asyncio.Task[object]) -> None:
        await task

    async with tasks(over_generator(event), gather()) as (first, _), tasks(wait_for(first)) as (waiting,):
        waiting.set_name("waiting")
        assert [frame.name for frame in found("task 0").chain] == [
            "over_generator",
            "numbers",
            "inner",
            "Event.wait",
        ]
        assert found("task 1").waits_for == "2 gathered, 2 pending"
        assert found("waiting").waits_for == "task task 0 (over_generator)"
        event.set()


async def test_states() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async with tasks(stubborn()) as (task,):
        task.cancel()
        await asyncio.sleep(0)
        ready = asyncio.create_task(asyncio.sleep(0), name="ready")
        assert found("task 0").cancelling
        assert found("ready").state == "ready"
        assert [info.state for info in inspect_tasks() if info.coroutine == "test_states"] == ["running"]
        await ready


async def test_creation_sites_are_told_where_tracked() -> None:
    tracker = creation.SiteTracker()
    loop = asyncio.get_running_loop()
    async with tasks(outer(asyncio.Event())):
        tracker.install(loop)
        tracker.install(loop)  # twice is once
        try:
            async with tasks(outer(asyncio.Event())) as (second,), Pool(workers=1, queue=1) as pool:
                second.set_name("second")
                line = tasks.__wrapped__.__code__.co_firstlineno + 2
                info = found("second")
                assert info.created is not None
                assert (info.created.file, info.created.line) == (__file__, line)
                assert info.age_s is not None
                assert 0 <= info.age_s < 5
                assert found("task 0").created is None
                assert count_sites(asyncio.all_tasks(), "outer").most_common(1)[0][1] == 1
                job = await pool.submit(lambda: asyncio.sleep(0.01), name="job")
                created = found("job").created
                assert created is not None
                assert created.file == __file__  # whoever submitted, not the pool
                await job
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(0.01), name="grouped")
                    assert found("grouped").created.name.startswith("test_creation")
        finally:
            tracker.uninstall()
        assert loop.get_task_factory() is None


async def test_another_factory_is_kept_and_put_back() -> None:
    made = []

    def factory(loop, work, **options):
        made.append(work)
        return asyncio.Task(work, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    tracker = creation.SiteTracker()
    tracker.install(loop)
    await asyncio.create_task(asyncio.sleep(0))
    tracker.uninstall()
    assert len(made) == 1
    assert loop.get_task_factory() is factory
    loop.set_task_factory(None)


async def test_a_thousand_tasks_take_milliseconds() -> None:
    async with tasks(*(outer(asyncio.Event()) for _ in range(1000))):
        best_s = 1.0
        for _ in range(5):
            started_s = time.perf_counter()
            infos = inspect_tasks()
            best_s = min(best_s, time.perf_counter() - started_s)
        assert len(infos) >= 1000
        assert best_s < 0.05  # 5 ms when nobody else runs
        text = render_tasks(infos)
        assert fits(text)
        assert len(text.splitlines()) < 30  # the same chain is shown once
        assert "1000 × outer  waiting" in text


async def test_descriptors_are_told_apart() -> None:
    read, write = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        infos = {info.number: info for info in inspect_fds()}
        listening, connected = infos[server.fileno()], infos[client.fileno()]
        port = server.getsockname()[1]
        assert (listening.family, listening.type, listening.state) == ("inet", "stream", "listen")
        assert listening.local == f"127.0.0.1:{port}"
        assert (connected.remote, connected.state) == (f"127.0.0.1:{port}", "established")
        assert "socket.socket" in connected.holders
        assert infos[read].kind == infos[write].kind == "pipe"
        assert count_kinds()["pipe"] >= 2
        assert abs(count_fds() - len(infos)) <= 1
        assert msgspec.json.encode(list(infos.values()))
        assert fits(render_fds(infos.values()))
    os.close(read)
    os.close(write)


async def test_it_says_who_holds_a_descriptor() -> None:
    async def holder() -> None:
        with open(__file__, "rb", buffering=0) as file:  # noqa: PTH123, ASYNC230
            numbers.append(file.fileno())
            await asyncio.Event().wait()

    numbers: list[int] = []
    async with tasks(holder()):
        info = next(info for info in inspect_fds() if info.number == numbers[0])
        assert info.kind == "file"
        assert info.target == __file__
        assert info.holders[0] == "_io.FileIO"
        assert any("holder" in name for name in info.holders)


async def test_it_says_which_connection_is_whose() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    number = writer.get_extra_info("socket").fileno()
    info = next(info for info in inspect_fds() if info.number == number)
    assert any("Transport" in name for name in info.holders)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert reader is not None


def test_threads_are_shown_with_their_stacks() -> None:
    released = threading.Event()
    thread = threading.Thread(target=released.wait, name="waits for us")
    thread.start()
    try:
        infos = inspect_threads()
    finally:
        released.set()
        thread.join()
    assert infos[0].name == "MainThread"
    info = next(info for info in infos if info.name == "waits for us")
    assert info.native_id == thread.native_id
    assert any(frame.name == "Event.wait" for frame in info.stack)
    assert fits(render_threads(infos))
    assert msgspec.json.encode(infos)


class Weighty:
    pass


def test_the_heap_is_counted_by_type_and_by_site() -> None:
    kept = [Weighty() for _ in range(5000)]
    shallow = inspect_heap(top=50)
    assert any(use.type.endswith("Weighty") and use.count >= len(kept) for use in shallow.by_count)
    texts = [[f"text number {number}"] for number in range(5000)]
    deep = inspect_heap(top=50, deep=True)
    strings = {use.type: use.count for use in deep.by_count}
    assert strings["str"] >= len(texts)
    assert shallow.sites == []
    tracemalloc.start()
    try:
        more = [bytes(1000) for _ in range(1000)]
        traced = inspect_heap()
    finally:
        tracemalloc.stop()
    assert any(site.file == __file__ and site.size_bytes >= 1000 * len(more) for site in traced.sites)
    assert fits(render_heap(traced))
    assert msgspec.json.encode(traced)


async def test_the_profile_finds_what_computes() -> None:
    going = True

    async def compute() -> None:
        while going:
            sum(range(20_000))
            await asyncio.sleep(0)

    task = asyncio.create_task(compute())
    found = await profile(0.4, hz=200)
    going = False
    await task
    assert found.busy > 5
    own = {hot.function.rsplit(".", 1)[-1]: hot.self_ratio for hot in found.top_self}
    # Beside it only a thread of the test runner may count as busy, which waits in a read.
    assert own["compute"] > 0.25
    assert max((name for name in own if name != "read"), key=lambda name: own[name]) == "compute"
    assert any("compute" in line for line in found.collapsed)
    assert fits(render_profile(found))
    assert msgspec.json.encode(found)


async def test_a_thread_that_computes_is_seen_and_an_idle_process_is_idle() -> None:
    released = threading.Event()

    def grind() -> None:
        while not released.is_set():
            sum(range(300))

    thread = threading.Thread(target=grind)
    thread.start()
    found = await profile(0.3)
    released.set()
    thread.join()
    assert any(hot.function.endswith("grind") for hot in found.top_self)
    idle = await profile(0.1)
    # Threads that the threading module does not know are judged by their frame alone; pytest-xdist has one.
    unknown = sum(count for line, count in idle.collapsed.items() if line.startswith("unnamed;"))
    assert idle.busy - unknown <= 3
    assert render_profile(idle)


async def test_a_cancelled_profile_ends_its_watching() -> None:
    task = asyncio.create_task(profile(60))
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    with pytest.raises(ValueError, match="1000 Hz"):
        await profile(1, hz=10_000)


def test_text_is_cut_to_the_terminal() -> None:
    assert fit("x" * 100) == "x" * 79 + "…"
    assert table(("n", "what"), [(5, "a"), (10, "b")]) == " n  what\n 5  a\n10  b"


AT_THE_LIMIT = """
import os, resource
from dogwatch.diagnose.fds import count_fds
from dogwatch.diagnose.sample import resident_bytes
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
try:
    while True:
        os.dup(0)
except OSError:
    print(count_fds(), resident_bytes() > 2**20)
"""


def test_counts_are_told_when_no_descriptor_is_left() -> None:
    # In a process of its own: pytest's workers need descriptors of theirs.
    shown = subprocess.run(
        [sys.executable, "-c", AT_THE_LIMIT], capture_output=True, text=True, check=False, timeout=60
    )
    assert shown.stdout == "50 True\n", shown.stderr
