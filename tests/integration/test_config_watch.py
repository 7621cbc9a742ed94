"""The watcher on a real file system: every way in which files get changed, with inotify and without."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.config.watchlike import until

from dogwatch.config.inotify import Inotify
from dogwatch.config.watch import Timing, Watcher, contents, watch_points

# Nothing here passes by the slow comparison: it would come a minute late.
INOTIFY = Timing(quiet_s=0.03, safety_s=60.0)
POLLING = Timing(quiet_s=0.03, poll_s=0.05, safety_s=60.0)


def no_inotify() -> Inotify:
    raise OSError(errno.EMFILE, "Too many open files")


class Seen:
    """Counts changes and waits for them."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.count = 0
        self._more = asyncio.Event()

    async def follow(self) -> None:
        async with aclosing(self.watcher.changes()) as found:
            async for _ in found:
                self.count += 1
                self._more.set()

    async def ready(self) -> None:
        await until(lambda: self.watcher._known is not None)

    async def after(self, change: Callable[[], object]) -> None:
        """Do the change and wait until it is seen."""
        self._more.clear()
        change()
        async with asyncio.timeout(60):
            await self._more.wait()


@asynccontextmanager
async def watching(*paths: Path, timing: Timing, make: Callable[[], Inotify] = Inotify) -> AsyncGenerator[Seen, None]:
    seen = Seen(Watcher(lambda: paths, timing=timing, make=make))
    task = asyncio.create_task(seen.follow())
    try:
        await seen.ready()
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(params=["inotify", "polling"])
def how(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"timing": INOTIFY} if request.param == "inotify" else {"timing": POLLING, "make": no_inotify}


def configmap(folder: Path, version: str, text: str) -> None:
    """Publish a ConfigMap as the kubelet does: a new directory, then `..data` renamed over the old link."""
    data = folder / f"..{version}"
    data.mkdir(parents=True)
    (data / "dogwatch.yaml").write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    before = (folder / "..data").resolve() if (folder / "..data").is_symlink() else None
    link.rename(folder / "..data")
    if not (folder / "dogwatch.yaml").is_symlink():
        (folder / "dogwatch.yaml").symlink_to("..data/dogwatch.yaml")
    if before is not None:
        shutil.rmtree(before)


async def test_configmap_swaps(tmp_path: Path, how: dict[str, object]) -> None:
    folder = tmp_path / "etc"
    configmap(folder, "1", "a: 1")
    async with watching(folder / "dogwatch.yaml", **how) as seen:  # type: ignore[arg-type]
        # More than once: the watches must follow the links to the new directories.
        for version in range(2, 6):
            await seen.after(lambda version=version: configmap(folder, str(version), f"a: {version}"))
        assert seen.count == 4


async def test_a_folder_configuration_of_a_configmap(tmp_path: Path, how: dict[str, object]) -> None:
    configmap(tmp_path, "1", "a: 1")
    async with watching(tmp_path, **how) as seen:  # type: ignore[arg-type]
        await seen.after(lambda: configmap(tmp_path, "2", "a: 2"))
        await seen.after(lambda: configmap(tmp_path, "3", "a: 3"))


async def test_all_the_ways_of_editors(tmp_path: Path, how: dict[str, object]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")

    def rename_over() -> None:
        (tmp_path / ".c.yaml.swp").write_text("a: 2")
        (tmp_path / ".c.yaml.swp").rename(path)

    def move_away_and_write() -> None:
        path.rename(tmp_path / "c.yaml~")
        path.write_text("a: 3")

    def in_place() -> None:
        with path.open("r+") as file:
            file.write("a: 4")

    async with watching(path, **how) as seen:  # type: ignore[arg-type]
        for change in (rename_over, move_away_and_write, in_place, path.unlink, lambda: path.write_text("a: 5")):
            await seen.after(change)


async def test_files_come_and_go_in_a_folder(tmp_path: Path, how: dict[str, object]) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "a.yaml").write_text("a: 1")
    async with watching(folder, **how) as seen:  # type: ignore[arg-type]
        await seen.after(lambda: (folder / "b.yaml").write_text("b: 1"))
        await seen.after(lambda: (folder / "b.yaml").rename(folder / "c.yml"))
        await seen.after((folder / "c.yml").unlink)


async def test_directories_are_replaced(tmp_path: Path, how: dict[str, object]) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "c.yaml").write_text("a: 1")

    def replace() -> None:
        new = tmp_path / "new"
        new.mkdir()
        (new / "c.yaml").write_text("a: 2")
        folder.rename(tmp_path / "old")
        new.rename(folder)

    async with watching(folder / "c.yaml", **how) as seen:  # type: ignore[arg-type]
        await seen.after(replace)
        await seen.after(lambda: (folder / "c.yaml").write_text("a: 3"))
        await seen.after(lambda: shutil.rmtree(folder))

        def again() -> None:
            folder.mkdir()
            (folder / "c.yaml").write_text("a: 4")

        await seen.after(again)


