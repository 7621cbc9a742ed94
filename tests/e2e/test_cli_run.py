"""`dogwatch probe run` as a stranger uses it: every way to write a target, against real peers."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2
from tests.e2e.running import wait_until
from tests.integration.http_servers import Writer, serving
from tests.integration.test_kind_dns import server as dns_server  # noqa: F401 - a fixture
from tests.integration.test_kind_grpc import server as grpc_server
from tests.integration.test_kind_websocket import echo
from tests.integration.test_kind_websocket import server as websocket_server
from tests.probing import Trust, peer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
COMMAND = [sys.executable, "-m", "dogwatch", "probe", "run"]


class Ended(msgspec.Struct, frozen=True):
    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


async def run(*arguments: str, **environ: str) -> Ended:
    env = {**os.environ, "DOGWATCH_SERVER": "http://127.0.0.1:1", **environ}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\r\n")
    await writer.drain()


async def test_http_tcp_exec_and_icmp_together() -> None:
    async with serving(OK) as web, peer(hold) as port:
        targets = [web.url, f"tcp://127.0.0.1:{port}", f"127.0.0.1:{port}", "exec://echo 'a=1'"]
        ended = await run(*targets, "icmp://127.0.0.1", "ping://127.0.0.1?count=2&interval=1ms", "--json")
    rows = ended.json()
    assert [row["kind"] for row in rows] == ["http", "tcp", "tcp", "exec", "icmp", "icmp"]
    assert all(row["success"] for row in rows if row["reason"] != "local"), rows
    assert rows[3]["values"]["output"] == "a=1\n"
    assert ended.stderr == ""


async def test_everything_with_tls(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    leaf = trust.ca.issue_cert("localhost", "127.0.0.1")
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), chain)])
    serving_status = {"": health_pb2.HealthCheckResponse.SERVING, "cart": health_pb2.HealthCheckResponse.NOT_SERVING}
    async with (
        serving(OK, trust.server()) as web,
        websocket_server(echo, trust.server()) as wss,
        grpc_server(serving_status, credentials=credentials) as port,
    ):
        where = [web.url, wss, f"grpcs://localhost:{port}"]
        refused = await run(*where, f"tls://localhost:{web.port}", "--json")
        trusted = await run(*where, "--set", f"tls.ca_file={trust.ca_file}", "--json")
        loose = await run(web.url, "--set", "tls.verify=false", "--expect", "tls_days_left > 0.0", "--json")
        verified = await run(f"tls://localhost:{web.port}", "--set", f"ca_file={trust.ca_file}", "--json")
        cart = await run(f"grpcs://localhost:{port}/cart", "--set", "tls.verify=false", "--json")
    assert refused.code == 1
    assert {row["reason"] for row in refused.json()} == {"certificate"}
    assert (trusted.code, loose.code, verified.code) == (0, 0, 0), trusted
    assert [row["kind"] for row in trusted.json()] == ["http", "websocket", "grpc"]
    assert cart.json()[0]["values"]["serving_status"] == "NOT_SERVING"


async def test_dns_with_server_name_and_type(dns_server: str) -> None:  # noqa: F811
    ended = await run(f"dns://{dns_server}/a.test?type=A", f"dns://{dns_server}/nobody.test", "--json")
    assert ended.code == 3
    good, bad = ended.json()
    assert good["success"]
    assert not bad["success"]


async def test_websocket_and_docker(tmp_path: Path) -> None:
    async with websocket_server(echo) as url:
        assert (await run(url, "--set", "expect_message=welcome")).code == 0
    ended = await run("docker://shop", "--set", f"socket={tmp_path}/none.sock", "--json")
    assert ended.code == 1
    assert "none.sock" in ended.json()[0]["message"]


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        (["status=404"], 0, ""),
        (["status=200,404"], 0, ""),
        (["status=[200, 4xx]"], 0, ""),
        (["body_limit=1KiB", "status=404", "headers.X-A.B=c", "method=POST", 'body={"a": 1}'], 0, ""),
        (["follow_redirects=false", "status=404"], 0, ""),
        (["follow_redirects=maybe"], 2, "follow_redirects"),
        (["body_limit=much"], 2, "size"),
        (["verify=false"], 2, "did you mean 'tls.verify'?"),
        (["tls.verfy=false"], 2, "did you mean 'tls.verify'?"),
        (["statu=200"], 2, "did you mean 'status'?"),
        (["status"], 2, "write it as KEY=VALUE"),
        (["url.x=1"], 2, "unknown option 'url.x'"),
    ],
)
async def test_settings_are_read_as_the_configuration_reads_them(settings: list[str], code: int, says: str) -> None:
    async with serving(MISSING) as web:
        ended = await run(web.url, *(part for setting in settings for part in ("--set", setting)))
    assert ended.code == code, ended
    assert says in ended.stderr
    if code == 0 and len(settings) > 3:
        assert b'{"a": 1}' in web.requests[0]
        assert b"X-A.B: c" in web.requests[0]


async def test_json_is_only_json_in_errors_too() -> None:
    for arguments, code in ((["gopher://x"], "usage"), (["shop"], "unreachable"), (["--count", "x", "a:1"], "usage")):
        ended = await run(*arguments, "--json")
        assert ended.stdout == ""
        assert json.loads(ended.stderr)["code"] == code


async def test_a_name_without_a_daemon_says_what_it_was_taken_for() -> None:
    ended = await run("shop")
    assert ended.code == 13
    assert "'shop' is not an address, so it must be a configured probe" in ended.stderr
    assert "https://shop" in ended.stderr


async def test_count_paces_and_sums_up() -> None:
    calls = 0

    async def flaky(_request: bytes, writer: Writer) -> None:
        nonlocal calls
        calls += 1
        writer.write(OK if calls % 2 else MISSING)

    async with serving(flaky) as web:
        started_s = time.monotonic()
        ended = await run(web.url, "--count", "4", "--interval", "100ms", "--expect", "status == 200")
        took_s = time.monotonic() - started_s
    assert took_s >= 0.3
    assert ended.code == 3
    assert re.search(r"4 attempts, 2 ok, 2 failed; min/median/p95/max [\d.]+/[\d.]+/[\d.]+/[\d.]+ ms", ended.stdout)


@pytest.mark.parametrize("environ", [{"COLUMNS": "80"}, {"COLUMNS": "60"}])
async def test_tables_fit_the_screen(environ: dict[str, str]) -> None:
    async with serving(MISSING) as web:
        ended = await run(
            web.url + "long/" * 40, web.url, "--expect", f"status == 200 && body != '{'x' * 90}'", **environ
        )
    assert max(map(len, ended.stdout.splitlines())) <= int(environ["COLUMNS"]), ended.stdout
    assert "status is 404" in " ".join(ended.stdout.split())
    assert "\x1b" not in ended.stdout, "colours in a pipe"


async def test_what_a_target_says_cannot_drive_the_terminal() -> None:
    ended = await run("exec://printf '\\033[2J'", "--set", "format=json")
    assert "\x1b" not in ended.stdout
    assert ended.code == 1


class Terminal:
    """A command on a terminal of its own: both outputs go there."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._main, other = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **environ}
        self.process = subprocess.Popen([*COMMAND, *arguments], stdin=other, stdout=other, stderr=other, env=env)
        os.close(other)
        self.seen = ""

    def read_until(self, text: str, within_s: float = 60.0) -> None:
        end_s = time.monotonic() + within_s
        while text not in self.seen:
            assert time.monotonic() < end_s, self.seen
            if select.select([self._main], [], [], 0.1)[0]:
                self.seen += os.read(self._main, 65536).decode(errors="replace")

    def end(self) -> int:
        try:
            while chunk := os.read(self._main, 65536):
                self.seen += chunk.decode(errors="replace")
        except OSError:  # its last holder has gone
            pass
        code = self.process.wait(60)
        os.close(self._main)
        assert "Traceback" not in self.seen
        return code


def test_progress_on_a_terminal_and_partial_results_after_an_interrupt() -> None:
    terminal = Terminal("exec://true", "--count", "1000", "--interval", "50ms")
    terminal.read_until("/1000 attempts")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "✔ ok" in terminal.seen
    assert re.search(r"\d+ attempts, \d+ ok, 0 failed", terminal.seen)


def test_no_colour_where_it_is_not_wanted() -> None:
    plain, coloured = Terminal("exec://true", NO_COLOR="1"), Terminal("exec://true", NO_COLOR="")
    assert (plain.end(), coloured.end()) == (0, 0)
    assert "\x1b[3" not in plain.seen
    assert "\x1b[32m" in coloured.seen


def test_an_interrupt_in_a_pipe_has_its_code_and_only_json() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        # One at once: the second begins when the first is written down, not when its peer has seen its end.
        arguments = [address, "exec://sleep 60", "--timeout", "60s", "--json", "--forks", "1"]
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        listener.settimeout(60)
        taken, _ = listener.accept()
        with taken:
            assert taken.recv(1) == b""  # the first has ended
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(children.read_text, what="the second's beginning")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [row["kind"] for row in json.loads(out)] == ["tcp"]
    assert err == b""
