"""The watch with the real engine, http kind and SQLite store: down, restart, up, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dogwatch.config.section import Section
from dogwatch.core.bus import Bus
from dogwatch.core.clock import SystemClock
from dogwatch.probes.engine import Engine
from dogwatch.probes.env import close_env, new_env
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.spec import ProbeSpec, probes_section
from dogwatch.probes.watch import Watch
from dogwatch.store.limits import StoreOptions
from dogwatch.store.sqlite import open_store

SECTION = probes_section(PROBES)


class Specs:
    def __init__(self, *specs: ProbeSpec) -> None:
        self._specs = list(specs)

    def get(self, _section: Section[object]) -> object:
        return self._specs


@asynccontextmanager
async def watching(folder: Path, *specs: ProbeSpec) -> AsyncIterator[Watch]:
    clock = SystemClock()
    store = await open_store(str(folder / "store.db"), clock, StoreOptions().limits())
    engine = Engine()
    engine.open()
    env = new_env(engine)
    watch = Watch(env=env, store=store, bus=Bus(), clock=clock, section=SECTION)
    change = watch.prepare(Specs(*specs))  # type: ignore[arg-type]
    await change.start()
    change.swap()
    await change.finish()
    try:
        yield watch
    finally:
        await watch.stop()
        await close_env(env)
        await store.close()


async def until(watch: Watch, name: str, status: str) -> None:
    with watch.bus.subscribe("transition") as events:
        if watch.target(name).status == status and watch.all[name].commit is None:
            return
        async with asyncio.timeout(60):
            async for event in events:
                if event.data.target == name and event.data.after.word == status:  # type: ignore[attr-defined]
                    return


def shop(port: int) -> ProbeSpec:
    check = HttpProbe(url=f"http://127.0.0.1:{port}/", expect='status == 200 && json.status == "fine"')
    return ProbeSpec(name="shop", check=check, every=0.2, timeout=0.2)


async def test_down_is_kept_over_a_restart_and_up_follows(tmp_path: Path) -> None:
    body = ['{"status": "broken"}']

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        content = body[0].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(content), content))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with watching(tmp_path, shop(port)) as watch:
            await until(watch, "shop", "down")
            view = watch.target("shop")
            assert view.last_message == 'json.status == "fine" was false: json.status is "broken"'
            failures = await watch.store.failures("shop", limit=1)
            assert failures == [] or failures[0].body == '{"status": "broken"}'
        body[0] = '{"status": "fine"}'
        async with watching(tmp_path, shop(port)) as watch:
            assert watch.target("shop").status == "down"
            await until(watch, "shop", "up")
            transitions = await watch.store.transitions("shop")
            assert [one.after.word for one in transitions] == ["up", "down"]
            await watch.store.flush()
            assert (await watch.store.failures("shop", limit=1))[0].body == '{"status": "broken"}'
            assert len(await watch.store.results("shop", limit=100)) >= 5


async def test_attempts_under_way_are_cancelled_at_the_end(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        specs = [
            ProbeSpec(name=f"t{n}", check=HttpProbe(url=f"http://127.0.0.1:{port}/"), every=60.0) for n in range(50)
        ]
        async with watching(tmp_path, *specs) as watch:
            asking = [asyncio.ensure_future(watch.run_now(spec.name)) for spec in specs]
            for _ in range(5):
                await asyncio.sleep(0)
            assert watch.env.engine.active == 50
            started_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started_s < 2
        assert all(one is not None for one in await asyncio.gather(*asking, return_exceptions=True))
        assert watch.running == 0