async def test_a_chain_of_links_is_followed(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "three" / "c.yaml").write_text("a: 1")
    (tmp_path / "two" / "link.yaml").symlink_to("../three/c.yaml")
    (tmp_path / "one" / "c.yaml").symlink_to(tmp_path / "two" / "link.yaml")
    async with watching(tmp_path / "one" / "c.yaml", timing=INOTIFY) as seen:
        await seen.after(lambda: (tmp_path / "three" / "c.yaml").write_text("a: 2"))

        def relink() -> None:
            (tmp_path / "three" / "d.yaml").write_text("a: 3")
            (tmp_path / "two" / "new").symlink_to("../three/d.yaml")
            (tmp_path / "two" / "new").rename(tmp_path / "two" / "link.yaml")

        await seen.after(relink)
        await seen.after(lambda: (tmp_path / "three" / "d.yaml").write_text("a: 4"))


async def test_a_secret_in_another_directory_is_watched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "c.yaml").write_text("a: 1")
    async with watching(tmp_path / "a" / "c.yaml", tmp_path / "b" / "token", timing=INOTIFY) as seen:
        await seen.after(lambda: (tmp_path / "b" / "token").write_text("x"))


async def test_many_writes_are_one_change(tmp_path: Path) -> None:
    async with watching(tmp_path, timing=Timing(quiet_s=0.2, safety_s=60.0)) as seen:

        def many() -> None:
            for index in range(50):
                (tmp_path / f"{index}.yaml").write_text("a: 1")

        await seen.after(many)
        assert seen.count == 1


async def test_endless_writing_does_not_put_it_off_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("0")
    async with watching(path, timing=Timing(quiet_s=0.1, quiet_max_s=0.3, safety_s=60.0)) as seen:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 5
        number = 0
        while not seen.count and loop.time() < end_s:
            number += 1
            path.write_text(str(number))
            await asyncio.sleep(0.01)
        assert seen.count


async def test_a_file_is_not_read_while_it_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    async with watching(path, timing=Timing(quiet_s=0.03, quiet_max_s=0.1, open_max_s=60.0, safety_s=60.0)) as seen:
        with path.open("w") as half:
            await asyncio.sleep(0.3)
            assert seen.count == 0
            half.write("a: 2")
        await until(lambda: seen.count == 1)


async def test_a_file_that_stays_open_is_read_at_last(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    async with watching(path, timing=Timing(quiet_s=0.03, quiet_max_s=0.1, open_max_s=0.2, safety_s=60.0)) as seen:
        with path.open("w") as kept:
            kept.write("a: 2")
            kept.flush()
            await until(lambda: seen.count == 1)


async def test_touched_and_foreign_files_are_no_news(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    async with watching(path, timing=INOTIFY) as seen:
        os.utime(path)
        path.write_text("a: 1")
        (tmp_path / "other.yaml").write_text("x")
        await seen.after(lambda: path.write_text("a: 2"))
        assert seen.count == 1


async def test_an_unreadable_file_does_not_end_the_watcher(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    async with watching(path, timing=INOTIFY) as seen:

        def loop() -> None:
            path.unlink()
            path.symlink_to(path.name)

        await seen.after(loop)
        await seen.after(path.unlink)
        await seen.after(path.mkdir)
        path.rmdir()
        await seen.after(lambda: path.write_text("a: 2"))


async def test_the_limit_of_watches_falls_back_to_polling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(Inotify):
        def watch(self, folders: set[Path]) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    async with watching(path, timing=POLLING, make=Full) as seen:
        assert seen.watcher.polling
        await seen.after(lambda: path.write_text("a: 2"))
    assert caplog.text.count("watched by polling") == 1


def test_points_are_the_directories_of_every_link(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    configmap(root / "etc", "1", "a")
    points = watch_points([root / "etc" / "dogwatch.yaml"])
    assert points == {
        root: {"etc"},
        root / "etc": {"dogwatch.yaml", "..data", "..1"},
        root / "etc" / "..1": {"dogwatch.yaml"},
    } or points == {
        root / "etc": {"dogwatch.yaml", "..data", "..1"},
        root / "etc" / "..1": {"dogwatch.yaml"},
        root: {"etc"},
    }
    assert watch_points([root / "gone" / "deep" / "c.yaml"]) == {root: {"gone"}}


def test_contents_tell_missing_from_empty(tmp_path: Path) -> None:
    path = tmp_path / "c"
    missing = contents([path])
    path.write_text("")
    assert contents([path]) != missing
