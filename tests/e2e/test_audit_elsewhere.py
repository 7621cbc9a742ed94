"""Heads of the audit trail that left the machine, by every way, to real receivers: each of them finds out whoever wrote
the whole trail anew, which nothing on the machine does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from tests.e2e.running import Daemon, free_port, running, wait_until
from tests.e2e.test_changes import Api, an_administrator
from tests.log_peers import program

from dogwatch.access.actor import Actor
from dogwatch.access.audit import AuditEvent, columns, encoded
from dogwatch.access.chain import GENESIS, link
from dogwatch.access.heads import HEADS_FILE, read_heads

CONFIG = """
probes:
  - {{name: shop, tcp: "127.0.0.1:9", every: 1h}}
access:
  audit:
    head_every: 1
    export:
      - {{webhook: {{url: "http://127.0.0.1:{port}/heads", secret: whsec_c2VjcmV0}}, events: true}}
      - {{file: {folder}/kept.jsonl}}
      - {{syslog: "udp://127.0.0.1:{syslog}"}}
      - {{syslog: "tcp://127.0.0.1:{syslog}", events: true}}
"""
WAYS = ("hook.jsonl", "kept.jsonl", "traditional.log", "new.log")


@contextmanager
def keeping(file: Path) -> Iterator[int]:
    """Serve what appends each body that it is sent to a file."""

    class Keeper(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # as the library calls it
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["webhook-signature"].startswith("v1,")
            with file.open("ab") as kept:
                kept.write(body)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def rsyslog(folder: Path, port: int) -> Iterator[None]:
    """Run a real rsyslog, which writes in its old format and in that of the protocol."""
    config = folder / "rsyslog.conf"
    config.write_text(
        f'module(load="imudp")\nmodule(load="imtcp")\ninput(type="imudp" address="127.0.0.1" port="{port}")\n'
        f'input(type="imtcp" address="127.0.0.1" port="{port}")\n'
        f'action(type="omfile" file="{folder}/traditional.log" template="RSYSLOG_TraditionalFileFormat")\n'
        f'action(type="omfile" file="{folder}/new.log" template="RSYSLOG_SyslogProtocol23Format")\n'
    )
    words = [program("rsyslogd"), "-n", "-f", str(config), "-i", str(folder / "rsyslog.pid")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def verify(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DOGWATCH_SERVER": daemon.server, "DOGWATCH_SOCKET": str(daemon.data / "admin.sock")}
    command = daemon.command("audit", "verify", *words)
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def written_anew(data: Path, *, upto: int = 0) -> None:
    """Be a thief with all files of the machine: blame another, or cut the newest; leave nothing that contradicts it."""
    with closing(sqlite3.connect(data / "state.db", timeout=10)) as database:
        rows = database.execute("SELECT number, body FROM audit_events ORDER BY number").fetchall()
        before = GENESIS
        for number, body in rows[: upto or None]:
            event = msgspec.json.decode(body, type=AuditEvent)
            if event.verb == "pause":
                event = msgspec.structs.replace(event, actor=Actor(kind="user", name="somebody-else"))
            text = encoded(event)
            before = link(before, number, text)
            pairs = {**columns(event), "body": text, "digest": before}
            told = ", ".join(f"{name} = :{name}" for name in pairs)
            database.execute(f"UPDATE audit_events SET {told} WHERE number = :number", {**pairs, "number": number})
        last = rows[: upto or None][-1][0]
        database.execute("DELETE FROM audit_events WHERE number > ?", (last,))
        database.execute("UPDATE audit_tail SET number = ?, digest = ?", (last, before))
        database.execute("DELETE FROM audit_heads")
        database.execute("DELETE FROM audit_exports")
        database.commit()
    (data / HEADS_FILE).unlink()


@pytest.mark.parametrize("cut", [False, True], ids=["blamed another", "cut the newest"])
def test_what_left_the_machine_finds_whoever_owns_the_machine(tmp_path: Path, cut: bool) -> None:
    syslog = free_port()
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(keeping(tmp_path / "hook.jsonl"))
        stack.enter_context(rsyslog(tmp_path, syslog))
        with running(tmp_path, CONFIG.format(port=port, folder=tmp_path, syslog=syslog)) as daemon:
            api = Api(daemon, an_administrator(daemon))
            api.ask("POST", "/api/v1/targets/shop/pause")
            api.ask("POST", "/api/v1/targets/shop/resume")
            newest = int(api.get("/api/v1/audit?limit=1")["items"][0]["number"])

            def arrived() -> bool:
                kept = [read_heads((tmp_path / name).read_text(), name) for name in WAYS if (tmp_path / name).exists()]
                return len(kept) == len(WAYS) and all(heads and heads[-1].number >= newest for heads in kept)

            wait_until(arrived, what="the heads at every receiver")
            for name in WAYS:
                honest = verify(daemon, "--heads", str(tmp_path / name))
                assert honest.returncode == 0, (name, honest.stdout, honest.stderr)
            events = [json.loads(line) for line in (tmp_path / "hook.jsonl").read_text().splitlines()]
            assert "pause" in {one["event"]["verb"] for one in events if "event" in one}
            # Off: what it writes from now on goes nowhere that is looked at.
            daemon.stop()
            kept = {name: (tmp_path / name).read_text() for name in WAYS}
            written_anew(daemon.data, upto=newest - 2 if cut else 0)
            daemon.start()
            for name, text in kept.items():
                (tmp_path / f"safe-{name}").write_text(text)
            blind = verify(daemon)
            assert blind.returncode == 0, blind.stdout + blind.stderr
            assert "somebody-else" in json.dumps(api.get("/api/v1/audit?verb=pause")) or cut
            for name in WAYS:
                found = verify(daemon, "--heads", str(tmp_path / f"safe-{name}"))
                assert (found.returncode, "broken at event" in found.stdout) == (1, True), (name, found)
            wrong = verify(daemon, "--heads", str(daemon.config))
            assert (wrong.returncode, "is not a head" in wrong.stderr) == (1, True), wrong
