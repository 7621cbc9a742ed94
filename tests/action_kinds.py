"""Scenes of actions: what they are given, a server that answers, child jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from dogwatch.engine.action import Action, Wait
from dogwatch.engine.http_client import HttpClient
from dogwatch.engine.kinds.http import HttpAction
from dogwatch.engine.kinds.job import JobAction
from dogwatch.engine.kinds.wait import WaitAction
from dogwatch.engine.port import Runs
from dogwatch.engine.spec import JobSpec, StepSpec
from tests.acting import FakeRuns, FakeScene
from tests.probing import peer

SECRET = "hunter2-very-secret"


@dataclass
class Act:
    """An action and the scene it is to meet."""

    action: Action
    scene: FakeScene = field(default_factory=FakeScene)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    body = await reader.readexactly(int(length[1])) if length else b""
    path = head.split(" ")[1]
    status = re.match(r"/(\d{3})", path)
    text = json.dumps({"head": head, "body": body.decode()}).encode()
    if path == "/big":
        text = b"x" * 500_000
    extra = "Retry-After: 7\r\n" if "retry" in path else ""
    if path == "/move":
        status, extra = re.match(r"/(\d{3})", "/302"), "Location: /there\r\n"
    line = f"HTTP/1.1 {status[1] if status else 200} Fine\r\nContent-Type: application/json\r\n{extra}"
    writer.write(f"{line}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text)
    await writer.drain()


@contextlib.asynccontextmanager
async def asking(**changes: Any) -> AsyncIterator[FakeScene]:
    client = HttpClient()
    try:
        yield FakeScene({HttpClient: client}, **changes)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def http(path: str = "/", **options: Any) -> AsyncIterator[Act]:
    async with peer(_answer) as port, asking() as scene:
        yield Act(HttpAction(url=f"http://127.0.0.1:{port}{path}", **options), scene)


CHILD = JobSpec(
    name="child",
    steps=[StepSpec(name="last", action=WaitAction(for_=1.0))],
    outputs={"size": "steps.last.outputs.size"},
)


def calling(runs: FakeRuns, **changes: Any) -> FakeScene:
    return FakeScene({Runs: runs}, **changes)


async def started(runs: FakeRuns, **changes: Any) -> tuple[JobAction, FakeScene, Wait]:
    action, scene = JobAction(job="child", parameters={"a": 1}), calling(runs, **changes)
    wait = await action.apply(scene)
    assert isinstance(wait, Wait)
    return action, scene, wait
