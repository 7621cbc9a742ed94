"""The audit trail over SQLite and PostgreSQL: whoever tampers with it is found out, and told where."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.conftest import Open

from dogwatch.access.actor import SYSTEM, Actor, Subject
from dogwatch.access.audit import AuditEvent, columns, encoded, record
from dogwatch.access.chain import GENESIS, Head, Verdict, link
from dogwatch.access.exporters import FileExporter, SyslogExporter, WebhookExporter
from dogwatch.access.heads import HEADS_FILE, file_heads, read_heads, sign_head, sign_newest
from dogwatch.access.keeper import AuditKeeper
from dogwatch.access.keys import AUDIT_KEY, Signer
from dogwatch.access.options import AuditOptions, Export
from dogwatch.access.tables import access_tables
from dogwatch.access.trail import AuditFilter, cut, find, lines
from dogwatch.core.clock import ManualClock
from dogwatch.errors import PermanentError, TransientError
from dogwatch.store.database import Database, Tx

ANN = Actor(kind="user", name="ann", address="192.0.2.7")


async def write(database: Database, count: int = 1, *, actor: Actor = ANN, verb: str = "pause") -> None:
    def work(tx: Tx) -> None:
        for number in range(count):
            labels = {"team": "shop" if number % 2 else "blog"}
            record(tx, actor, verb, Subject(noun="probe", name=f"p{number}", labels=labels), reason=f"why {number}")

    await database.write(work)


class Trail:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.keeper = AuditKeeper(database, folder, self.clock, AuditOptions(head_every=10, head_after=60.0))
        self.folder = folder

    async def verify(self, *further: Head) -> Verdict:
        return await self.keeper.verify(further)

    async def sql(self, *queries: str) -> None:
        def work(tx: Tx) -> None:
            for query in queries:
                tx.run(query)

        await self.database.write(work)

    async def links(self) -> list[tuple[int, str, str]]:
        rows = await self.database.read(
            lambda tx: tx.rows("SELECT number, body, digest FROM audit_events ORDER BY number")
        )
        return [(int(n or 0), str(body), str(digest)) for n, body, digest in rows]


@pytest.fixture
async def trail(open_database: Open, tmp_path: Path) -> Trail:
    """Twenty events, a head over them, and five that no head covers yet."""
    one = Trail(await open_database(access_tables()), tmp_path)
    await write(one.database, 20)
    await one.keeper.step()
    await write(one.database, 5)
    return one


async def test_an_honest_trail_is_whole(trail: Trail) -> None:
    verdict = await trail.verify()
    assert verdict == Verdict(events=25, first=1, last=25, heads=2, signed=20)
    assert verdict.ok


async def test_an_empty_trail_is_whole(open_database: Open, tmp_path: Path) -> None:
    verdict = await Trail(await open_database(access_tables()), tmp_path).verify()
    assert verdict.ok
    assert verdict.events == 0


async def test_many_at_once_make_one_chain(open_database: Open, tmp_path: Path) -> None:
    trail = Trail(await open_database(access_tables()), tmp_path)
    await asyncio.gather(*(write(trail.database, 3) for _ in range(30)))
    assert (await trail.verify()).events == 90


_COPY = "INSERT INTO audit_events SELECT {}, time_s, actor, verb, noun, name, outcome, body, digest FROM audit_events "
TAMPERING: dict[str, tuple[list[str], int, str]] = {
    "a body changed": (["UPDATE audit_events SET body = REPLACE(body, 'ann', 'bob') WHERE number = 7"], 7, "changed"),
    "a column changed": (["UPDATE audit_events SET actor = 'user:' || 'bob' WHERE number = 7"], 7, "column actor"),
    "a time changed": (["UPDATE audit_events SET time_s = time_s - 86400 WHERE number = 9"], 9, "column time_s"),
    "an outcome changed": (["UPDATE audit_events SET outcome = 'refused' WHERE number = 9"], 9, "column outcome"),
    "a digest changed": (["UPDATE audit_events SET digest = body WHERE number = 7"], 7, "changed"),
    "one removed": (["DELETE FROM audit_events WHERE number = 7"], 7, "event 7 is missing"),
    "several removed": (["DELETE FROM audit_events WHERE number BETWEEN 7 AND 9"], 7, "events 7 to 9 are missing"),
    "the oldest removed": (["DELETE FROM audit_events WHERE number <= 3"], 1, "events 1 to 3 are missing"),
    "the newest removed, unsigned": (["DELETE FROM audit_events WHERE number > 22"], 23, "events 23 to 25 were cut"),
    "the newest removed, signed": (["DELETE FROM audit_events WHERE number > 15"], 16, "events 16 to 20 were cut"),
    "all removed": (["DELETE FROM audit_events"], 1, "events 1 to 20 were cut"),
    "one removed, the rest renumbered": (
        ["DELETE FROM audit_events WHERE number = 7"]
        + [f"UPDATE audit_events SET number = {n - 1} WHERE number = {n}" for n in range(8, 26)],
        7,
        "event 7 was changed",
    ),
    "two exchanged": (
        [
            "UPDATE audit_events SET number = -1 WHERE number = 7",
            "UPDATE audit_events SET number = 7 WHERE number = 8",
            "UPDATE audit_events SET number = 8 WHERE number = -1",
        ],
        7,
        "event 7 was changed",
    ),
    "a body of another, with its column": (
        [
            "UPDATE audit_events SET body = (SELECT body FROM audit_events WHERE number = 8) WHERE number = 7",
            "UPDATE audit_events SET name = (SELECT name FROM audit_events WHERE number = 8) WHERE number = 7",
        ],
        7,
        "event 7 was changed",
    ),
    "a digest taken away": (["UPDATE audit_events SET digest = '' WHERE number = 24"], 24, "event 24 was changed"),
    "the first replaced": (["UPDATE audit_events SET body = '{}' WHERE number = 1"], 1, "event 1 was changed"),
    "the tail put back": (["UPDATE audit_tail SET number = 24"], 25, "not the newest one"),
    "a head of another event": (
        ["UPDATE audit_heads SET digest = (SELECT digest FROM audit_events WHERE number = 19) WHERE number = 20"],
        20,
        "not signed by a trusted key",
    ),
    "a signature cut": (
        ["UPDATE audit_heads SET signature = SUBSTR(signature, 1, 100)"],
        20,
        "not signed by a trusted key",
    ),
    "one inserted between": (
        [f"UPDATE audit_events SET number = {n + 1} WHERE number = {n}" for n in range(25, 6, -1)]
        + [_COPY.format(7) + "WHERE number = 3"],
        7,
        "event 7 was changed",
    ),
    "one appended": (
        [_COPY.format(26) + "WHERE number = 25"],
        26,
        "event 26 was changed",
    ),
    "one before the first": (
        [_COPY.format(-5) + "WHERE number = 3"],
        -5,
        "event -5 stands where event 1 belongs",
    ),
    "the tail forgotten": (
        ["UPDATE audit_tail SET number = 22", "DELETE FROM audit_events WHERE number > 15"],
        16,
        "were cut off",
    ),
    "a head made by another": (
        ["UPDATE audit_heads SET signer = 'ab' WHERE number = 20"],
        20,
        "not signed by a trusted key",
    ),
    "a head's number changed": (["UPDATE audit_heads SET number = 19"], 19, "not signed by a trusted key"),
    "heads removed, newest cut": (
        ["DELETE FROM audit_heads", "UPDATE audit_tail SET number = 15", "DELETE FROM audit_events WHERE number > 15"],
        16,
        f"signed ({HEADS_FILE})",
    ),
}


@pytest.mark.parametrize(("queries", "broken", "why"), TAMPERING.values(), ids=TAMPERING)
async def test_tampering_is_found_where_it_begins(trail: Trail, queries: list[str], broken: int, why: str) -> None:
    await trail.sql(*queries)
    verdict = await trail.verify()
    assert (verdict.broken, why in verdict.why) == (broken, True), verdict


async def forge(trail: Trail, number: int, change: Callable[[AuditEvent], AuditEvent], *, upto: int = 25) -> None:
    """Change an event as somebody does who may write all tables: with every later digest, and the tail, made anew."""
    links = await trail.links()

    def work(tx: Tx) -> None:
        before = GENESIS
        for at, body, _digest in links[:upto]:
            event = msgspec.json.decode(body, type=AuditEvent)
            if at == number:
                event = change(event)
            text = encoded(event)
            before = link(before, at, text)
            pairs = ", ".join(f"{name} = :{name}" for name in columns(event))
            tx.run(
                f"UPDATE audit_events SET body = :body, digest = :digest, {pairs} WHERE number = :number",
                body=text,
                digest=before,
                number=at,
                **columns(event),
            )
        tx.run("DELETE FROM audit_events WHERE number > :upto", upto=upto)
        tx.run("UPDATE audit_tail SET number = :upto, digest = :digest", upto=upto, digest=before)

    await trail.database.write(work)


def blamed(event: AuditEvent) -> AuditEvent:
    return msgspec.structs.replace(event, actor=Actor(kind="user", name="bob"))


async def test_a_chain_made_anew_contradicts_its_heads(trail: Trail) -> None:
    await forge(trail, 7, blamed)
    verdict = await trail.verify()
    assert verdict.broken == 20
    assert "made anew" in verdict.why


async def test_what_no_head_covers_yet_can_be_made_anew_only_until_it_is_signed(trail: Trail) -> None:
    await trail.keeper.step(now=True)
    await forge(trail, 23, blamed)
    assert (await trail.verify()).broken == 25


async def test_exported_heads_find_what_tables_and_files_of_the_machine_cannot(trail: Trail) -> None:
    """Root on the machine has the key, too: it signs the forged chain again. The head that had left contradicts it."""
    exported = file_heads(trail.folder / HEADS_FILE)
    assert [(head.number, len(head.signature)) for head in exported] == [(20, 128)]
    await forge(trail, 7, blamed)
    await trail.sql("DELETE FROM audit_heads")
    (trail.folder / HEADS_FILE).unlink()
    await trail.database.write(sign_newest(trail.keeper.signer))
    assert (await trail.verify()).ok
    verdict = await trail.verify(*exported)
    assert verdict.broken == 20
    assert HEADS_FILE in verdict.why


async def test_exported_heads_find_cut_events_even_with_everything_signed_again(trail: Trail) -> None:
    exported = file_heads(trail.folder / HEADS_FILE)
    await forge(trail, 0, blamed, upto=15)
    await trail.sql("DELETE FROM audit_heads")
    (trail.folder / HEADS_FILE).unlink()
    assert (await trail.verify()).ok
    verdict = await trail.verify(*exported)
    assert (verdict.broken, "events 16 to 20 were cut off" in verdict.why) == (16, True)


async def test_after_cut_events_a_gap_stays_for_good(trail: Trail) -> None:
    await trail.sql("DELETE FROM audit_events WHERE number > 22")
    await write(trail.database)
    verdict = await trail.verify()
    assert (verdict.broken, verdict.why) == (23, "events 23 to 25 are missing")


async def test_a_broken_chain_is_not_signed(trail: Trail) -> None:
    await trail.sql("UPDATE audit_events SET actor = 'user:' || 'bob' WHERE number = 22")
    await trail.keeper.step(now=True)
    assert "event 22" in trail.keeper.broken
    trouble = {family.name: dict(family.series) for family in trail.keeper.metrics()}["dogwatch_audit_trouble"]
    assert trouble == {"dogwatch_audit_trouble": 1.0}


async def test_no_change_without_a_trail(trail: Trail) -> None:
    await trail.sql("DELETE FROM audit_tail")
    with pytest.raises(PermanentError, match="lost its end"):
        await write(trail.database)


async def test_heads_come_by_number_and_by_time(open_database: Open, tmp_path: Path) -> None:
    trail = Trail(await open_database(access_tables()), tmp_path)
    await write(trail.database, 9)
    await trail.keeper.step()
    assert not (tmp_path / HEADS_FILE).exists()
    await write(trail.database)
    await trail.keeper.step()
    assert [head.number for head in file_heads(tmp_path / HEADS_FILE)] == [10]
    await write(trail.database)
    await trail.keeper.step()
    trail.clock.advance(61)
    await trail.keeper.step()
    assert [head.number for head in file_heads(tmp_path / HEADS_FILE)] == [10, 11]
    await trail.keeper.step(now=True)
    assert len(file_heads(tmp_path / HEADS_FILE)) == 2


async def test_a_head_that_a_crash_has_cut_off_is_written_again(trail: Trail) -> None:
    file = trail.folder / HEADS_FILE
    file.write_bytes(file.read_bytes()[:-20])
    assert (await trail.verify()).ok
    await trail.keeper.step(now=True)
    assert trail.keeper.broken == ""
    assert [head.number for head in file_heads(file)] == [20, 25]
    assert (await trail.verify()).ok


async def test_the_task_signs_when_events_come(open_database: Open, tmp_path: Path) -> None:
    trail = Trail(await open_database(access_tables()), tmp_path)
    task = asyncio.create_task(trail.keeper.run())
    try:
        await write(trail.database, 10)
        async with asyncio.timeout(60):
            while not file_heads(tmp_path / HEADS_FILE):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_retention_leaves_a_trail_that_can_be_verified(trail: Trail) -> None:
    middle = (await trail.database.read(lambda tx: tx.one("SELECT time_s FROM audit_events WHERE number = 25")))[0]  # type: ignore[index]
    assert await trail.database.write(cut(trail.keeper.signer, SYSTEM, float(middle or 0))) in (20, 24)
    verdict = await trail.verify()
    assert verdict.ok, verdict
    assert verdict.first in (21, 25)
    assert verdict.last == 26
    await write(trail.database, 3)
    await trail.keeper.step(now=True)
    assert (await trail.verify()).ok
    # Heads from before the cut, kept elsewhere, do not disturb.
    assert (await trail.verify(*file_heads(trail.folder / HEADS_FILE))).ok
    newest = (await trail.database.read(find(AuditFilter(verb="cut"), 1)))[0]
    assert newest.event.after == {"removed": verdict.first - 1, "up_to": verdict.first - 1}


async def test_removal_that_nobody_signed_is_no_retention(trail: Trail) -> None:
    last = (await trail.links())[9]
    other = Signer(trail.folder / "other")
    false = sign_head(other, "cut", last[0], last[2], 0.0)
    await trail.database.write(lambda tx: tx.run("DELETE FROM audit_events WHERE number <= 10"))
    await trail.database.write(
        lambda tx: tx.run(
            "INSERT INTO audit_heads VALUES ('cut', 10, :digest, 0, :signer, :signature)",
            digest=false.digest,
            signer=false.signer,
            signature=false.signature,
        )
    )
    verdict = await trail.verify()
    assert (verdict.broken, "not signed by a trusted key" in verdict.why) == (10, True)


async def test_events_that_a_cut_removed_cannot_come_back(trail: Trail) -> None:
    links = await trail.links()
    await trail.database.write(cut(trail.keeper.signer, SYSTEM, 2**40))
    assert (await trail.verify()).ok
    await trail.database.write(
        lambda tx: tx.run(
            "INSERT INTO audit_events VALUES (3, 0, '', '', '', '', '', :body, :digest)",
            body=links[2][1],
            digest=links[2][2],
        )
    )
    assert (await trail.verify()).broken == 3


async def test_former_keys_are_trusted_where_configuration_says_so(trail: Trail) -> None:
    former = trail.keeper.signer.public
    (trail.folder / AUDIT_KEY).unlink()
    renewed = AuditKeeper(trail.database, trail.folder, trail.clock, AuditOptions())
    assert (await renewed.verify()).broken == 20
    renewed.options = AuditOptions(trusted_keys=(former,))
    await renewed.step(now=True)
    assert (await renewed.verify()).ok


# -- search and export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (AuditFilter(actor="user:bob"), [27, 26]),
        (AuditFilter(actor="user:"), list(range(27, 0, -1))),
        (AuditFilter(verb="resume"), [27, 26]),
        (AuditFilter(name="p1", verb="pause"), [22, 2]),
        (AuditFilter(text="WHY 19"), [20]),
        (AuditFilter(text="100%"), []),
        (AuditFilter(text='"reason"', verb="resume"), []),
        (AuditFilter(noun="host"), []),
        (AuditFilter(outcome="refused"), []),
        (AuditFilter(since_s=2.0**40), []),
        (AuditFilter(until_s=1.0), []),
        (AuditFilter(since_s=1.0, until_s=2.0**40, before=3), [2, 1]),
    ],
)
async def test_search(trail: Trail, wanted: AuditFilter, numbers: list[int]) -> None:
    await write(trail.database, 2, actor=Actor(kind="user", name="bob"), verb="resume")
    assert [one.number for one in await trail.database.read(find(wanted, 100))] == numbers


async def test_search_shows_only_what_may_be_seen(trail: Trail) -> None:
    found = await trail.database.read(find(AuditFilter(), 4, lambda labels: labels.get("team") == "shop"))
    assert [one.number for one in found] == [24, 22, 20, 18]


async def test_an_export_can_be_verified_by_itself(trail: Trail) -> None:
    text = b"".join([part async for part in lines(trail.database, AuditFilter())])
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["number"] for row in rows] == list(range(25, 0, -1))
    assert rows[0]["event"]["actor"] == {"kind": "user", "name": "ann", "address": "192.0.2.7"}
    before = GENESIS
    for line in reversed(text.splitlines()):
        body = line.decode().partition('"event":')[2][:-1]
        row = json.loads(line)
        before = link(before, row["number"], body)
        assert row["digest"] == before


async def test_hostile_text_is_kept_and_verified(trail: Trail) -> None:
    subject = Subject(noun="probe", name="a\0b\ud800<b>'; DROP TABLE audit_events", labels={"\ud800": "\0"})
    await trail.database.write(
        lambda tx: record(tx, ANN, "pause", subject, reason="x" * 10_000, after={"n": float("nan")})
    )
    assert (await trail.verify()).ok


# -- exporters ---------------------------------------------------------------------------------------------------------


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        server.got.append(({name.lower(): text for name, text in self.headers.items()}, body))
        self.send_response(server.status)
        if server.status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        server: Any = self.server
        server.got.append(({name.lower(): text for name, text in self.headers.items()}, b""))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Any:
    server: Any = HTTPServer(("127.0.0.1", 0), Receiver)
    server.got, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


async def test_heads_and_events_are_exported_once_each_in_order(trail: Trail, receiver: Any, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/audit"
    hook = Export(to=WebhookExporter(url=url, secret="hush", headers={"x-team": "sec"}), events=True)
    trail.keeper.options = AuditOptions(
        head_every=10, export=(hook, Export(to=FileExporter(path=str(tmp_path / "off"))))
    )
    await trail.keeper.step()
    await write(trail.database, 10)
    await trail.keeper.step()
    await trail.keeper.step()
    got = [json.loads(line) for _headers, body in receiver.got for line in body.splitlines()]
    heads = [one for one in got if "signature" in one]
    assert [one["number"] for one in heads] == [20, 35]
    assert [one["number"] for one in got if "event" in one] == list(range(1, 36))
    assert all(headers["webhook-signature"].startswith("v1,") for headers, _body in receiver.got)
    assert receiver.got[0][0]["x-team"] == "sec"
    off = read_heads((tmp_path / "off").read_text(), "off")
    assert [head.number for head in off] == [20, 35]
    assert (await trail.verify(*off)).ok


async def test_an_exporter_that_fails_is_tried_again_and_holds_up_no_other(
    trail: Trail, receiver: Any, tmp_path: Path
) -> None:
    receiver.status = 503
    hook = Export(to=WebhookExporter(url=f"http://127.0.0.1:{receiver.server_port}/"))
    trail.keeper.options = AuditOptions(export=(hook, Export(to=FileExporter(path=str(tmp_path / "off")))))
    await trail.keeper.step()
    assert (tmp_path / "off").exists()
    assert list(trail.keeper.behind) == [hook.key]
    receiver.status = 200
    await trail.keeper.step()
    assert len(receiver.got) == 1, "it waits before it tries again"
    trail.clock.advance(3)
    await trail.keeper.step()
    assert len(receiver.got) == 2
    assert trail.keeper.behind == {}


@pytest.mark.parametrize("scheme", ["udp", "tcp", "unix"])
def test_syslog(scheme: str, tmp_path: Path) -> None:
    if scheme == "tcp":
        with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
            address = f"tcp://127.0.0.1:{server.server_address[1]}"
            SyslogExporter(address=address).send([b'{"number":1}'], timeout_s=5)
            connection, _ = server.get_request()
            with connection:
                text = connection.recv(10_000)
        length, _, message = text.partition(b" ")
        assert int(length) == len(message)
    else:
        family = socket.AF_UNIX if scheme == "unix" else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as server_socket:
            server_socket.bind(str(tmp_path / "log") if scheme == "unix" else ("127.0.0.1", 0))
            name = server_socket.getsockname()
            address = f"unix:{name}" if scheme == "unix" else f"udp://127.0.0.1:{name[1]}"
            SyslogExporter(address=address).send([b'{"number":1}'], timeout_s=5)
            message = server_socket.recv(10_000)
    assert message.startswith(b"<110>1 - ")
    assert message.endswith(b'audit - {"number":1}')


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot append"):
        FileExporter(path=str(tmp_path / "no" / "such")).send([b"x"], timeout_s=1)


def test_a_file_goes_on_where_a_full_disk_stopped_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full takes a part: the rest is written, not forgotten."""
    whole = os.write
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda descriptor, data: whole(descriptor, bytes(data)[:7]))
        FileExporter(path=str(tmp_path / "heads")).send([b'{"number":1}', b'{"number":2}'], timeout_s=1)
    assert (tmp_path / "heads").read_bytes() == b'{"number":1}\n{"number":2}\n'


