"""Every sink over one suite: blocks in, records out, refusals tried again, and what is never taken kept."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import trustme
from tests.receiver import Received, receiving

from dogwatch.core.component import Component
from dogwatch.errors import PermanentError, TransientError
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.block import Block
from dogwatch.logs.records import json_lines
from dogwatch.logs.rows import Encoded
from dogwatch.logs.sink import Sink, Worker
from dogwatch.logs.sinks import SINKS
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.sinks.file import FileSink
from dogwatch.logs.sinks.http import HttpSink
from dogwatch.logs.sinks.loki import LokiSink
from dogwatch.logs.sinks.otlp import OtlpSink
from dogwatch.logs.sinks.s3 import S3Sink
from dogwatch.logs.sinks.signature import Credentials, signed
from dogwatch.logs.sinks.syslog import SyslogSink
from dogwatch.logs.steps import through
from dogwatch.logs.tls import ClientTls
from dogwatch.logs.tools import SinkTools
from dogwatch.logs.transforms.change import SetTransform
from dogwatch.logs.transforms.parse import JsonTransform

assert frames.OFFSET
HTTP: dict[str, type[Component]] = {"http": HttpSink, "loki": LokiSink, "elasticsearch": ElasticsearchSink}
# Against real servers in tests/integration/logs/test_real_sinks.py; the store in test_log_store_crash.py beside it.
REAL = {"clickhouse", "kafka", "nats", "otlp", "s3", "store", "syslog"}


def block(*lines: bytes, begin: int = 0) -> Block:
    data = b"".join(line + b"\n" for line in lines)
    return Block(
        source="app", stream="s.0", path="/l/a.log", begin=begin, end=begin + len(data), data=data, count=len(lines)
    )


class Waits:
    """Stands for sleeping."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []

    async def sleep(self, wait_s: float) -> None:
        self.waited_s.append(wait_s)


def tools(folder: Path, waits: Waits | None = None) -> SinkTools:
    async def save() -> None:
        pass

    waits = waits or Waits()
    return SinkTools("out", folder, save=save, sleep=waits.sleep, draw=lambda: 1.0)


def messages(request: Received) -> list[str]:
    """Return the lines that a request brought, whatever the protocol."""
    body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    if request.path.endswith("/push"):
        return [value[1] for stream in json.loads(body)["streams"] for value in stream["values"]]
    found = [json.loads(line) for line in body.splitlines()]
    return [one["message"] for one in found if "message" in one]


async def written(sink: Sink, kit: SinkTools, *blocks: Block) -> Worker:
    worker = await sink.open(kit, None)
    await worker.write(blocks)
    return worker


def test_every_kind_is_in_this_suite() -> None:
    assert set(SINKS.kinds()) == {*HTTP, *REAL, "file", "stdout", "store"}


@pytest.mark.parametrize("kind", HTTP)
@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_records_arrive_in_order(kind: str, compression: str, tmp_path: Path) -> None:
    def answer(_request: Received) -> tuple[int, dict[str, str]]:
        return 200, {}

    async with receiving(answer=answer) as receiver:
        kit = tools(tmp_path)
        sink = HTTP[kind](url=receiver.url, compression=compression)  # type: ignore[call-arg]
        assert isinstance(sink, Sink)
        worker = await sink.open(kit, None)
        try:
            if kind == "elasticsearch":
                # The receiver's "ok" is no bulk answer, and must not be taken for one.
                with pytest.raises(TransientError, match="bulk answer"):
                    await worker.write([block(b"one", b"two\r"), block(b"\xff3", begin=20)])
            else:
                await worker.write([block(b"one", b"two\r"), block(b"\xff3", begin=20)])
            assert messages(receiver.requests[0]) == ["one", "two", "�3"]
        finally:
            await kit.close()


def made(kind: str, url: str) -> Sink:
    if kind == "s3":
        return S3Sink(url=url, bucket="logs", access_key="a", secret_key="b")
    found = {**HTTP, "otlp": OtlpSink}[kind](url=url)  # type: ignore[call-arg]
    assert isinstance(found, Sink)
    return found


