"""The lane of the http kind, alone and under the watch: what is kept, what is told later, what is left to the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from http_servers import Client, Writer, client, serving, until
from test_watch_engine import until as until_status
from test_watch_engine import watching

from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.spec import ProbeSpec


@pytest.fixture(autouse=True)
def by_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "by_lane", True)


def answer(body: bytes, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n%sContent-Length: %d\r\n\r\n%s" % (
        head, len(body), body,
    )  # fmt: skip


class Book:
    """A script that answers each request with the next line of it."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def __call__(self, _request: bytes, writer: Writer) -> None:
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        await writer.drain()


async def test_a_kept_connection_is_asked_again_whatever_it_answers() -> None:
    book = Book(answer(b"one"), answer(b"one"), answer(b"two"), answer(b"three", b"X-Id: 1"), answer(b"four"))
    async with serving(book) as server, client() as asker:
        bodies = [(await asker.ask(server.url, keep_alive=True)).values["body"] for _ in range(5)]
        assert bodies == ["one", "one", "two", "three", "four"]
        assert server.connections == 1
        (_, lane) = next(iter(asker.lanes.values()))
        assert lane is not None
        seen = lane.answer
        await asker.ask(server.url, keep_alive=True)
        assert lane.answer is seen  # "four" again


async def test_what_comes_unasked_ends_the_kept_connection() -> None:
    async def script(_request: bytes, writer: Writer) -> None:
        writer.write(answer(b"one"))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 500 Not asked\r\n\r\n")

    async with serving(script) as server, client() as asker:
        for number in range(2):
            result = await asker.ask(server.url, keep_alive=True)
            assert (result.success, result.values["body"]) == (True, "one"), result
            assert server.connections == number + 1
            await until(lambda: not asker.engine._table)


async def test_an_answer_that_just_fills_the_room_is_not_taken_for_whole() -> None:
    large = answer(b"x" * 40_000)
    async with serving(Book(answer(b"small"), large, answer(b"small"))) as server, client() as asker:
        sizes = [(await asker.ask(server.url, keep_alive=True)).values["body_bytes"] for _ in range(3)]
    assert sizes == [5, 40_000, 5]


@pytest.mark.parametrize("keep_alive", [False, True])
async def test_cancelling_releases_the_connection(keep_alive: bool) -> None:
    silent = asyncio.Event()

    async def script(_request: bytes, writer: Writer) -> None:
        if silent.is_set():
            await asyncio.sleep(10)
        else:
            writer.write(answer(b"ok"))

    async with serving(script) as server, client() as asker:
        assert (await asker.ask(server.url, keep_alive=keep_alive)).success
        silent.set()
        task = asyncio.create_task(asker.ask(server.url, keep_alive=keep_alive))
        await until(lambda: asker.engine.active == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert asker.engine.active == 0
        assert not asker.engine._table


async def test_the_watch_keeps_what_a_lane_tells(tmp_path: Path) -> None:
    book = Book(answer(b"fine"))
    async with serving(book) as server:
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
        check = HttpProbe(url=f"http://127.0.0.1:{port}/", expect='status == 200 && body == "fine"', keep_alive=True)
        async with watching(tmp_path, ProbeSpec(name="shop", check=check, every=0.1, timeout=0.1)) as watch:
            await until_status(watch, "shop", "up")
            target = watch.all["shop"]
            first = target.succeeded
            await until(lambda: target.succeeded >= first + 5)
            assert target.lane is not None
            assert target._last is None  # nobody has looked at the newest one yet
            view = watch.target("shop")
            assert (view.last_success, view.values["status"], view.values["body"]) == (True, 200, "fine")
            assert view.last_phases is not None
            assert view.last_phases.first_byte_s > 0
            await watch.store.flush()
            rows = await watch.store.results("shop", limit=3)
            assert all(row.success and row.status == 1 and row.first_byte_s > 0 for row in rows)
            # Another body of the same length, and another head, are judged anew.
            book.answers = [answer(b"sick")]
            await until_status(watch, "shop", "down")
            assert target.reasons == {"expectation": target.failed}
            failure = (await watch.store.failures("shop", limit=1))[0]
            assert failure.body == "sick"
            book.answers = [answer(b"fine")]
            await until_status(watch, "shop", "up")
            await watch.pause("shop")
            assert target.flying is None
            assert watch.env.engine.active == 0


async def test_in_maintenance_the_rows_say_so(tmp_path: Path) -> None:
    async with serving(Book(answer(b"fine"))) as server:
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
        check = HttpProbe(url=f"http://127.0.0.1:{port}/")
        async with watching(tmp_path, ProbeSpec(name="shop", check=check, every=0.1, timeout=0.1)) as watch:
            await until_status(watch, "shop", "up")
            await until(lambda: watch.all["shop"].succeeded > 3)
            await watch.set_maintenance(["shop"], True)
            before = watch.all["shop"].succeeded
            await until(lambda: watch.all["shop"].succeeded > before + 1)
            await watch.store.flush()
            assert (await watch.store.results("shop", limit=1))[0].status == 5