def test_a_webhook_that_leads_elsewhere_has_taken_nothing(receiver: Any) -> None:
    """The page at the other end of a redirection answers 200 to anything, and would be given our headers."""
    receiver.status = 302
    url = f"http://127.0.0.1:{receiver.server_port}/audit"
    hook = WebhookExporter(url=url, headers={"authorization": "Bearer of-the-siem"})
    with pytest.raises(PermanentError, match="answered 302"):
        hook.send([b"{}"], timeout_s=5)
    assert len(receiver.got) == 1


HEAD = '{"kind":"head","number":7,"digest":"ab","time_s":1.0,"signer":"cd","signature":"ef"}'


@pytest.mark.parametrize(
    "line",
    [
        HEAD,
        f"Nov 21 18:00:00 watch-1 dogwatch[4711]: {HEAD}",
        f"2026-11-21T18:00:00.000000+01:00 watch-1 dogwatch[4711] {HEAD}",
        f"<110>1 2026-11-21T18:00:00+01:00 watch-1 dogwatch 4711 audit - {HEAD}",
    ],
)
def test_heads_are_read_as_syslog_servers_write_them(line: str) -> None:
    others = 'Nov 21 17:59:59 watch-1 cron[9]: (root) CMD (x)\nNov 21 18:00:01 watch-1 dogwatch[1]: {"cut": "in the mid'
    text = f"{others}\n{line}\n" if line != HEAD else f"{line}\n"
    assert [(head.number, head.origin) for head in read_heads(text, "log")] == [(7, "log")]


@pytest.mark.parametrize("text", ["not a head", '{"number":', f"x {HEAD[:40]}", "Nov 21 cron[9]: nothing of ours"])
def test_a_file_without_heads_is_said_to_have_none(text: str) -> None:
    with pytest.raises(PermanentError, match="log:1 is not a head"):
        read_heads(text, "log")
