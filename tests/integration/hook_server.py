"""A program of its own: the real web server, webhooks and book of runs over a real database, and nothing else.

Arguments: a path for SQLite or an address for PostgreSQL. It says its port, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import msgspec
import uvloop
from tests.fakes import FakeProgram
from tests.hooking import SECRET, Fixed
from tests.runs import book, job

from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.tables import engine_tables
from dogwatch.store.state_postgres import open_postgres
from dogwatch.store.state_sqlite import open_sqlite
from dogwatch.web.application import create_web
from dogwatch.web.options import WebOptions
from dogwatch.web.server import serve
from dogwatch.webhooks.hooks import Hooks
from dogwatch.webhooks.schemes import GithubScheme
from dogwatch.webhooks.section import Endpoint
from dogwatch.webhooks.tables import webhook_tables

TABLES = (access_tables(), engine_tables(), webhook_tables())
ENDPOINTS = (
    Endpoint(
        name="shop",
        job="build",
        scheme=GithubScheme(secrets=(SECRET,)),
        filter="!has(payload.skip)",
        parameters={"sha": "payload.after", "ref": "payload.ref"},
        keep_max=1_000_000,
    ),
    Endpoint(name="small", job="build", scheme=GithubScheme(secrets=(SECRET,)), max_size=1000),
)


async def main(where: str) -> None:
    clock = SystemClock()
    if where.startswith("postgresql:"):
        database = await open_postgres(where, TABLES)
    else:
        database = await open_sqlite(Path(where), TABLES, clock)
    hooks = Hooks(
        database,
        book(database, job("build")),
        clock=clock,
        spawn=lambda name, work: asyncio.get_running_loop().create_task(work, name=name),
    )
    hooks.prepare(Fixed(hooks=list(ENDPOINTS))).swap()
    program = FakeProgram(clock=clock)
    program.services.hooks = hooks
    app = create_web(program.services, msgspec.structs.replace(WebOptions(), connections=1000, request_timeout=2.0))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: sys.stdin.buffer.read1() or stop.set())
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        await serve(app, [listener], stop=stop)
    loop.remove_reader(sys.stdin)
    await hooks.stop()
    await database.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
