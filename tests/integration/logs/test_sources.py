"""Sources as the world writes to them, through a whole agent into a file."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from tests.log_peers import free_port, program

from dogwatch.config.load import Loader
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


class Running:
    def __init__(self, folder: Path, agent: Agent) -> None:
        self.folder = folder
        self.agent = agent

    def records(self) -> list[dict[str, str]]:
        path = self.folder / "out.ndjson"
        # It is written meanwhile: the last line may be there by half.
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [json.loads(line) for line in whole.splitlines()]

    def messages(self) -> list[str]:
        return [one["message"] for one in self.records()]

    async def until(self, done: Callable[[], bool], limit_s: float = 20.0) -> None:
        async with asyncio.timeout(limit_s):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def counts(self) -> dict[str, int]:
        return self.agent.status()[0][0].counts


@asynccontextmanager
async def running(folder: Path, source: str, *, do: str = "[]", sink: str = "") -> AsyncIterator[Running]:
    config = folder / "c.yaml"
    sink = sink or f"file: {{path: {folder}/out.ndjson, format: json}}"
    config.write_text(
        f"logs:\n  checkpoint: 100ms\n  sources: [{{name: s, {source}}}]\n  routes: [{{do: {do}}}]\n"
        f"  sinks: [{{name: o, {sink}, retry: {{base: 10ms, cap: 50ms}}}}]\n"
    )
    agent = Agent(Loader([config], [LOGS], environ={}).load().get(LOGS), folder / "state")
    await agent.start()
    try:
        yield Running(folder, agent)
    finally:
        await agent.stop()


async def connect(port: int, context: ssl.SSLContext | None = None) -> asyncio.StreamWriter:
    async with asyncio.timeout(60):
        while True:
            try:
                return (await asyncio.open_connection("localhost", port, ssl=context, family=socket.AF_INET))[1]
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def send(port: int, *parts: bytes, context: ssl.SSLContext | None = None) -> None:
    writer = await connect(port, context)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.close()
    await writer.wait_closed()


async def test_syslog_over_tcp_counted_by_lines_and_torn(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, f"syslog: {{tcp: '127.0.0.1:{port}', max_message: 480B}}") as one:
        await send(port, b"5 ab", b"c\ndlater: 3 xyz4", b" last")
        await send(port, b"<13>one\n<13>t", b"wo\0<13>three\nrest")
        await send(port, b"<13>" + b"x" * 1000 + b"\n<13>after\n")
        await send(port, b"99999999999 x")
        await one.until(lambda: len(one.records()) >= 7 and one.counts().get("broken_connections") == 2)
    # "5 abc\nd" is five octets; then the text "later:" is no count, and the connection ends.
    found = one.messages()
    assert "abc#012d" in found
    assert "later" not in "".join(found)
    assert [text for text in found if text.startswith("<13>")][:3] == ["<13>one", "<13>two", "<13>three"]
    assert "rest" in found
    assert "<13>" + "x" * 476 in found
    assert "<13>after" in found
    assert one.counts()["broken_connections"] == 2
    assert {record["file"] for record in one.records()} == {"tcp://127.0.0.1"}
    assert len({record["id"] for record in one.records()}) == len(found)


def taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


async def test_syslog_datagrams_from_allowed_networks(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, f"syslog: {{udp: '127.0.0.1:{port}', allow: [127.0.0.0/24]}}") as one:
        await one.until(lambda: taken(port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("127.0.0.1", 0))
            for number in range(500):
                sender.sendto(b"<14>%d a\nb\n" % number, ("127.0.0.1", port))
                if number % 20 == 0:
                    await asyncio.sleep(0.005)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.7.7", 0))
            stranger.sendto(b"<14>no", ("127.0.0.1", port))
        await one.until(lambda: len(one.records()) >= 500 and one.counts().get("refused") == 1)
    assert one.messages() == [f"<14>{number} a#012b" for number in range(500)]


async def test_syslog_over_tls(tmp_path: Path) -> None:
    port = free_port()
    authority = trustme.CA()
    own = authority.issue_cert("localhost")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = f"{{cert_file: {tmp_path}/own.pem, client_ca_file: {tmp_path}/ca.pem}}"
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    authority.issue_cert("client.example").configure_cert(context)
    async with running(tmp_path, f"syslog: {{tcp: '127.0.0.1:{port}', tls: {tls}}}") as one:
        await send(port, b"9 encrypted", context=context)
        await one.until(lambda: bool(one.records()))
    assert one.messages() == ["encrypted"]


async def test_syslog_from_logger_and_rsyslog(tmp_path: Path) -> None:
    logger, rsyslogd = program("logger"), program("rsyslogd")
    port = free_port()
    source = f"syslog: {{tcp: '127.0.0.1:{port}', udp: '127.0.0.1:{port}'}}"
    (tmp_path / "in.sock").unlink(missing_ok=True)
    (tmp_path / "r.conf").write_text(
        'module(load="imfile")\n'
        f'input(type="imfile" File="{tmp_path}/in.log" Tag="app" reopenOnTruncate="on")\n'
        f'action(type="omfwd" Target="127.0.0.1" Port="{port}" Protocol="tcp" TCP_Framing="octet-counted" '
        'Template="RSYSLOG_SyslogProtocol23Format")\n'
    )
    async with running(tmp_path, source, do="[syslog]") as one:
        (await connect(port)).close()
        for options in (("--tcp", "--octet-count"), ("--tcp", "--rfc3164"), ("--udp",)):
            words = [
                logger,
                "-n",
                "127.0.0.1",
                "-P",
                str(port),
                *options,
                "-t",
                "tool",
                "-p",
                "local0.warning",
                "hello",
            ]
            ended = await asyncio.create_subprocess_exec(*words)
            assert await ended.wait() == 0
        (tmp_path / "in.log").write_text("".join(f"line {number}\n" for number in range(200)))
        words = [rsyslogd, "-n", "-f", str(tmp_path / "r.conf"), "-i", str(tmp_path / "r.pid")]
        sender = await asyncio.create_subprocess_exec(*words, cwd=tmp_path)
        try:
            await one.until(lambda: len(one.records()) >= 203)
        finally:
            sender.terminate()
            await sender.wait()
    found = one.records()
    assert [(r["app"], r["facility"], r["level"], r["message"]) for r in found if r["app"] == "tool"] == [
        ("tool", "local0", "warning", "hello")
    ] * 3
    assert [r["message"] for r in found if r["app"] == "app"] == [f"line {number}" for number in range(200)]


# -- http


async def post(port: int, body: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            try:
                found = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.post(f"http://127.0.0.1:{port}/in", content=body, headers=found, timeout=20)
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
    raise AssertionError("it does not listen")


async def test_http_answers_once_lines_are_safe(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, f"http: {{listen: '127.0.0.1:{port}', token: t, max_body: 2KiB}}") as one:
        bearer = {"Authorization": "Bearer t"}
        assert (await post(port, b"x")).status_code == 401
        assert (await post(port, b"x", Authorization="Bearer T")).status_code == 401
        answer = await post(port, b'{"a": 1}\n{"a": 2}', **bearer)
        assert (answer.status_code, answer.json()) == (200, {"accepted": 2})
        assert one.messages() == ['{"a": 1}', '{"a": 2}'], "they are in the file when the answer comes"
        assert (await post(port, b"y" * 3000, **bearer)).status_code == 413
        packed = gzip.compress(b"z" * 100_000)
        assert (await post(port, packed, Content_Encoding="gzip", **bearer)).status_code == 413
        assert (
            await post(port, gzip.compress(os.urandom(1000))[:500], Content_Encoding="gzip", **bearer)
        ).status_code == 400
        assert (await post(port, b"x", Content_Encoding="br", **bearer)).status_code == 415
        answer = await post(port, b'[{"b":\n1}, "two"]', Content_Type="application/json", **bearer)
        assert answer.json() == {"accepted": 2}
        for _ in range(2):
            await post(port, gzip.compress(b"same\n"), Content_Encoding="gzip", Idempotency_Key="k", **bearer)
        assert (await post(port, b"", **bearer)).json() == {"accepted": 0}
    assert one.messages()[2:] == ['{"b": 1}', '"two"', "same", "same"]
    ids = [record["id"] for record in one.records()]
    assert len(set(ids)) == len(ids) - 1, "what is sent again under a key has the same id"


async def test_http_does_not_take_what_no_sink_takes(tmp_path: Path) -> None:
    port = free_port()
    away = "http: {url: 'http://127.0.0.1:1/'}"
    async with running(tmp_path, f"http: {{listen: '127.0.0.1:{port}', timeout: 200ms}}", sink=away):
        answer = await post(port, b"x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_http_many_at_once_share_checkpoints(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, f"http: {{listen: '127.0.0.1:{port}'}}") as one:
        await post(port, b"first")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answers = await asyncio.gather(*(client.post("/", content=b"line %d" % number) for number in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert set(one.messages()) == {"first", *(f"line {number}" for number in range(100))}


# -- exec


async def test_exec_is_read_and_started_again(tmp_path: Path) -> None:
    script = 'echo out; echo err >&2; printf "a\\n  b\\n"; printf "no end $MORE"; exit 3'
    options = "base: 50ms, cap: 50ms, environment: {MORE: more}, stderr: true, multiline: {preset: indented}"
    source = f"exec: {{command: [sh, -c, {json.dumps(script)}], {options}}}"
    async with running(tmp_path, source) as one:
        await one.until(lambda: len(one.records()) >= 8)
        assert one.counts()["failures"] >= 1
        await one.until(lambda: "ended with 3" in one.agent.status()[0][0].failing)
    assert one.messages()[:4] == ["out", "err", "a\n  b", "no end more"]
    assert len({record["id"] for record in one.records()}) == len(one.records())


async def test_exec_ends_with_the_agent(tmp_path: Path) -> None:
    source = f"exec: [sh, -c, 'echo $$ > {tmp_path}/pid; (sleep 1000 & wait); sleep 1000']"
    async with running(tmp_path, source) as one:
        await one.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        session = int((tmp_path / "pid").read_text())
        assert os.getsid(session) == session
    assert not await gone(session)


async def gone(session: int) -> list[str]:
    """Return what is left of a session after a while."""
    left = living(session)
    for _ in range(100):
        if not left:
            break
        await asyncio.sleep(0.05)
        left = living(session)
    return left


def living(session: int) -> list[str]:
    words = ["ps", "-o", "stat=,args=", "-s", str(session)]
    shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in shown if not line.startswith("Z")]


# -- journald


class Journal:
    """A real journal file, written as systemd-journal-remote writes what other machines send."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "journal"
        self.folder.mkdir()
        self._writer = program("systemd-journal-remote")
        program("journalctl")
        self.number = 0

    def write(self, count: int, text: str = "entry") -> None:
        entries = []
        for _ in range(count):
            self.number += 1
            micros = 1_795_244_400_000_000 + self.number
            entries.append(
                f"__REALTIME_TIMESTAMP={micros}\n__MONOTONIC_TIMESTAMP={self.number}\n"
                "_BOOT_ID=0123456789abcdef0123456789abcdef\n"
                f"PRIORITY={3 if self.number % 2 else 6}\n_SYSTEMD_UNIT=shop.service\n_HOSTNAME=web-1\n_PID=7\n"
                f"SYSLOG_IDENTIFIER=shop\nMESSAGE={text} {self.number}\n\n"
            )
        subprocess.run(
            [self._writer, "-o", str(self.folder / "remote.journal"), "-"],
            input="".join(entries).encode(),
            check=True,
            capture_output=True,
        )


