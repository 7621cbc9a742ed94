"""Webhooks and notifications over the real web server: addresses, statuses, API, and the commands on top of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from tests.fakes import FakeProgram
from tests.hooking import FAKE_RUNS, FakeRuns, Fixed, endpoint, github, runs_of
from tests.receiver import Receiver, receiving
from tests.web_server import Running, running

from dogwatch.access.identity import local
from dogwatch.access.permissions import Rights, Role, Rule
from dogwatch.access.tables import access_tables
from dogwatch.cli.hook import hook
from dogwatch.cli.notify import notify
from dogwatch.core.clock import SystemClock
from dogwatch.errors import DogwatchError, NotAllowed, NotFound
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.notify import Notify
from dogwatch.notify.section import Destination, Patience
from dogwatch.notify.tables import notify_tables
from dogwatch.store.database import Database
from dogwatch.store.state_sqlite import open_sqlite
from dogwatch.web.api import hooks as api
from dogwatch.web.api.notify import list_outbox
from dogwatch.web.api.paging import Wanted
from dogwatch.web.context import WebContext
from dogwatch.web.options import WebOptions
from dogwatch.webhooks.hooks import Hooks
from dogwatch.webhooks.schemes import TokenScheme
from dogwatch.webhooks.section import HookRate
from dogwatch.webhooks.tables import webhook_tables

ENDPOINTS = (
    endpoint(filter="!has(payload.skip)", parameters={"sha": "payload.after"}),
    endpoint(name="rated", rate=HookRate(max=1, per=60.0)),
    endpoint(name="small", max_size=100),
    endpoint(name="bearer", scheme=TokenScheme(secrets=("our-token",), prefix="Bearer "), labels={"team": "shop"}),
)


def _spawn(name: str, work: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work, name=name)


class Site:
    """A server with webhooks and notifications."""

    def __init__(self, served: Running, database: Database, receiver: Receiver) -> None:
        self.served, self.database, self.receiver = served, database, receiver

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], Any]:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        whole = await self.served.raw(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        head, _, content = whole.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return int(first.split()[1]), found, msgspec.json.decode(content) if content else None

    async def send(self, body: object, name: str = "shop", **options: str) -> tuple[int, dict[str, str], Any]:
        raw = msgspec.json.encode(body)
        return await self.ask("POST", f"/hooks/{name}", github(raw, **options), raw)

    async def command(self, group: click.Group, *words: str) -> tuple[int, str]:
        """Run a command line against this server, in a thread, as the program does."""

        def run() -> tuple[int, str]:
            arguments = [*words, "--server", self.served.url]
            result = CliRunner().invoke(group, arguments, standalone_mode=False)
            if isinstance(result.exception, DogwatchError):
                return result.exception.exit_code, str(result.exception)
            if result.exception is not None:
                raise result.exception
            return result.return_value or 0, result.output

        return await asyncio.to_thread(run)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    clock = SystemClock()
    tables = (access_tables(), notify_tables(), webhook_tables(), FAKE_RUNS)
    async with contextlib.AsyncExitStack() as stack:
        database = await open_sqlite(tmp_path / "state.db", tables, clock)
        stack.push_async_callback(database.close)
        receiver = await stack.enter_async_context(receiving())
        hooks = Hooks(database, FakeRuns(), clock=clock, spawn=_spawn)  # type: ignore[arg-type]
        stack.push_async_callback(hooks.stop)
        hooks.prepare(Fixed(hooks=list(ENDPOINTS))).swap()
        told = Notify(database, clock=clock, spawn=_spawn)
        stack.push_async_callback(told.stop)
        ops = Destination(
            channel=WebhookChannel(url=receiver.url, unsigned=True), retry=Patience(attempts=1, base=0.01, cap=0.01)
        )
        told.prepare(Fixed(notify={"ops": ops})).swap()
        program = FakeProgram(clock=clock)
        program.services.hooks, program.services.outbox = hooks, told
        served = await stack.enter_async_context(running(program))
        yield Site(served, database, receiver)


pytestmark = pytest.mark.allow_leak("thread:asyncio_*", reason="the loop keeps the threads that commands ran in")


async def test_a_delivery_over_http(site: Site) -> None:
    status, headers, told = await site.send({"after": "abc"})
    assert status == 202
    assert headers["content-type"] == "application/json"
    assert told["state"] == "accepted"
    (run,) = await site.database.read(runs_of)
    assert run.parameters == {"sha": "abc"}
    assert run.actor.address == "127.0.0.1"
    status, _, again = await site.send({"after": "abc"})
    assert (status, again["id"], again["state"]) == (200, told["id"], "duplicate")
    status, _, told = await site.send({}, event="ping", delivery="p")
    assert (status, told["state"]) == (200, "pong")


async def test_refusals_over_http(site: Site) -> None:
    status, _, told = await site.ask("POST", "/hooks/shop", github(b"[]"), b"{}")
    assert (status, told["detail"]) == (401, "the signature is not accepted")
    assert (await site.ask("POST", "/hooks/none", github(b"{}"), b"{}"))[0] == 404
    assert (await site.ask("GET", "/hooks/shop"))[0] == 405
    assert (await site.ask("POST", "/hooks/shop", github(b"{"), b"{"))[0] == 400
    # Each endpoint's own limit, told before the body is read.
    status, headers, _ = await site.ask("POST", "/hooks/small", github(b"x" * 101), b"x" * 101)
    assert (status, headers["connection"]) == (413, "close")
    assert (await site.send({"n": 1}, "rated"))[0] == 202
    status, headers, _ = await site.send({"n": 2}, "rated", delivery="2")
    assert status == 429
    assert 55 <= int(headers["retry-after"]) <= 61


async def test_a_body_without_a_length_is_cut_off_at_the_limit(site: Site) -> None:
    head = "POST /hooks/small HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    answer = await site.served.raw(head.encode() + b"\r\n" + b"c8\r\n" + b"x" * 200 + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_senders_authorization_is_its_own(site: Site) -> None:
    """It is looked at by the endpoint, and not taken for one of our tokens; nor must it come from this machine."""
    headers = {"Authorization": "Bearer our-token", "Content-Type": "application/json", "X-Forwarded-For": "192.0.2.1"}
    status, _, told = await site.ask("POST", "/hooks/bearer", headers, b"{}")
    assert (status, told["state"]) == (202, "accepted")
    status, _, _ = await site.ask("POST", "/hooks/bearer", {"Authorization": "Bearer another"}, b"{}")
    assert status == 401
    # A page elsewhere can make browsers call it as well as anybody can; the signature decides.
    status, _, _ = await site.ask("POST", "/hooks/bearer", {**headers, "Origin": "https://example.org"}, b"{}")
    assert status == 202


async def test_repeated_headers_are_seen(site: Site) -> None:
    body = b"{}"
    lines = [f"{name}: {value}" for name, value in github(body).items()]
    lines.append("X-Hub-Signature-256: sha256=" + "0" * 64)
    head = "\r\n".join(
        ["POST /hooks/shop HTTP/1.1", "Host: localhost", "Content-Length: 2", "Connection: close", *lines]
    )
    assert (await site.served.raw(head.encode() + b"\r\n\r\n" + body)).startswith(b"HTTP/1.1 401")
    _, _, view = await site.ask("GET", "/api/v1/hooks/shop")
    assert view["rejections"][-1]["reason"] == "the header X-Hub-Signature-256 is there more than once"


async def test_deliveries_over_the_api(site: Site) -> None:
    _, _, told = await site.send({"after": "abc"})
    await site.send({"skip": 1}, delivery="2")
    views = (await site.ask("GET", "/api/v1/hooks"))[2]["items"]
    assert [view["name"] for view in views] == [one.name for one in ENDPOINTS]
    assert "secret" not in json.dumps(views)
    _, _, page = await site.ask("GET", "/api/v1/deliveries?state=ignored")
    assert [one["source_id"] for one in page["items"]] == ["2"]
    _, _, detail = await site.ask("GET", f"/api/v1/deliveries/{told['id']}")
    assert detail["headers"]["x-hub-signature-256"] == "***"
    assert detail["text"] == '{"after":"abc"}'
    status, _, replayed = await site.ask("POST", f"/api/v1/deliveries/{told['id']}/replay")
    assert (status, replayed["replay_of"]) == (200, told["id"])
    ignored = page["items"][0]["delivery_id"]
    _, _, replayed = await site.ask("POST", f"/api/v1/deliveries/{ignored}/replay")
    assert replayed["state"] == "ignored"
    assert (await site.ask("GET", "/api/v1/deliveries/none"))[0] == 404
    assert (await site.ask("POST", "/api/v1/deliveries/none/replay"))[0] == 404
    assert (await site.ask("GET", "/api/v1/hooks/none"))[0] == 404
    assert (await site.ask("GET", "/api/v1/deliveries?state=what"))[0] == 400


async def test_notifications_over_the_api(site: Site) -> None:
    status, _, queued = await site.ask("POST", "/api/v1/notify/ops/test")
    assert status == 200
    await site.receiver.until(1)
    async with asyncio.timeout(60):
        while (row := (await site.ask("GET", f"/api/v1/outbox/{queued['message_id']}"))[2])["state"] != "delivered":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert row["message"]["type"] == "notify.test"
    _, _, page = await site.ask("GET", "/api/v1/outbox?state=delivered&destination=ops")
    assert [one["message_id"] for one in page["items"]] == [row["message_id"]]
    status, _, _ = await site.ask("POST", f"/api/v1/outbox/{row['message_id']}/redeliver")
    assert status == 200
    again = await site.receiver.until(2)
    assert {one.headers["webhook-id"] for one in again} == {row["message_id"]}
    views = (await site.ask("GET", "/api/v1/notify"))[2]["items"]
    assert views[0]["address"] == site.receiver.url
    assert (await site.ask("POST", "/api/v1/notify/ops/redeliver"))[2] == {"messages": 0}
    assert (await site.ask("POST", "/api/v1/notify/none/test"))[0] == 404
    assert (await site.ask("GET", "/api/v1/outbox/none"))[0] == 404


async def test_programs_without_them_say_so() -> None:
    async with running() as served:
        program = Site(served, None, None)  # type: ignore[arg-type]
        for path in ("/api/v1/hooks", "/api/v1/deliveries", "/api/v1/notify", "/api/v1/outbox"):
            assert (await program.ask("GET", path))[0] == 404
        assert (await program.ask("POST", "/hooks/shop"))[0] == 404


async def test_the_command_hook(site: Site) -> None:
    _, _, told = await site.send({"after": "abc"})
    _, _, skipped = await site.send({"skip": "\x1b[31m"}, delivery="2")
    await site.ask("POST", "/hooks/shop", github(b"[]"), b"{}")
    code, text = await site.command(hook, "list")
    assert (code, "1 accepted, 1 ignored, 1 bad signature" in text) == (0, True)
    code, text = await site.command(hook, "show", "shop")
    assert "/hooks/shop" in text
    assert "the signature is not ours" in text
    code, text = await site.command(hook, "deliveries")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [skipped["id"], told["id"]]
    code, text = await site.command(hook, "deliveries", "--state", "ignored", "--json")
    assert [one["delivery_id"] for one in json.loads(text)] == [skipped["id"]]
    code, text = await site.command(hook, "delivery", skipped["id"])
    assert "x-hub-signature-256: ***" in text
    assert "\x1b" not in text
    code, text = await site.command(hook, "replay", skipped["id"])
    assert (code, "ignored" in text) == (1, True)
    code, text = await site.command(hook, "replay", told["id"], "--json")
    assert (code, json.loads(text)["replay_of"]) == (0, told["id"])
    code, text = await site.command(hook, "delivery", "none")
    assert code == 10
    assert (await site.command(hook, "show", "shp"))[0] == 10


async def test_the_command_notify(site: Site) -> None:
    code, text = await site.command(notify, "test", "ops")
    assert (code, "delivered" in text) == (0, True)
    site.receiver.answer = lambda _request: (400, {})
    code, text = await site.command(notify, "test", "ops")
    assert (code, "answered 400" in text) == (1, True)
    code, text = await site.command(notify, "outbox", "--state", "dead", "--json")
    (dead,) = json.loads(text)
    code, text = await site.command(notify, "outbox")
    assert "Test from Dogwatch" in text
    site.receiver.answer = lambda _request: (200, {})
    code, text = await site.command(notify, "redeliver", dead["message_id"])
    assert code == 0
    await site.receiver.until(3)
    code, text = await site.command(notify, "redeliver", "--all", "ops")
    assert text == "0 messages go again.\n"
    code, text = await site.command(notify, "list")
    assert (code, site.receiver.url in text) == (0, True)
    with pytest.raises(click.UsageError):
        await site.command(notify, "redeliver")
    assert (await site.command(notify, "test", "opps"))[0] == 10


def test_a_new_secret_is_one() -> None:
    from dogwatch.notify.standard import parse_secret

    printed = CliRunner().invoke(notify, ["secret"]).output.strip()
    assert len(parse_secret(printed)) == 32


ALL = Wanted(q="", cursor="", limit=100)


async def test_whoever_is_limited_to_labels_sees_nothing_else(site: Site) -> None:
    hooks = site.served.program.services.hooks
    outbox = site.served.program.services.outbox
    assert hooks is not None
    shop = (await site.send({"after": "abc"}))[2]["id"]
    headers = {"Authorization": "Bearer our-token", "Content-Type": "application/json"}
    own = (await site.ask("POST", "/hooks/bearer", headers, b"{}"))[2]["id"]
    read = Rule(nouns=("webhook", "notification"), verbs=("read",), labels={"team": "shop"})
    context = WebContext(site.served.program.services, WebOptions(), None, None, None)  # type: ignore[arg-type]
    ctx = context.seen_by(local("ada", rights=Rights((Role(name="shop", rules=(read,)),))))
    assert outbox is not None
    assert [view.name for view in (await api.list_hooks.fn(ctx, ALL)).items] == ["bearer"]
    assert [one.delivery_id for one in (await api.list_deliveries.fn(ctx)).items] == [own]
    assert (await api.list_deliveries.fn(ctx, endpoint="shop")).items == []
    assert (await api.show_delivery.fn(ctx, own)).delivery.delivery_id == own
    for call in (
        lambda: api.show_hook.fn(ctx, "shop"),
        lambda: api.show_delivery.fn(ctx, shop),
        lambda: api.replay_delivery.fn(ctx, shop),
    ):
        with pytest.raises(NotFound):
            await call()
    with pytest.raises(NotAllowed):
        await api.replay_delivery.fn(ctx, own)
    # Messages have no labels: who is limited to some sees none.
    with pytest.raises(NotAllowed):
        await list_outbox.fn(ctx)
