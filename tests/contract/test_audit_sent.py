"""The audit trail is searched, exported, and sent off the machine."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.audit_trail import ANN, Trail, write
from tests.contract.conftest import Open

from dogwatch.access.actor import Actor, Subject
from dogwatch.access.audit import record
from dogwatch.access.chain import GENESIS, link
from dogwatch.access.exporters import FileExporter, SyslogExporter, WebhookExporter
from dogwatch.access.heads import read_heads
from dogwatch.access.options import AuditOptions, Export
from dogwatch.access.tables import access_tables
from dogwatch.access.trail import AuditFilter, find, lines
from dogwatch.errors import PermanentError, TransientError


@pytest.fixture
async def trail(open_database: Open, tmp_path: Path) -> Trail:
    """Twenty events, a head over them, and five that no head covers yet."""
    one = Trail(await open_database(access_tables()), tmp_path)
    await write(one.database, 20)
    await one.keeper.step()
    await write(one.database, 5)
    return one


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
