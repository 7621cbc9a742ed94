"""A disk that is full, a database that another process holds, files that are no store of ours."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.core.values import Status, Transition
from dogwatch.errors import PermanentError, StoreLocked, StoreNewer, TransientError, Unreachable
from dogwatch.store.files import APPLICATION_ID, migrations, open_writer
from dogwatch.store.limits import StoreLimits
from dogwatch.store.protocol import Ping, ResultRow, TargetState
from dogwatch.store.sqlite import SqliteStore, open_store

LIMITS = StoreLimits(batch=0.05, buffer_rows=1000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = await open_store(tmp_path / "dogwatch.db", SystemClock(), LIMITS)
    yield made
    await made.close()


def fill(store: SqliteStore, count: int) -> None:
    for number in range(count):
        store.add_result(ResultRow(f"t{number % 10}", time.time(), True, 1, number / 1e6))


async def transition(store: SqliteStore, number: int) -> None:
    change = Transition(target="t", time_s=time.time(), before=Status.UP, after=Status.DOWN, reason=str(number))
    state = TargetState(target="t", status=Status.DOWN, since_s=0.0, fingerprint="", decider=b"")
    await store.commit_transition(change, state)


def metric(store: SqliteStore, name: str) -> float:
    found = {text: value for family in store.metrics() for text, value in family.series}
    return found[f"dogwatch_store_{name}"]


async def total(store: SqliteStore) -> int:
    found = await store.recent([f"t{number}" for number in range(10)], limit=5000)
    return sum(map(len, found.values()))


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_locked_by_another_process(store: SqliteStore, tmp_path: Path) -> None:
    fill(store, 10)
    await transition(store, 0)
    pauses = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            pauses.append(loop.time() - due)

    task = asyncio.get_running_loop().create_task(watch())
    with locked(tmp_path / "dogwatch.db"):
        fill(store, 100)
        await transition(store, 1)  # returns: it waits in memory
        assert "locked by another process" in store.trouble
        assert metric(store, "trouble") == 1
        with pytest.raises(TransientError, match="locked") as refused:
            await store.commit_ping(Ping(target="p", time_s=1.0, signal="success"))
        assert refused.value.retry_after_s
        with pytest.raises(TransientError, match="locked"):
            await store.put_document("d", b"x")
        assert len(await store.results("t1", limit=100)) == 11, "reading goes on, what waits included"
        fill(store, 2000)
        assert metric(store, 'rows_lost_total{table="results"}') == 1100
        assert metric(store, 'buffer_rows{table="results"}') == 1000
    await store.flush()
    task.cancel()
    assert store.trouble == ""
    assert metric(store, "trouble") == 0
    assert metric(store, "commit_failures_total") >= 1
    assert [one.reason for one in await store.transitions("t")] == ["1", "0"]
    assert await store.pings("p", limit=5) == [], "what was refused was not written"
    assert await total(store) == 1010
    assert max(pauses) < 0.25, "the event loop waited for the lock"
    await store.commit_ping(Ping(target="p", time_s=1.0, signal="success"))


async def test_closing_while_locked_counts_the_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = await open_store(tmp_path / "dogwatch.db", SystemClock(), LIMITS)
    with locked(tmp_path / "dogwatch.db"):
        fill(store, 7)
        await store.close()
        assert metric(store, 'rows_lost_total{table="results"}') == 7
        assert "'results': 7" in caplog.text
    with pytest.raises(PermanentError, match="closed"):
        await store.states()


async def disk_full(store: SqliteStore, make_room: Callable[[], None]) -> None:
    """Write until nothing goes any more, read on, make room, and compare."""
    acknowledged: list[int] = []
    number = 0
    while not store.trouble and number < 20_000:
        body = os.urandom(3000).hex()
        try:
            await store.commit_ping(
                Ping(target="p", time_s=time.time(), signal="success", exit_status=number, body=body)
            )
            acknowledged.append(number)
        except TransientError:
            break
        if number % 10 == 0:
            await transition(store, number)
        number += 1
    assert store.trouble
    assert acknowledged
    before = len(await store.transitions("t", limit=5000))
    await transition(store, -1)  # returns: it waits in memory
    fill(store, 3000)
    with pytest.raises(TransientError):
        await store.commit_ping(Ping(target="p", time_s=1.0, signal="success", exit_status=-1))
    assert metric(store, 'rows_lost_total{table="results"}') == 2000
    assert len(await store.transitions("t", limit=5000)) == before, "reading goes on"
    assert (await store.results("t1", limit=1))[0].target == "t1"
    make_room()
    await until(lambda: not store.trouble)
    await store.flush()
    kept = [one.exit_status for one in await store.pings("p", limit=30_000)]
    assert set(acknowledged) <= set(kept)
    assert -1 not in kept
    assert (await store.transitions("t", limit=1))[0].reason == "-1"
    assert await total(store) == 1000


@pytest.mark.serial
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
async def test_disk_full(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        limits = StoreLimits(batch=0.05, buffer_rows=1000, pings_per_target=30_000)
        store = await open_store(small / "dogwatch.db", SystemClock(), limits)
        try:
            await disk_full(store, ballast.unlink)
        finally:
            await store.close()
        check = sqlite3.connect(small / "dogwatch.db")
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        check.close()
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(small)], check=True)


async def test_file_size_limit(tmp_path: Path) -> None:
    """The same without a file system of our own: writes beyond a size fail with EFBIG."""
    limits = StoreLimits(batch=0.05, buffer_rows=1000, pings_per_target=30_000)
    store = await open_store(tmp_path / "dogwatch.db", SystemClock(), limits)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    try:
        await disk_full(store, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.close()


async def test_a_second_instance_is_refused_and_told_who_holds_it(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}") as refused:
        await open_store(tmp_path / "dogwatch.db", SystemClock(), LIMITS)
    assert refused.value.exit_code == 11
    await store.close()
    again = await open_store(tmp_path / "dogwatch.db", SystemClock(), LIMITS)
    await again.close()


async def test_the_lock_is_let_go_by_death_and_can_be_waited_for(tmp_path: Path) -> None:
    program = Path(__file__).with_name("store_under_load.py")
    path = tmp_path / "dogwatch.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(path), "0", "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert await process.stdout.readline() == b"opened\n"
    with pytest.raises(StoreLocked, match=f"process {process.pid}"):
        await open_store(path, SystemClock(), LIMITS)
    waiting = asyncio.create_task(open_store(path, SystemClock(), LIMITS, wait_s=10))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    process.kill()
    await process.communicate()
    await (await waiting).close()


def digest(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns) for file in folder.iterdir()
    }


async def test_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    await (await open_store(path, SystemClock(), LIMITS)).close()
    newer = sqlite3.connect(path, isolation_level=None)
    newer.execute("PRAGMA journal_mode = DELETE")
    newer.execute("PRAGMA user_version = 99")
    newer.execute("PRAGMA journal_mode = WAL")
    newer.execute("CREATE TABLE tomorrow (x)")
    # Its process died: a log that whoever opens the file would fold in.
    for name in ("dogwatch.db", "dogwatch.db-wal", "dogwatch.db-shm"):
        (tmp_path / "dead").mkdir(exist_ok=True)
        shutil.copy2(tmp_path / name, tmp_path / "dead" / name)
    newer.close()
    dead = tmp_path / "dead"
    before = digest(dead)
    assert "dogwatch.db-wal" in before
    with pytest.raises(StoreNewer, match="schema version 99; this Dogwatch knows versions up to 1"):
        await open_store(dead / "dogwatch.db", SystemClock(), LIMITS)
    assert digest(dead) == before


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


async def test_files_that_are_no_store(tmp_path: Path) -> None:
    async def refused(path: Path, kind: type[Exception], match: str) -> None:
        before = content(path)
        with pytest.raises(kind, match=match):
            await open_store(path, SystemClock(), LIMITS)
        assert content(path) == before

    text = tmp_path / "notes.txt"
    text.write_text("dear diary\n" * 100)
    await refused(text, PermanentError, "not an SQLite database")
    short = tmp_path / "short"
    short.write_bytes(b"SQLite format 3\0")
    await refused(short, PermanentError, "not an SQLite database")
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("PRAGMA user_version = 1")
    connection.execute("CREATE TABLE x (y)")
    connection.commit()
    connection.close()
    await refused(other, PermanentError, "another program's database")
    connection = sqlite3.connect(other)
    connection.execute("PRAGMA user_version = 0")
    connection.close()
    await refused(other, PermanentError, "another program's database")
    await refused(tmp_path, PermanentError, "is a directory")
    await refused(text / "below" / "x.db", Unreachable, "cannot")


async def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    store = await open_store(path, SystemClock(), LIMITS)
    fill(store, 500)
    await store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(PermanentError, match="damaged") as refused:
        await open_store(path, SystemClock(), LIMITS)
    assert "backup" in refused.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
async def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    await (await open_store(path, SystemClock(), LIMITS)).close()
    path.chmod(0o400)
    with pytest.raises(Unreachable, match=os.strerror(errno.EACCES)):
        await open_store(path, SystemClock(), LIMITS)


@pytest.mark.serial
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
async def test_a_read_only_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    mounted = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    try:
        await (await open_store(folder / "dogwatch.db", SystemClock(), LIMITS)).close()
        await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(Unreachable, match="Read-only file system"):
            await open_store(folder / "dogwatch.db", SystemClock(), LIMITS)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(folder)], check=True)


async def test_the_file_is_private(store: SqliteStore, tmp_path: Path) -> None:
    await transition(store, 1)
    for name in ("dogwatch.db", "dogwatch.db-wal", "dogwatch.db.lock"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, name


async def test_opened_while_another_program_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    await (await open_store(path, SystemClock(), LIMITS)).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreLocked, match="locked by another program"):
            await open_store(path, SystemClock(), LIMITS)
    finally:
        other.close()
    await (await open_store(path, SystemClock(), LIMITS)).close()


async def test_migrations_run_once_and_mark_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    for _ in range(2):
        await (await open_store(path, ManualClock(), LIMITS)).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == migrations()[-1][0]
    assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert connection.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


async def test_a_batch_that_no_database_takes_is_given_up(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    fill(store, 5)
    change = Transition(target="t", time_s=float("nan"), before=Status.UP, after=Status.DOWN)
    state = TargetState(target="t", status=Status.DOWN, since_s=0.0, fingerprint="", decider=b"")
    await store.commit_transition(change, state)
    await store.flush()
    await until(lambda: not store.trouble)
    assert "cannot be written and is given up" in caplog.text
    assert metric(store, 'rows_lost_total{table="results"}') == 5
    assert metric(store, 'rows_lost_total{table="transitions"}') == 1
    await transition(store, 1)
    assert [one.reason for one in await store.transitions("t")] == ["1"]
    assert metric(store, 'buffer_rows{table="transitions"}') == 0


async def test_samples_near_the_largest_float(store: SqliteStore) -> None:
    for number in range(1000):
        store.add_samples("host", 1.8e9 + number, [("huge", 1.7e308), ("tiny", -1.7e308)])
    await store.flush()
    assert store.trouble == ""
    found = await store.series("host", ["huge", "tiny"], since_s=1.8e9, until_s=1.8e9 + 3600, points=1)
    assert [one.points[0][1] < 0 for one in found] == [False, True]


async def test_a_migration_keeps_what_is_there_and_a_failing_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.db"
    store = await open_store(path, SystemClock(), LIMITS)
    fill(store, 10)
    await transition(store, 1)
    await store.close()
    bad = [*migrations(), (2, "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);")]
    with pytest.raises(Unreachable, match="nowhere"):
        open_writer(path, bad)
    store = await open_store(path, SystemClock(), LIMITS)
    assert await total(store) == 10
    await store.close()
    connection = open_writer(
        path, [*migrations(), (2, "CREATE TABLE extra (x); ALTER TABLE target ADD COLUMN y TEXT;")]
    )
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name IN ('half', 'extra')").fetchone() == (1,)
    assert connection.execute("SELECT count(*), max(y) FROM target").fetchone() == (10, None)
    assert connection.execute("SELECT count(*) FROM transitions").fetchone() == (1,)
    connection.close()
    with pytest.raises(StoreNewer):
        await open_store(path, SystemClock(), LIMITS)


async def test_death_in_the_first_transaction(tmp_path: Path) -> None:
    """The file has pages, no mark, and a journal that takes them back."""
    path = tmp_path / "dogwatch.db"
    half = sqlite3.connect(tmp_path / "half.db", isolation_level=None)
    half.execute("PRAGMA cache_spill = 1")
    half.execute("PRAGMA cache_size = 1")
    half.execute("BEGIN EXCLUSIVE")
    half.execute("CREATE TABLE target (x)")
    half.executemany("INSERT INTO target VALUES (?)", [("x" * 3000,)] * 50)
    for end in ("", "-journal"):
        shutil.copy2(tmp_path / f"half.db{end}", f"{path}{end}")
    half.close()
    assert path.stat().st_size > 0
    store = await open_store(path, SystemClock(), LIMITS)
    assert await store.states() == {}
    await store.close()