async def test_journald_goes_on_from_its_cursor(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await asyncio.to_thread(journal.write, 3)
    source = f"journald: {{directory: {journal.folder}, start: beginning}}"
    async with running(tmp_path, source, do="[json]") as one:
        await one.until(lambda: len(one.records()) >= 3)
        await asyncio.to_thread(journal.write, 2)
        await one.until(lambda: len(one.records()) >= 5)
    await asyncio.to_thread(journal.write, 2)
    async with running(tmp_path, source, do="[json]") as one:
        await one.until(lambda: len(one.records()) >= 7)
    found = one.records()
    assert [record["message"] for record in found] == [f"entry {number}" for number in range(1, 8)]
    first = {name: value for name, value in found[0].items() if name not in ("id", "source", "file")}
    assert first == {
        "message": "entry 1",
        "timestamp": "2026-11-21T07:00:00.000001Z",
        "level": "err",
        "host": "web-1",
        "unit": "shop.service",
        "app": "shop",
        "pid": "7",
    }
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "out.ndjson").unlink()
    async with running(tmp_path, source, do="[json]") as again:
        await again.until(lambda: len(again.records()) >= 7)
    assert [record["id"] for record in again.records()] == [record["id"] for record in found]


async def test_journald_leaves_out_an_entry_of_many_megabytes(tmp_path: Path) -> None:
    """A field may have hundreds of them; the others are delivered, and what is left out is counted."""
    journal = Journal(tmp_path)
    await asyncio.to_thread(journal.write, 2)
    await asyncio.to_thread(journal.write, 1, "y" * 20_000_000)
    await asyncio.to_thread(journal.write, 2)
    source = f"journald: {{directory: {journal.folder}, start: beginning}}"
    async with running(tmp_path, source, do="[json]") as one:
        await one.until(lambda: len(one.records()) >= 4, 60)
        assert one.counts()["too_long"] == 1
    assert [record["message"] for record in one.records()] == ["entry 1", "entry 2", "entry 4", "entry 5"]


