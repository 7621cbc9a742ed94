"""One suite over SQLite and PostgreSQL: what becomes a secret parameter is found nowhere on disk, and still works."""

from __future__ import annotations

import asyncio
import base64
import hmac
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from tests.contract.conftest import Open
from tests.contract.test_jobs_run import World, working
from tests.hooking import SECRET, Fixed, endpoint, signed
from tests.jobbing import JOBS, load_jobs

from dogwatch.access.actor import Actor
from dogwatch.access.sealing import FileSealer, KeySealer
from dogwatch.core.clock import SystemClock
from dogwatch.engine.values import RunState
from dogwatch.errors import Conflict
from dogwatch.store.database import Database
from dogwatch.webhooks.delivery import DeliveryState
from dogwatch.webhooks.hooks import Hooks
from dogwatch.webhooks.keptpayload import Sealer
from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.section import Endpoint
from dogwatch.webhooks.tables import webhook_tables

ADA = Actor(kind="user", name="ada")
# Written differently in JSON, in forms and in shells.
PLANTED = 'pl4nted "Wörd"/&x'
CODED = ["c0ded9w0", "rd9c0ded"]
HEADER = "h3ader-w0rd-7"
JOB = """
jobs:
- name: deploy
  parameters:
    token: {secret: true, required: false}
    coded: {secret: true, required: false}
    key: {secret: true, required: false}
    pin: {secret: true, required: false, type: integer}
    who: {required: false}
  concurrency: {policy: queue, key: '{{ trigger.data.payload.auth.token }}'}
  steps:
  - name: use
    exec: |
      test {{ params.token }} = {{ trigger.data.payload.auth.token }} && echo same
      printf '%s' {{ params.token }} | wc -c
      echo {{ params.token }} {{ params.key == null ? 'no' : params.key }} {{ trigger.data.payload.auth.token }}
    outputs: {seen: trigger.data.payload.auth.token}
"""
MAPPED = {"token": "payload.auth.token", "who": "payload.who"}


@asynccontextmanager
async def hooking(world: World, one: Endpoint, sealer: Sealer | None) -> AsyncIterator[Hooks]:
    hooks = Hooks(
        world.database,
        world.book,
        clock=SystemClock(),
        spawn=lambda name, work: asyncio.get_running_loop().create_task(work, name=name),
        jobs=JOBS,
        sealer=lambda: sealer,
    )
    hooks.prepare(Fixed(hooks=[one], jobs=load_jobs(JOB))).swap()
    try:
        yield hooks
    finally:
        await hooks.stop()


async def cells(database: Database) -> dict[str, bytes]:
    """Return every table with all that is in it, what is packed with zlib unpacked."""

    def work(tx: Any) -> dict[str, bytes]:
        if database.kind == "sqlite":
            named = tx.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        else:
            named = tx.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'dogwatch'")
        return {str(name): b"\n".join(_bytes(tx.rows(f"SELECT * FROM {name}"))) for (name,) in named}

    return await database.read(work)


def _bytes(rows: Iterable[Iterable[Any]]) -> Iterable[bytes]:
    for row in rows:
        for value in row:
            raw = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
            yield raw
            try:
                yield zlib.decompress(raw)
            except zlib.error:
                continue