@pytest.mark.parametrize("kind", [*HTTP, "otlp", "s3"])
@pytest.mark.parametrize(("status", "error"), [(429, TransientError), (503, TransientError), (400, PermanentError)])
async def test_refusals_are_told_apart(kind: str, status: int, error: type[Exception], tmp_path: Path) -> None:
    async with receiving(answer=lambda _request: (status, {"Retry-After": "7"})) as receiver:
        kit = tools(tmp_path)
        try:
            if kind == "loki" and status == 400:
                # It refuses lines, not batches: what is refused is a dead letter at once.
                await written(made(kind, receiver.url), kit, block(b"one"))
                assert kit.dead_count == 1
                return
            # Nobody looks into objects: what S3 refuses can be mended (a region, a token that has run out).
            wanted = TransientError if kind == "s3" else error
            with pytest.raises(wanted) as caught:
                await written(made(kind, receiver.url), kit, block(b"one"))
        finally:
            await kit.close()
        if isinstance(caught.value, TransientError):
            assert caught.value.retry_after_s == 7


class Bulk:
    """Answers bulk requests item by item, as Elasticsearch does."""

    def __init__(self, judge: Callable[[str, int], int]) -> None:
        self.judge = judge
        self.batches: list[list[str]] = []

    def body(self, request: Received) -> bytes:
        body = gzip.decompress(request.body) if "content-encoding" in request.headers else request.body
        lines = [json.loads(line) for line in body.splitlines()]
        assert [set(line) for line in lines[::2]] == [{"create"}] * (len(lines) // 2)
        found = [line["message"] for line in lines[1::2]]
        self.batches.append(found)
        statuses = [self.judge(message, len(self.batches)) for message in found]
        items = [
            {"create": {"status": status, "error": {"type": "t", "reason": "r"}} if status >= 300 else {"status": 201}}
            for status in statuses
        ]
        return json.dumps({"errors": any(status >= 300 for status in statuses), "items": items}).encode()


async def test_bulk_items_are_judged_one_by_one(tmp_path: Path) -> None:
    def judge(message: str, attempt: int) -> int:
        busy = 429 if attempt == 1 else 503 if attempt == 2 else 201
        return {"bad": 400, "busy": busy, "known": 409}.get(message, 201)

    bulk = Bulk(judge)
    waits = Waits()
    kit = tools(tmp_path, waits)

    class Answering:
        async def post(self, body: bytes) -> object:
            class Answer:
                pass

            answer = Answer()
            answer.body = bulk.body(Received("/", {}, body))  # type: ignore[attr-defined]
            return answer

        pack = staticmethod(lambda data: data)

    worker = await ElasticsearchSink(url="http://localhost:1").open(kit, None)
    worker._delivery = Answering()  # type: ignore[attr-defined]
    try:
        await worker.write([block(b"good", b"bad", b"busy", b"known")])
    finally:
        await kit.close()
    assert bulk.batches == [["good", "bad", "busy", "known"], ["busy"], ["busy"]]
    assert waits.waited_s == [0.5, 1.0]
    letters = [json.loads(line) for line in (tmp_path / "dead" / "out.ndjson").read_text().splitlines()]
    assert [one["record"]["message"] for one in letters] == ["bad"]
    assert letters[0]["reason"] == "400 t: r"
    assert kit.dead_count == 1


async def test_loki_is_given_labels_rising_times_and_ids(tmp_path: Path) -> None:
    async with receiving(answer=lambda _request: (204, {})) as receiver:
        kit = tools(tmp_path)
        sink = LokiSink(url=receiver.url, compression="none", labels={"env": "test"}, tenant="team")
        try:
            await written(sink, kit, block(b"one", b"two"))
        finally:
            await kit.close()
        request = receiver.requests[0]
    assert request.path == "/loki/api/v1/push"
    assert request.headers["x-scope-orgid"] == "team"
    streams = json.loads(request.body)["streams"]
    assert [one["stream"] for one in streams] == [{"source": "app", "file": "/l/a.log", "env": "test"}]
    times = [int(value[0]) for value in streams[0]["values"]]
    assert times == sorted(set(times))
    assert [value[2] for value in streams[0]["values"]] == [{"id": one} for one in block(b"one", b"two").ids()]


async def test_loki_is_given_the_times_of_records(tmp_path: Path) -> None:
    line = b'{"timestamp": "2026-11-21T07:00:00.25Z", "n": %d}'
    made = through(block(line % 1, line % 2, b'{"n": 3}'), [JsonTransform().open()])
    async with receiving(answer=lambda _request: (204, {})) as receiver:
        kit = tools(tmp_path)
        try:
            worker = await written(LokiSink(url=receiver.url, compression="none"), kit, made)
            await worker.write([made])
        finally:
            await kit.close()
    at_ns = 1_795_244_400_250_000_000
    values = [value for one in receiver.requests for value in json.loads(one.body)["streams"][0]["values"]]
    assert [int(value[0]) for value in values[:2]] == [at_ns, at_ns + 1], "equal times would make one line of two"
    assert int(values[2][0]) > at_ns + 10**9


@pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
@pytest.mark.parametrize("kind", [*HTTP, "otlp"])
@pytest.mark.parametrize("form", ["lines", "rows", "columns", "json"])
async def test_what_is_too_large_at_once_goes_in_parts(kind: str, form: str, tmp_path: Path) -> None:
    """A proxy that takes so much at once must not make dead letters of what it would take in parts."""
    texts = [b"%d %b" % (number, b"x" * 100) for number in range(8)] + [b"huge " + b"x" * 5000]
    given = block(*texts)
    if form != "lines":
        given = through(given, [SetTransform(fields={"env": "test"}).open()])
    if form == "columns":
        given = msgspec.structs.replace(given, made=given.frame)
    elif form == "json":
        given = msgspec.structs.replace(given, made=Encoded(json_lines(given), given.rows))
    taken: list[bytes] = []

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        if len(request.body) > 1500:
            return 413, {}, b"too large"
        taken.append(request.body)
        return 200, {}, b'{"errors": false}'

    async with receiving(answer=answer) as receiver:
        kit = tools(tmp_path)
        sink = {**HTTP, "otlp": OtlpSink}[kind](url=receiver.url, compression="none")  # type: ignore[call-arg]
        assert isinstance(sink, Sink)
        try:
            await written(sink, kit, given, block(b"last", begin=99_999))
        finally:
            await kit.close()
    everything = b"".join(taken)
    for text in [*texts[:8], b"last"]:
        assert everything.count(text) == 1
    for name in [*given.ids()[:8], *block(b"last", begin=99_999).ids()]:
        # Elasticsearch has it as the document's name, too.
        assert everything.count(name.encode()) == (2 if kind == "elasticsearch" else 1)
    letters = [json.loads(line) for line in (tmp_path / "dead" / "out.ndjson").read_text().splitlines()]
    assert [one["record"]["id"] for one in letters] == [given.ids()[8]]
    assert "413" in letters[0]["reason"]


async def test_a_file_is_cut_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    sink = FileSink(path=str(tmp_path / "out.log"))
    kit = tools(tmp_path)
    worker = await written(sink, kit, block(b"one"))
    state = worker.state()
    await worker.write([block(b"two", begin=4)])
    await worker.close()
    again = await sink.open(kit, state)
    await again.write([block(b"two", begin=4)])
    await again.close()
    await kit.close()
    assert (tmp_path / "out.log").read_bytes() == b"one\ntwo\n"


async def test_a_file_of_somebody_else_is_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    sink = FileSink(path=str(path))
    kit = tools(tmp_path)
    worker = await written(sink, kit, block(b"one"))
    state = worker.state()
    await worker.close()
    path.rename(tmp_path / "moved")
    path.write_bytes(b"not ours, and longer\n")
    again = await sink.open(kit, state)
    await again.write([block(b"two")])
    await again.close()
    await kit.close()
    assert path.read_bytes() == b"not ours, and longer\ntwo\n"


@pytest.mark.parametrize("way", ["renamed", "deleted"])
async def test_a_file_that_somebody_moved_is_written_under_its_name_again(way: str, tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    kit = tools(tmp_path)
    worker = await FileSink(path=str(path)).open(kit, None)
    await worker.write([block(b"one")])
    if way == "renamed":
        path.rename(tmp_path / "moved")
    else:
        path.unlink()
    worker.sync()  # as before every checkpoint
    await worker.write([block(b"two")])
    await worker.write([block(b"three")])
    state = worker.state()
    await worker.close()
    await kit.close()
    assert path.read_bytes() == b"two\nthree\n"
    assert state is not None
    assert (state.inode, state.length) == (path.stat().st_ino, 10)


async def test_a_rotation_that_fails_half_way_is_not_done_twice(tmp_path: Path) -> None:
    """There is a name, but nothing can be opened under it: as where a disk has no inode left."""
    path = tmp_path / "out.log"
    kit = tools(tmp_path)
    worker = await FileSink(path=str(path), rotate=4, keep=3).open(kit, None)
    await worker.write([block(b"one")])
    opened = worker._open  # type: ignore[attr-defined]
    failures = 3

    def fails() -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(28, "No space left on device")
        opened()

    worker._open = fails  # type: ignore[attr-defined]
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            await worker.write([block(b"two")])
    await worker.write([block(b"two")])
    await worker.close()
    await kit.close()
    assert path.read_bytes() == b"two\n"
    assert (tmp_path / "out.log.1").read_bytes() == b"one\n"
    assert not (tmp_path / "out.log.2").exists()


async def test_files_are_rotated_and_old_ones_removed(tmp_path: Path) -> None:
    sink = FileSink(path=str(tmp_path / "out.log"), rotate=10, keep=2)
    kit = tools(tmp_path)
    worker = await sink.open(kit, None)
    for number in range(8):
        await worker.write([block(b"line %d" % number)])
    await worker.close()
    await kit.close()
    assert {one.name: one.read_bytes() for one in tmp_path.glob("out.log*")} == {  # noqa: ASYNC240
        "out.log": b"line 6\nline 7\n",
        "out.log.1": b"line 4\nline 5\n",
        "out.log.2": b"line 2\nline 3\n",
    }


def test_a_signature_is_the_one_of_the_published_example() -> None:
    """The PUT of Amazon's page "Signature Calculations: Transferring Payload in a Single Chunk"."""
    body = b"Welcome to Amazon S3."
    headers = {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    found = signed(
        "PUT",
        "https://examplebucket.s3.amazonaws.com/test%24file.text",
        headers,
        body,
        Credentials(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    signature = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    assert found["authorization"].endswith(f"Signature={signature}")


async def test_syslog_datagrams(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        sink = SyslogSink(url=f"udp://127.0.0.1:{server.getsockname()[1]}", hostname="h", max_size=200)
        kit = tools(tmp_path)
        worker = await written(sink, kit, block(b"one", b"x" * 300))
        await worker.close()
        await kit.close()
        first, second = server.recv(4096), server.recv(4096)
    head, _, rest = first.partition(b" app ")
    assert head.startswith(b"<14>1 20")
    assert head.endswith(b"Z h")
    assert rest == b'- - [dogwatch@32473 id="' + block(b"one").ids()[0].encode() + b'"] one'
    assert len(second) == 200


async def test_syslog_over_tls_and_a_connection_that_breaks(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    found: list[bytes] = []
    got, told = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = not found
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int((await reader.readuntil(b" ")).decode())
                found.append(await reader.readexactly(size))
                got.set()
                if first:
                    await told.wait()
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    kit = tools(tmp_path)
    try:
        sink = SyslogSink(url=f"tls://localhost:{port}", tls=ClientTls(ca_file=str(tmp_path / "ca.pem")))
        worker = await written(sink, kit, block(b"one"))
        await got.wait()
        told.set()

        async def until_another() -> None:
            """Send until a new connection has something: an end that is seen in time costs no failure."""
            async with asyncio.timeout(60):
                while len(found) < 2:
                    with contextlib.suppress(TransientError):
                        await worker.write([block(b"two")])

        await until_another()
        await worker.write([block(b"three")])
        await worker.close()
        with pytest.raises(TransientError, match="certificate"):
            await written(SyslogSink(url=f"tls://localhost:{port}"), kit, block(b"one"))
    finally:
        await kit.close()
        server.close()
        await server.wait_closed()
    assert found[0].endswith(b"one")
    assert any(one.endswith(b"three") for one in found)