async def test_journald_begins_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await asyncio.to_thread(journal.write, 3)
    source = f"journald: {{directory: {journal.folder}, priority: err}}"
    async with running(tmp_path, source) as one:
        checkpoint = tmp_path / "state" / "checkpoint"
        await one.until(lambda: checkpoint.exists() and '"s=' in checkpoint.read_text())
        await asyncio.to_thread(journal.write, 2)
        await one.until(lambda: bool(one.records()))
    assert ["entry 5" in message for message in one.messages()] == [True]


# -- containers


async def test_files_of_containers_are_put_together(tmp_path: Path) -> None:
    name = "web-0_shop_app-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.log"
    (tmp_path / name).write_text(
        "2026-11-21T07:00:00.1Z stdout P one\n2026-11-21T07:00:00.2Z stdout F  two\n"
        "2026-11-21T07:00:00.3Z stderr F three\n"
    )
    source = f"containers: {{paths: ['{tmp_path}/*.log'], start: beginning}}"
    async with running(tmp_path, source, do="[container]") as one:
        await one.until(lambda: len(one.records()) >= 2)
    found = [{name: value for name, value in r.items() if name not in ("id", "source", "file")} for r in one.records()]
    place = {"pod": "web-0", "namespace": "shop", "container": "app"}
    assert found == [
        {"message": "one two", "stream": "stdout", "timestamp": "2026-11-21T07:00:00.1Z", **place},
        {"message": "three", "stream": "stderr", "timestamp": "2026-11-21T07:00:00.3Z", **place},
    ]
