"""Jobs as configuration writes them, carried out by a worker on both databases: every kind, masks, outputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contract.conftest import Open
from tests.jobbing import REGISTRY, load_jobs
from tests.probing import peer

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import SystemClock
from dogwatch.engine.book.intents import Sealer
from dogwatch.engine.http_client import HttpClient
from dogwatch.engine.language import CelLanguage
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.engine.parameters import check_parameters
from dogwatch.engine.port import Runs
from dogwatch.engine.runs import Means, RunBook
from dogwatch.engine.scene import Services
from dogwatch.engine.scope import job_outputs, start_text
from dogwatch.engine.tables import engine_tables
from dogwatch.engine.values import Json, Run, RunFilter, RunState, StartRun, StepRun, StepState
from dogwatch.engine.worker import Worker, WorkerOptions, identity
from dogwatch.errors import UsageError
from dogwatch.store.database import Database, Tables

ANN = Actor(kind="user", name="ann")
SECRET, PASSWORD = "hunter2-token", "4711-secret-word"


class Turned:
    """A sealer that anybody could open, and that no search for the clear text finds."""

    def seal(self, data: bytes) -> bytes:
        return bytes(255 - byte for byte in data)

    def open(self, sealed: bytes) -> bytes:
        return self.seal(sealed)


class World:
    """A book and a worker over one database."""

    def __init__(self, book: RunBook, database: Database) -> None:
        self.book, self.database = book, database

    async def run(self, job: str, **parameters: Json) -> Run:
        started = await self.book.start(StartRun(job=job, actor=ANN, parameters=parameters))
        return await self.ended(started.run.run_id)

    async def ended(self, run_id: str) -> Run:
        async with asyncio.timeout(60):
            return await self.book.wait(run_id)

    async def waits(self, run_id: str, step: str) -> None:
        """Return once a step waits."""
        async with asyncio.timeout(60):
            while True:
                found = {one.name: one.state for one in await self.book.steps(run_id)}
                if found.get(step) is StepState.WAITING:
                    return
                await asyncio.sleep(0.05)

    async def steps(self, run: Run) -> dict[str, StepRun]:
        return {step.name: step for step in await self.book.steps(run.run_id)}

    async def text(self, run: Run) -> str:
        return "".join(chunk.text for chunk in await self.book.output(run.run_id))


@asynccontextmanager
async def working(
    open_database: Open, text: str, *tables: Tables, sealer: Sealer | None = None
) -> AsyncIterator[World]:
    jobs = {job.name: job for job in load_jobs(text)}
    database = await open_database(access_tables(), engine_tables(), *tables)
    means = Means(
        jobs=lambda: jobs,
        actions=REGISTRY,
        clock=SystemClock(),
        check=check_parameters,
        render=start_text,
        sealer=sealer or Turned(),
        outputs=job_outputs,
    )
    book, client, launcher = RunBook(database, means), HttpClient(), Launcher()
    await launcher.open()
    services = Services()
    services.add(Runs, book)  # type: ignore[type-abstract]
    services.add(HttpClient, client)
    services.add(Launcher, launcher)
    worker = Worker(
        identity(slots=8, ttl_s=30.0, labels={}, version="1"),
        book,
        database.listen,
        language=CelLanguage(),
        services=services,
        clock=SystemClock(),
        options=WorkerOptions(poll_s=0.1, grace_s=1.0),
    )
    task = asyncio.create_task(worker.run())
    try:
        yield World(book, database)
    finally:
        worker.stop()
        await asyncio.wait([task])
        await launcher.close()
        await client.close()
        task.result()


WHOLE = f"""
jobs:
- name: deploy
  parameters:
    version: {{pattern: 'v[0-9]+'}}
    hosts: {{type: list, default: [a, "b c"]}}
    password: {{secret: true}}
  secrets: {{token: {SECRET}}}
  env: {{TARGET: 'to {{{{ params.version }}}}'}}
  locks: ['deploy {{{{ params.version }}}}']
  steps:
  - name: build
    exec:
      run: |
        echo "building {{{{ params.version }}}} $TARGET with {{{{ secrets.token }}}} '{{{{ params.password }}}}'"
        printf '%s' {{{{ secrets.token }}}} | base64
        echo image=shop:{{{{ params.version }}}} >> "$DOGWATCH_OUTPUT"
    outputs: {{lines: 'size(result.stdout)'}}
  - name: never
    when: params.version == "v0"
    exec: exit 9
  - name: each
    map:
      over: '{{{{ params.hosts }}}}'
      exec: {{command: [echo, '{{{{ index }}}}={{{{ item }}}}', '{{{{ steps.build.outputs.image }}}}']}}
  - name: child
    job:
      job: measure
      parameters: {{what: '{{{{ steps.each.outputs.items[1].stdout }}}}', pin: '{{{{ params.password }}}}'}}
  - name: ask
    approve: {{message: 'go?'}}
  - name: call
    http:
      url: 'http://127.0.0.1:PORT/x'
      headers: {{Authorization: 'Bearer {{{{ secrets.token }}}}'}}
      json: {{size: '{{{{ steps.child.outputs.size }}}}', by: '{{{{ steps.ask.outputs.approved_by }}}}'}}
      expect: status == 200
  - name: rest
    wait: 10ms
  - name: tidy
    always: true
    exec: echo "tidy after {{{{ steps.call.state }}}}"
