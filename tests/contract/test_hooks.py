"""One suite over SQLite and PostgreSQL: what webhooks that come in promise."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.contract.conftest import Open
from tests.hooking import FAKE_RUNS, SECRET, FakeRuns, Fixed, endpoint, github, runs_of, signed

from dogwatch.access.actor import Actor
from dogwatch.access.tables import access_tables
from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.errors import NotFound, UsageError
from dogwatch.store.database import Database
from dogwatch.webhooks import deliveries
from dogwatch.webhooks.delivery import DeliveryState
from dogwatch.webhooks.hooks import Hooks
from dogwatch.webhooks.request import RawRequest
from dogwatch.webhooks.schemes import HmacScheme, NoScheme, StandardScheme, StripeScheme, TokenScheme
from dogwatch.webhooks.section import Endpoint, HookRate
from dogwatch.webhooks.tables import webhook_tables
from dogwatch.webhooks.view import HookRefusal

ACTOR = Actor(kind="user", name="ada")


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(access_tables(), webhook_tables(), FAKE_RUNS)


@asynccontextmanager
async def hooking(
    database: Database,
    *endpoints: Endpoint,
    runs: FakeRuns | None = None,
    clock: ManualClock | SystemClock | None = None,
) -> AsyncIterator[Hooks]:
    hooks = Hooks(
        database,
        runs or FakeRuns(),  # type: ignore[arg-type]
        clock=clock or SystemClock(),
        spawn=lambda name, work: asyncio.get_running_loop().create_task(work, name=name),
        bodies_most=1_000_000,
    )
    hooks.prepare(Fixed(hooks=list(endpoints))).swap()
    try:
        yield hooks
    finally:
        await hooks.stop()


async def test_a_delivery_and_its_run_are_there_before_the_answer(database: Database) -> None:
    job = endpoint(parameters={"sha": "payload.after", "count": "size(payload.commits)"}, labels={"team": "shop"})
    async with hooking(database, job) as hooks:
        answer = await hooks.deliver("shop", signed({"after": "abc", "commits": [1, 2]}))
        assert (answer.status, answer.state) == (202, "accepted")
        (run,) = await database.read(runs_of)
        assert run.parameters == {"sha": "abc", "count": 2}
        assert run.actor == Actor(kind="webhook", name="shop", address="192.0.2.7")
        assert (run.trigger.kind, run.trigger.name, run.labels) == ("webhook", "shop", {"team": "shop"})
        assert run.trigger.data["delivery"] == answer.id
        assert run.trigger.data["payload"] == {"after": "abc", "commits": [1, 2]}
        detail = await hooks.delivery(answer.id[:-3])
        assert detail.delivery.run_id == answer.run
        assert (detail.delivery.event, detail.delivery.source_id) == ("push", "d-1")
        assert msgspec.json.decode(detail.text) == {"after": "abc", "commits": [1, 2]}


async def test_nothing_secret_is_kept(database: Database) -> None:
    request = signed({"note": f"the secret is {SECRET}"}, query={"token": "t0p", "page": "1", "q": SECRET})
    request = msgspec.structs.replace(
        request, headers={**request.headers, "authorization": "Bearer x", "cookie": "a=b", "x-odd": f"<{SECRET}>"}
    )
    async with hooking(database, endpoint()) as hooks:
        detail = await hooks.delivery((await hooks.deliver("shop", request)).id)
    assert detail.query == {"token": "***", "page": "1", "q": "***"}
    hidden = {name for name, value in detail.headers.items() if value == "***"}
    assert hidden == {"authorization", "cookie", "x-hub-signature-256"}
    assert detail.headers["x-odd"] == "<***>"
    assert detail.headers["x-github-delivery"] == "d-1"
    assert SECRET not in detail.text
    stored = await database.read(lambda tx: tx.rows("SELECT headers, query, reason FROM hook_deliveries"))
    assert SECRET not in str(stored)
    assert "t0p" not in str(stored)


async def test_a_wrong_signature_is_refused_without_detail_and_without_a_trace_on_disk(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    request = signed({})
    bad = msgspec.structs.replace(request, body=b"[]")
    async with hooking(database, endpoint()) as hooks:
        with caplog.at_level(logging.WARNING):
            for _ in range(50):
                with pytest.raises(HookRefusal) as refusal:
                    await hooks.deliver("shop", bad)
        assert (refusal.value.status, str(refusal.value)) == (401, "the signature is not accepted")
        view = await hooks.endpoint("shop")
        assert view.counts == {"bad_signature": 50}
        assert len(view.rejections) == 20
        assert view.rejections[-1].reason == "the signature is not ours"
        assert (await hooks.deliveries()).items == []
    assert [record.getMessage() for record in caplog.records] == [
        "hooks.shop: requests with a wrong signature: 1; the last, from 192.0.2.7: the signature is not ours"
    ]


async def test_the_same_delivery_twice_is_one_run(database: Database) -> None:
    async with hooking(database, endpoint()) as hooks:
        first = await hooks.deliver("shop", signed({"n": 1}))
        again = await hooks.deliver("shop", signed({"n": 1}))
        # The id is not signed: whoever replays a captured request may write another one.
        replayed = await hooks.deliver("shop", signed({"n": 1}, delivery="d-2"))
        other_body = await hooks.deliver("shop", signed({"n": 2}))
        assert first.status == 202
        assert {(one.status, one.state, one.id) for one in (again, replayed, other_body)} == {
            (200, "duplicate", first.id)
        }
        assert len(await database.read(runs_of)) == 1
        # What a replay claimed to be is not remembered, so that the real one gets through.
        assert (await hooks.deliver("shop", signed({"n": 3}, delivery="d-2"))).state == "accepted"
        assert (await hooks.delivery(first.id)).delivery.duplicates == 3


async def test_many_times_at_once_is_one_run(database: Database) -> None:
    async with hooking(database, endpoint()) as one, hooking(database, endpoint()) as other:
        answers = await asyncio.gather(
            *(hooks.deliver("shop", signed({"n": 1})) for hooks in (one, other) for _ in range(30))
        )
        assert len({answer.id for answer in answers}) == 1
        assert sorted(answer.status for answer in answers) == [200] * 59 + [202]
        assert len(await database.read(runs_of)) == 1


async def test_two_endpoints_know_each_their_own(database: Database) -> None:
    async with hooking(database, endpoint(), endpoint(name="other")) as hooks:
        assert (await hooks.deliver("shop", signed({}))).state == "accepted"
        assert (await hooks.deliver("other", signed({}))).state == "accepted"


async def test_what_was_seen_is_forgotten_after_its_time(database: Database) -> None:
    quick = endpoint(remember=0.05, tolerance=1.0)
    async with hooking(database, quick) as hooks:
        first = await hooks.deliver("shop", signed({}))
        async with asyncio.timeout(60):
            while (again := await hooks.deliver("shop", signed({}))).state == "duplicate":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert again.id != first.id


async def test_filters(database: Database) -> None:
    job = endpoint(filter='event == "push" && payload.ref == "refs/heads/main"')
    async with hooking(database, job) as hooks:
        for delivery, event, body, state in (
            ("1", "push", {"ref": "refs/heads/main"}, "accepted"),
            ("2", "push", {"ref": "refs/heads/topic"}, "ignored"),
            ("3", "push", {"other": 1}, "ignored"),
            ("4", "issues", {"ref": "refs/heads/main", "x": 1}, "ignored"),
        ):
            answer = await hooks.deliver("shop", signed(body, delivery=delivery, event=event))
            assert (answer.status, answer.state) == (202, state), delivery
        reasons = {one.source_id: one.reason for one in (await hooks.deliveries(state="ignored")).items}
        assert 'payload.ref is "refs/heads/topic"' in reasons["2"]
        assert "does not apply" in reasons["3"]
        assert len(await database.read(runs_of)) == 1


async def test_what_the_job_refuses_is_kept_with_the_reason(database: Database) -> None:
    runs = FakeRuns("deploy", "busy")
    runs.busy.add("busy")
    endpoints = (
        endpoint(name="absent", job="absent"),
        endpoint(name="wrong", parameters={"wrong": "1"}),
        endpoint(name="busy", job="busy"),
        endpoint(name="unmapped", parameters={"sha": "payload.absent"}),
    )
    async with hooking(database, *endpoints, runs=runs) as hooks:
        for one in endpoints:
            answer = await hooks.deliver(one.name, signed({}))
            assert (answer.status, answer.state, answer.run) == (202, "refused", "")
        reasons = {one.endpoint: one.reason for one in (await hooks.deliveries()).items}
        # A run that the job refused in the middle of the transaction left nothing.
        assert await database.read(runs_of) == []
    assert reasons["absent"] == "no job is called 'absent'"
    assert reasons["wrong"] == "parameter 'wrong': is unknown"
    assert reasons["busy"] == "a run of busy is there already"
    assert "payload.absent" in reasons["unmapped"]


async def test_a_ping_is_answered_and_starts_nothing(database: Database) -> None:
    async with hooking(database, endpoint()) as hooks:
        answer = await hooks.deliver("shop", signed({"zen": "x"}, event="ping"))
        assert (answer.status, answer.state) == (200, "pong")
        assert [one.reason for one in (await hooks.deliveries()).items] == ["a ping"]
    assert await database.read(runs_of) == []


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ("application/vnd.x+json; charset=utf-8", b"[]", []),
        ("application/x-www-form-urlencoded", b"payload=%7B%22a%22%3A+1%7D", {"a": 1}),
        ("application/x-www-form-urlencoded", b"a=1&a=2&b=", {"a": ["1", "2"], "b": ""}),
        ("text/plain", "größe\0".encode(), "größe\0"),
        ("application/xml", b"<a/>", "<a/>"),
        ("", b'{"a": 1}', {"a": 1}),
        ("", b"not json", "not json"),
        ("application/json", b"", None),
    ],
)
async def test_bodies(database: Database, content_type: str, body: bytes, value: object) -> None:
    scheme = TokenScheme(secrets=(SECRET,))
    headers = {"authorization": SECRET, "content-type": content_type}
    async with hooking(database, endpoint(scheme=scheme)) as hooks:
        answer = await hooks.deliver("shop", RawRequest(headers=headers, body=body))
        assert answer.state == "accepted"
        (run,) = await database.read(runs_of)
        assert run.trigger.data["payload"] == value
        # The same bytes go in again.
        replay = await hooks.replay(answer.id, ACTOR)
        assert replay.state is DeliveryState.ACCEPTED
        assert {one.trigger.data["payload"] == value for one in await database.read(runs_of)} == {True}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{", 400),
        ({}, b"\xff\xfe", 400),
        ({}, b"[" * 100_000, 400),
        ({}, b'{"a": 1e999999, "a": "\\ud800"}', 400),
        ({"content-type": "application/x-www-form-urlencoded"}, b"payload={", 400),
        ({"content-type": "application/x-www-form-urlencoded"}, b"a&" * 5000, 400),
        ({"content-type": "multipart/form-data"}, b"x", 415),
        ({"content-encoding": "gzip"}, zlib.compress(b"{}"), 415),
    ],
)
async def test_malformed_bodies(database: Database, headers: dict[str, str], body: bytes, status: int) -> None:
    async with hooking(database, endpoint()) as hooks:
        with pytest.raises(HookRefusal) as refusal:
            await hooks.deliver("shop", RawRequest(headers={**github(body), **headers}, body=body))
        assert refusal.value.status == status
        # Not signed, nobody is told how it is malformed.
        with pytest.raises(HookRefusal) as refusal:
            await hooks.deliver("shop", RawRequest(headers={**github(b"other"), **headers}, body=body))
        assert refusal.value.status == 401


async def test_the_rate(database: Database) -> None:
    clock = ManualClock()
    async with hooking(database, endpoint(rate=HookRate(max=2, per=10.0)), clock=clock) as hooks:
        assert [(await hooks.deliver("shop", signed({"n": n}, delivery=str(n)))).state for n in range(2)] == [
            "accepted",
            "accepted",
        ]
        with pytest.raises(HookRefusal) as refusal:
            await hooks.deliver("shop", signed({"n": 2}, delivery="2"))
        assert (refusal.value.status, refusal.value.retry_after_s) == (429, 10.0)
        clock.advance(10.0)
        assert (await hooks.deliver("shop", signed({"n": 2}, delivery="2"))).state == "accepted"


async def test_who_may_come_in(database: Database) -> None:
    endpoints = (
        endpoint(name="some", allowed=("192.0.2.0/24", "2001:db8::/32")),
        endpoint(name="paused", paused=True),
        endpoint(name="small", max_size=10),
    )
    async with hooking(database, *endpoints) as hooks:
        for name, remote, length, status in (
            ("nothing", "192.0.2.7", 1, 404),
            ("some", "198.51.100.1", 1, 403),
            ("some", "unix", 1, 403),
            ("paused", "192.0.2.7", 1, 503),
            ("small", "192.0.2.7", 11, 413),
        ):
            with pytest.raises(HookRefusal) as refusal:
                hooks.admit(name, remote=remote, length=length)
            assert refusal.value.status == status
        for remote in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"):
            hooks.admit("some", remote=remote, length=None).release()
        admission = hooks.admit("small", remote="192.0.2.7", length=None)
        admission.hold(10)
        with pytest.raises(HookRefusal):
            admission.hold(1)
        admission.release()
        admission.release()
        assert hooks.held_bytes == 0


async def test_all_bodies_together_have_a_limit(database: Database) -> None:
    async with hooking(database, endpoint()) as hooks:
        first = hooks.admit("shop", remote="a", length=None)
        first.hold(900_000)
        second = hooks.admit("shop", remote="b", length=None)
        with pytest.raises(HookRefusal) as refusal:
            second.hold(200_000)
        assert (refusal.value.status, refusal.value.retry_after_s) == (503, 2.0)
        first.release()
        second.hold(200_000)
        second.release()
        assert hooks.held_bytes == 0


async def test_one_address_cannot_keep_the_others_out(database: Database) -> None:
    async with hooking(database, endpoint(max_size=100_000)) as hooks:
        greedy = [hooks.admit("shop", remote="a", length=None) for _ in range(10)]
        for one in greedy[:5]:
            one.hold(100_000)
        for one in greedy[5:]:
            with pytest.raises(HookRefusal):
                one.hold(100_000)
        other = hooks.admit("shop", remote="b", length=None)
        other.hold(100_000)
        for one in (*greedy, other):
            one.release()
        assert hooks.held_bytes == 0


async def test_replay_is_a_new_run_by_the_configuration_in_force_and_is_audited(database: Database) -> None:
    async with hooking(database, endpoint(filter="payload.go")) as hooks:
        ignored = await hooks.deliver("shop", signed({"go": False, "sha": "a"}))
        assert ignored.state == "ignored"
        assert (await hooks.replay(ignored.id, ACTOR)).state is DeliveryState.IGNORED
        forced = await hooks.replay(ignored.id, ACTOR, force=True)
        assert (forced.state, forced.replay_of, forced.actor) == (DeliveryState.ACCEPTED, ignored.id, "user:ada")
        hooks.prepare(Fixed(hooks=[endpoint(parameters={"sha": "payload.sha"})])).swap()
        replayed = await hooks.replay(ignored.id, ACTOR)
        assert replayed.run_id not in ("", forced.run_id)
        assert [run.parameters for run in await database.read(runs_of)] == [{}, {"sha": "a"}]
        assert {str(run.actor) for run in await database.read(runs_of)} == {"user:ada"}
        with pytest.raises(NotFound):
            await hooks.replay("dlv_none", ACTOR)
        # The endpoint is gone: there is nothing that says which job.
        hooks.prepare(Fixed(hooks=[])).swap()
        with pytest.raises(NotFound, match="no endpoint"):
            await hooks.replay(ignored.id, ACTOR)
    events = await database.read(lambda tx: [str(body) for (body,) in tx.rows("SELECT body FROM audit_events")])
    assert len(events) == 3
    assert all('"replay"' in event and ignored.id in event for event in events)


async def test_a_replay_that_the_job_refuses_is_kept_as_refused(database: Database) -> None:
    runs = FakeRuns()
    async with hooking(database, endpoint(), runs=runs) as hooks:
        answer = await hooks.deliver("shop", signed({}))
        runs.busy.add("deploy")
        replayed = await hooks.replay(answer.id, ACTOR)
        assert (replayed.state, replayed.run_id) == (DeliveryState.REFUSED, "")
        assert len(await database.read(runs_of)) == 1


async def test_a_body_that_became_malformed_for_its_endpoint_is_not_replayed(database: Database) -> None:
    plain = endpoint(scheme=NoScheme(unsafe=True))
    async with hooking(database, plain) as hooks:
        answer = await hooks.deliver("shop", RawRequest(body=b"text"))
        await database.write(
            lambda tx: tx.run("""UPDATE hook_deliveries SET headers = '{"content-type": "application/json"}'""")
        )
        with pytest.raises(UsageError):
            await hooks.replay(answer.id, ACTOR)


async def test_dedupe_by_what_the_payload_says(database: Database) -> None:
    scheme = HmacScheme(secrets=(SECRET,), header="X-Sig", repeats=True)
    job = endpoint(scheme=scheme, dedupe='payload.order + "/" + string(payload.version)')

    async def send(hooks: Hooks, **body: object) -> str:
        import hmac

        raw = msgspec.json.encode(body)
        headers = {"x-sig": hmac.new(SECRET.encode(), raw, "sha256").hexdigest()}
        return (await hooks.deliver("shop", RawRequest(headers=headers, body=raw))).state

    async with hooking(database, job) as hooks:
        states = [
            await send(hooks, order="a", version=1),
            await send(hooks, order="a", version=1, more=True),
            await send(hooks, order="a", version=2),
            await send(hooks, order=7),
        ]
    assert states == ["accepted", "duplicate", "accepted", "refused"]


async def test_stripes_retries_are_known_by_their_id(database: Database) -> None:
    import hmac

    clock = ManualClock()

    def request(body: bytes) -> RawRequest:
        stamp = int(clock.now_s())
        mac = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, "sha256").hexdigest()
        return RawRequest(headers={"stripe-signature": f"t={stamp},v1={mac}"}, body=body)

    async with hooking(database, endpoint(scheme=StripeScheme(secrets=(SECRET,))), clock=clock) as hooks:
        first = await hooks.deliver("shop", request(b'{"id": "evt_1", "type": "charge.ok"}'))
        old = request(b'{"id": "evt_2"}')
        clock.advance(3600.0)
        again = await hooks.deliver("shop", request(b'{"id": "evt_1", "type": "charge.ok"}'))
        assert (again.state, again.id) == ("duplicate", first.id)
        with pytest.raises(HookRefusal) as refusal:
            await hooks.deliver("shop", old)
        assert refusal.value.status == 401
        assert (await hooks.delivery(first.id)).delivery.event == "charge.ok"


async def test_standard_webhooks_of_our_own_outbox_are_taken(database: Database) -> None:
    from dogwatch.notify import standard

    secret = standard.new_secret()
    body = b'{"type": "run.failed", "data": {}}'
    now_s = SystemClock().now_s()
    headers = dict(standard.headers([standard.parse_secret(secret)], "msg_1", now_s, body))
    async with hooking(database, endpoint(scheme=StandardScheme(secrets=(secret,)))) as hooks:
        first = await hooks.deliver("shop", RawRequest(headers=headers, body=body))
        later = dict(standard.headers([standard.parse_secret(secret)], "msg_1", now_s + 1, body))
        again = await hooks.deliver("shop", RawRequest(headers=later, body=body))
        assert (first.state, again.state) == ("accepted", "duplicate")
        assert (await hooks.delivery(first.id)).delivery.event == "run.failed"


async def test_housekeeping_keeps_the_newest(database: Database) -> None:
    endpoints = (endpoint(keep_max=3), endpoint(name="old", keep=100.0))
    async with hooking(database, *endpoints) as hooks:
        ids = [(await hooks.deliver("shop", signed({"n": n}, delivery=str(n)))).id for n in range(8)]
        old = [(await hooks.deliver("old", signed({"n": n}, delivery=str(n)))).id for n in range(3)]
        await database.write(
            lambda tx: tx.run(
                "UPDATE hook_deliveries SET received_s = received_s - 1000 WHERE delivery_id = :id", id=old[1]
            )
        )
        await database.write(lambda tx: tx.run("UPDATE hook_seen SET until_s = 1 WHERE endpoint = 'old'"))
        await hooks.keep_house()
        left = [one.delivery_id for one in (await hooks.deliveries()).items]
        assert left == [old[2], old[0], *ids[:4:-1]]
        seen = await database.read(lambda tx: tx.rows("SELECT DISTINCT endpoint FROM hook_seen"))
        assert seen == [("shop",)]
        # What is gone from the list is still known again.
        assert (await hooks.deliver("shop", signed({"n": 0}, delivery="0"))).id == ids[0]


async def test_what_is_remembered_has_a_limit(database: Database) -> None:
    async with hooking(database, endpoint()) as hooks:
        for n in range(10):
            await hooks.deliver("shop", signed({"n": n}, delivery=str(n)))
        await database.write(lambda tx: deliveries.forget_seen(tx, most=6))
        row = await database.read(lambda tx: tx.one("SELECT COUNT(*) FROM hook_seen"))
    assert row == (6,)


async def test_pages_and_endpoints_that_may_be_seen(database: Database) -> None:
    async with hooking(database, endpoint(), endpoint(name="other", labels={"team": "b"})) as hooks:
        sent = [(await hooks.deliver(("shop", "other")[n % 2], signed({"n": n}, delivery=str(n)))).id for n in range(7)]
        first = await hooks.deliveries(limit=4)
        rest = await hooks.deliveries(limit=4, cursor=first.cursor)
        assert [one.delivery_id for page in (first, rest) for one in page.items] == sent[::-1]
        assert rest.cursor == ""
        assert len((await hooks.deliveries(endpoint="shop")).items) == 4
        assert len((await hooks.deliveries(among=["other"])).items) == 3
        assert (await hooks.deliveries(among=[])).items == []
        assert (await hooks.deliveries(endpoint="shop", among=["other"])).items == []
        views = {view.name: view for view in await hooks.endpoints()}
        assert views["other"].labels == {"team": "b"}
        assert views["shop"].counts == {"accepted": 4}
        assert views["shop"].last_s is not None
        with pytest.raises(NotFound, match="no endpoint is called 'shops'"):
            await hooks.endpoint("shops")
        with pytest.raises(NotFound):
            await hooks.delivery("dlv_")
        with pytest.raises(NotFound):
            await hooks.delivery("\0")


async def test_while_the_database_is_gone_the_sender_is_told_to_come_again(database: Database) -> None:
    async with hooking(database, endpoint()) as hooks:
        from dogwatch.errors import TransientError

        async def gone(_work: object) -> object:
            raise TransientError("the disk is full")

        hooks._database = type("Gone", (), {"write": staticmethod(gone)})()
        with pytest.raises(HookRefusal) as refusal:
            await hooks.deliver("shop", signed({}))
        hooks._database = database
    assert (refusal.value.status, refusal.value.retry_after_s) == (503, 2.0)
    assert "disk" not in str(refusal.value)
