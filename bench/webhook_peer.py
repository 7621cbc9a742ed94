"""The peer of bench/webhooks.py: the least that takes a signed webhook and has it on disk before it answers.

A bare ASGI function on the same uvicorn: signature, JSON, one row, one commit. No endpoints, filters, runs, duplicates
or bounds. Arguments: a path for SQLite or an address for PostgreSQL. It says its port and ends when its input does.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import queue
import socket
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import uvicorn
import uvloop

SECRET = b"only-github-and-we-know"


def _connect(where: str) -> Any:
    if where.startswith("postgresql:"):
        connection: Any = psycopg.connect(where)
    else:
        connection = sqlite3.connect(where)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS peer (id TEXT PRIMARY KEY, body TEXT NOT NULL)")
    connection.commit()
    return connection


class Writer:
    """One thread with one connection; a commit for each request, as a handler with a session makes it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._query = "INSERT INTO peer VALUES (?, ?)"
        if where.startswith("postgresql:"):
            self._query = "INSERT INTO peer VALUES (%s, %s)"
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        connection = _connect(self._where)
        while True:
            row, waiter = self._jobs.get()
            connection.execute(self._query, row)
            connection.commit()
            self._loop.call_soon_threadsafe(waiter.set_result, None)

    async def insert(self, *row: str) -> None:
        waiter = self._loop.create_future()
        self._jobs.put((row, waiter))
        await waiter


def application(writer: Writer) -> Callable[..., Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        wanted = "sha256=" + hmac.new(SECRET, body, "sha256").hexdigest()
        status = 401
        if hmac.compare_digest(headers.get(b"x-hub-signature-256", b"").decode(), wanted):
            json.loads(body)
            await writer.insert(headers[b"x-github-delivery"].decode(), body.decode())
            status = 202
        answer = b'{"state":"accepted"}'
        start = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": answer})

    return app


async def main(where: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(application(Writer(where)), http="h11", log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        asyncio.get_running_loop().add_reader(sys.stdin, lambda: setattr(server, "should_exit", True))
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