async def on_disk(world: World, folder: Path, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """Return everything that is on disk, by where."""
    return {**await cells(world.database), **await asyncio.to_thread(_files, world, folder, request)}


def _files(world: World, folder: Path, request: pytest.FixtureRequest) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if world.database.kind == "sqlite":
        files = [file for file in folder.rglob("*") if file.is_file()]
    else:
        postgres = request.getfixturevalue("postgres")
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        files = [file for name in ("base", "pg_wal") for file in (postgres.data / name).rglob("*") if file.is_file()]
    for file in files:
        try:
            found[str(file)] = file.read_bytes()
        except FileNotFoundError:
            continue
    return found


def forms(secret: str) -> list[bytes]:
    plain = secret.encode()
    quoted = msgspec.json.encode(secret)[1:-1]
    return [plain, quoted, base64.b64encode(plain)[:-4], plain.hex().encode(), b"W\\u00f6rd", "Wörd".encode()]


def where(found: dict[str, bytes], *wanted: bytes) -> set[str]:
    return {place for place, content in found.items() if any(one in content for one in wanted)}


async def test_a_secret_of_a_payload_is_nowhere_on_disk_and_reaches_the_run(
    open_database: Open, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "elsewhere").mkdir()
    key = tmp_path.parent / f"{tmp_path.name}.key"
    sealer = FileSealer(key)
    marker = f"marker-{tmp_path.name}"
    body = {"auth": {"token": PLANTED, "again": [f"x{PLANTED}x"]}, PLANTED: 1, "who": marker}
    async with (
        working(open_database, JOB, webhook_tables(), sealer=sealer) as world,
        hooking(world, endpoint(parameters=MAPPED, filter="payload.who != 'no'"), sealer) as hooks,
    ):
        answer = await hooks.deliver("shop", signed(body))
        run = await world.ended(answer.run)
        assert run.state is RunState.SUCCEEDED, run.reason
        told = await world.text(run)
        assert told.splitlines()[:2] == ["same", str(len(PLANTED.encode()))]
        ignored = await hooks.deliver("shop", signed({**body, "who": "no"}, delivery="d-2"))
        assert ignored.state == "ignored"
        again = await hooks.replay(answer.id, ADA)
        assert (await world.ended(again.run_id)).state is RunState.SUCCEEDED
        started = await world.book.rerun(run.run_id, ADA)
        assert (await world.ended(started.run.run_id)).state is RunState.SUCCEEDED
        shown = [told, str(run), str(await world.steps(run)), str((await hooks.deliveries()).items)]
        for delivery in (answer.id, ignored.id, again.delivery_id):
            detail = await hooks.delivery(delivery)
            assert msgspec.json.decode(detail.text)["auth"] == {"token": "***", "again": ["x***x"]}
            shown.append(str(detail))
        kept = await on_disk(world, tmp_path, request)
    assert run.trigger.data["payload"]["auth"] == {"token": "***", "again": ["x***x"]}  # type: ignore[index, call-overload]
    assert run.trigger.data["payload"]["who"] == marker  # type: ignore[index, call-overload]
    assert not [text for text in shown if any(form.decode() in text for form in forms(PLANTED))]
    # The search works: what is no secret is found in the run's row and in the files.
    assert {"runs"} < where(kept, marker.encode())
    assert where(kept, *forms(PLANTED)) == set()
    key.unlink()


async def test_what_cannot_be_told_from_the_rest_is_withheld_as_a_whole(
    open_database: Open, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A secret that is computed from what came, is too short to be looked for, or cannot be read at all."""
    sealer = KeySealer(b"k" * 32)
    wrong_pin = "p1n-is-n0-number"
    mapped = {"coded": 'payload.coded[0] + "-" + payload.coded[1]', "pin": "int(payload.pin)"}
    async with (
        working(open_database, JOB, webhook_tables(), sealer=sealer) as world,
        hooking(world, endpoint(parameters=mapped), sealer) as hooks,
    ):
        first = await hooks.deliver("shop", signed({"coded": CODED, "pin": 12, "auth": {"token": "t"}}))
        run = await world.ended(first.run)
        wrong = await hooks.deliver("shop", signed({"coded": CODED, "pin": wrong_pin, "auth": {}}, delivery="d-2"))
        assert wrong.state == "refused"
        for answer in (first, wrong):
            detail = await hooks.delivery(answer.id)
            assert (detail.text, detail.withheld) == ("***", "it holds a secret that cannot be told from the rest")
        assert detail.delivery.reason == "a secret parameter cannot be read from it"
        again = await hooks.replay(first.id, ADA)
        assert again.state is DeliveryState.ACCEPTED
        await world.ended(again.run_id)
        kept = await on_disk(world, tmp_path, request)
    assert run.trigger.data["payload"] == "***"
    assert where(kept, wrong_pin.encode(), *(piece.encode() for piece in CODED)) == set()


async def test_secrets_of_headers_and_queries_are_sealed_and_come_back_with_a_replay(
    open_database: Open, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sealer = KeySealer(b"k" * 32)
    mapped = {"token": 'query["t"]', "key": 'headers["x-api-key"]'}
    sent = signed({"auth": {"token": PLANTED}}, query={"t": PLANTED, "page": "1"})
    sent = msgspec.structs.replace(sent, headers={**sent.headers, "x-api-key": HEADER, "x-note": f"is {HEADER}"})
    async with (
        working(open_database, JOB, webhook_tables(), sealer=sealer) as world,
        hooking(world, endpoint(parameters=mapped), sealer) as hooks,
    ):
        answer = await hooks.deliver("shop", sent)
        detail = await hooks.delivery(answer.id)
        assert detail.query == {"t": "***", "page": "1"}
        assert (detail.headers["x-api-key"], detail.headers["x-note"]) == ("***", "***")
        run = await world.ended((await hooks.replay(answer.id, ADA)).run_id)
        assert (await world.text(run)).splitlines()[:2] == ["same", str(len(PLANTED.encode()))]
        assert (await world.ended(answer.run)).state is RunState.SUCCEEDED
        kept = await on_disk(world, tmp_path, request)
    assert where(kept, HEADER.encode(), *forms(PLANTED)) == set()


async def test_with_another_key_the_delivery_is_listed_and_not_replayed(open_database: Open) -> None:
    one = endpoint(parameters=MAPPED)
    async with working(open_database, JOB, webhook_tables(), sealer=KeySealer(b"a" * 32)) as world:
        async with hooking(world, one, KeySealer(b"a" * 32)) as hooks:
            answer = await hooks.deliver("shop", signed({"auth": {"token": PLANTED}, "who": "me"}))
            await world.ended(answer.run)
        for other in (KeySealer(b"b" * 32), None):
            async with hooking(world, one, other) as hooks:
                detail = await hooks.delivery(answer.id)
                assert (detail.delivery.run_id, detail.text) == (answer.run, "***")
                assert "key" in detail.withheld
                with pytest.raises(Conflict, match="cannot be replayed: it "):
                    await hooks.replay(answer.id, ADA)


async def test_without_a_key_nothing_secret_is_kept_and_the_rest_is(
    open_database: Open, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with (
        working(open_database, JOB, webhook_tables()) as world,
        hooking(world, endpoint(parameters=MAPPED), None) as hooks,
    ):
        plain = await hooks.deliver("shop", signed({"auth": {}, "who": "me", "n": 1}))
        assert "n" in (await hooks.delivery(plain.id)).text
        answer = await hooks.deliver("shop", signed({"auth": {"token": PLANTED}, "who": "me"}, delivery="d-2"))
        assert (await hooks.delivery(answer.id)).withheld == "it holds a secret, and there was no key to keep it with"
        with pytest.raises(Conflict, match="no key"):
            await hooks.replay(answer.id, ADA)
        rows = await cells(world.database)
    assert where({"deliveries": rows["hook_deliveries"]}, *forms(PLANTED)) == set()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"auth": {"token": "\\u0070l4nted-word"}, "b": "pl4nted-word"}'),
        ("application/x-www-form-urlencoded", b"payload=%7B%22auth%22%3A%7B%22token%22%3A%22pl4nted-word%22%7D%7D"),
        ("application/x-www-form-urlencoded", b"auth=x&b=%70l4nted-word&token=pl4nted-word"),
    ],
)
async def test_however_a_secret_is_written_it_is_not_shown(open_database: Open, kind: str, body: bytes) -> None:
    mapped = {"token": "has(payload.token) ? payload.token : payload.auth.token"}
    sealer = KeySealer(b"a" * 32)
    signature = "sha256=" + hmac.new(SECRET.encode(), body, "sha256").hexdigest()
    headers = {"content-type": kind, "x-hub-signature-256": signature, "x-github-event": "push"}
    async with (
        working(open_database, JOB, webhook_tables(), sealer=sealer) as world,
        hooking(world, endpoint(parameters=mapped), sealer) as hooks,
    ):
        answer = await hooks.deliver("shop", RawRequest(headers=headers, body=body, remote="192.0.2.7"))
        detail = await hooks.delivery(answer.id)
        shown = detail.text + str(await world.book.show(answer.run) if answer.run else "")
        assert "***" in detail.text
        assert not [word for word in ("l4nted", "%70", "0070") if word in shown]
        if answer.run:
            await world.ended(answer.run)