- name: measure
  parameters: {{what: {{}}, pin: {{secret: true}}}}
  steps:
  - name: size
    exec: |
      test "$(printf %s {{{{ params.pin }}}} | wc -c)" = {len(PASSWORD)}
      echo size={{{{ size(params.what) }}}} >> "$DOGWATCH_OUTPUT"
  outputs: {{size: 'int(steps.size.outputs.size)'}}
"""


@asynccontextmanager
async def server() -> AsyncIterator[tuple[int, list[bytes]]]:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        heard.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()

    async with peer(answer) as port:
        yield port, heard


async def test_a_job_of_every_kind(open_database: Open, tmp_path: Path) -> None:
    async with server() as (port, heard), working(open_database, WHOLE.replace("PORT", str(port))) as world:
        started = await world.book.start(
            StartRun(job="deploy", actor=ANN, parameters={"version": "v7", "password": PASSWORD})
        )
        run_id = started.run.run_id
        await world.waits(run_id, "ask")
        await world.book.decide(run_id, "ask", ANN, approve=True, comment="fine")
        run = await world.ended(run_id)
        steps, text = await world.steps(run), await world.text(run)
        assert run.state is RunState.SUCCEEDED, (run.reason, text)

        assert steps["build"].outputs["image"] == "shop:v7"
        assert steps["never"].state is StepState.SKIPPED
        assert [item["stdout"] for item in steps["each"].outputs["items"]] == ["0=a shop:v7\n", "1=b c shop:v7\n"]
        assert steps["child"].outputs["size"] == len("1=b c shop:v7\n")
        assert steps["ask"].outputs["approved_by"] == "user:ann"
        (request,) = heard
        assert f"Bearer {SECRET}".encode() in request
        assert request.endswith(b'{"by":"user:ann","size":14}')
        assert "tidy after succeeded" in text

        assert "building v7 to v7 with *** '***'" in text
        for secret in (SECRET, PASSWORD, "aHVudGVyMi10b2tlb"):
            assert secret not in text
            assert secret not in repr(await world.book.find(RunFilter()))
            assert secret not in repr(steps)
    assert not any(secret.encode() in stored(tmp_path) for secret in (SECRET, PASSWORD))


def stored(folder: Path) -> bytes:
    """Return all that SQLite has on disk."""
    return b"".join(file.read_bytes() for file in folder.glob("state.db*"))


CLEANUP = """
jobs:
- name: broken
  parameters: {name: {required: false}}
  steps:
  - {name: fill, exec: 'echo {{ params.name }}'}
  - {name: after, exec: 'echo never'}
  - {name: tidy, always: true, exec: 'echo tidied after {{ steps.fill.state }}'}
- name: outer
  steps:
  - {name: call, job: broken, allow_failure: true}
  - {name: told, exec: 'echo {{ steps.call.state }}: {{ steps.call.reason }}'}
"""


async def test_what_cannot_be_filled_in_fails_its_step(open_database: Open) -> None:
    async with working(open_database, CLEANUP) as world:
        run = await world.run("broken")
        steps = await world.steps(run)
        assert (run.state, steps["after"].state, steps["tidy"].state) == (
            RunState.FAILED,
            StepState.SKIPPED,
            StepState.SUCCEEDED,
        )
        assert "run: {{ params.name }} is null" in run.reason
        assert "tidied after failed" in await world.text(run)
        outer = await world.run("outer")
        assert outer.state is RunState.SUCCEEDED
        text = await world.text(outer)
        assert "failed: run " in text
        assert "is null" in text


async def test_parameters_are_checked_before_anything_is_written(open_database: Open) -> None:
    async with working(open_database, WHOLE.replace("PORT", "1")) as world:
        with pytest.raises(UsageError) as caught:
            await world.run("deploy", version="7", hosts="x", other=1)
        assert len(str(caught.value).splitlines()) == 4
        assert not (await world.book.find(RunFilter())).items
