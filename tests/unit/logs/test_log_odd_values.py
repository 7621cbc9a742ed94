"""Numbers and times that few programs can hold: every record goes on, and stays where it was acknowledged."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.logs.test_log_splice import block, path_of

from dogwatch.engine.http_types import HttpRequest, HttpResponse
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.block import Block
from dogwatch.logs.fields import rfc3339s, time_ns, times_ns
from dogwatch.logs.records import json_lines, pieces, records
from dogwatch.logs.rows import mapping, once_each, unpack
from dogwatch.logs.sink import Sink
from dogwatch.logs.sinks.clickhouse import ClickhouseSink
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.sinks.loki import LokiSink
from dogwatch.logs.sinks.otlp import OtlpSink
from dogwatch.logs.sinks.otlp_bytes import Writer
from dogwatch.logs.sinks.s3 import S3Sink
from dogwatch.logs.sinks.syslog import SyslogSink
from dogwatch.logs.store import sealing
from dogwatch.logs.store.follow import Follow
from dogwatch.logs.store.layout import Index, wal_path, wals
from dogwatch.logs.store.query import LogStore, Query
from dogwatch.logs.store.wal import header
from dogwatch.logs.tools import SinkTools
from dogwatch.logs.transforms.change import SetTransform
from dogwatch.logs.transforms.parse import JsonTransform

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
NOW_US = 1_795_000_000_000_000
NOW_NS = NOW_US * 1000
DIGITS = b"7" * 5000
NUMBERS = [
    b'{"msg":"x","a":1e999}',
    b'{"msg":"x","a":-1e999,"in":{"a":[1e999]}}',
    b'{"msg":"x","a":%b}' % DIGITS,
    b'{"msg":"x","a":%b.5,"in":[%b]}' % (DIGITS, DIGITS),
    b'{"msg":"x","a":%b}' % (b"7" * 3999),
    b'{"msg":"x","a":%d}' % 2**70,
]
TIMES = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "1500-01-01",
    "2300-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-01:00",
]


@pytest.fixture(scope="module", autouse=True)
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both libraries begin threads with their first use that last as long as the process."""
    folder = tmp_path_factory.mktemp("first")
    for number in range(8):
        wal_path(folder, number).write_bytes(header(NOW_US) + b'{"id":"a","source":"s","file":"/f","n":1}\n')
        sealing.seal(folder, number)
    sealing.merge(folder, Index(folder).contents().segments)
    LogStore(folder).run(Query())


def spliced(lines: list[bytes]) -> Block:
    given = block(lines)
    return msgspec.structs.replace(given, data=b"", made=path_of(JsonTransform()).encoded(given).made)


def test_the_store_keeps_and_seals_what_it_acknowledged(tmp_path: Path) -> None:
    follow = Follow(tmp_path)
    for number in range(1, 9):
        lines = json_lines(spliced([*NUMBERS, b'{"msg":"x","a":1}']))
        wal_path(tmp_path, number).write_bytes(header(NOW_US) + lines + b'{"msg":"torn \xc3')
    count = 8 * (len(NUMBERS) + 1)
    fresh = LogStore(tmp_path).run(Query()).records
    assert len(fresh) == len(list(follow.read())) == count
    follow.close()
    for number in range(1, 9):
        assert sealing.seal(tmp_path, number) == len(NUMBERS) + 1
    sealed = LogStore(tmp_path).run(Query())
    assert (len(sealed.records), sealed.unreadable) == (count, 0)
    assert not wals(tmp_path)
    sealing.merge(tmp_path, Index(tmp_path).contents().segments)
    for query, wanted in ((Query(), count), (Query(condition='msg == "x"'), count), (Query(condition="a == 1"), 8)):
        answer = LogStore(tmp_path).run(query)
        assert (len(answer.records), answer.unreadable) == (wanted, 0)
    assert json.loads(msgspec.json.encode(sealed.records[:1]))[0]["msg"] == "x"


@pytest.mark.parametrize("line", NUMBERS, ids=range(len(NUMBERS)))
def test_records_with_odd_numbers_can_be_read_and_written(line: bytes) -> None:
    one: dict[str, Any] = mapping(line)
    assert one["msg"] == "x"
    assert json.loads(msgspec.json.encode(one))["msg"] == "x"
    given = spliced([line, b'{"msg":"y","timestamp":"2026-11-21T07:00:00Z"}'])
    assert [found["msg"] for found in records(given)] == ["x", "y"]
    assert pieces(given).columns(("timestamp",))[0][1] == "2026-11-21T07:00:00Z"
    assert b"77777" in line or math.isinf(one["a"]) or one["a"] == 2**70
    assert Writer().records(pieces(given), "/p", NOW_NS)


def test_whole_numbers_of_more_than_64_bits_wait_on_the_disk() -> None:
    lines = [b'{"n":%d,"in":{"a":[-%d]}}' % (2**70, 10**4000), b'{"n":1}']
    rows = path_of(JsonTransform(), SetTransform(fields={"e": "x"})).apply(block(lines)).plain_rows
    assert rows is not None
    assert unpack(rows.pack()).mappings() == rows.mappings()
    assert rows.mappings()[0]["n"] == 2**70


def test_what_is_no_json_is_said_as_such() -> None:
    for line in (b"", b'{"a":', b'{"a":"\xc3', b"[" * 10):
        with pytest.raises(ValueError, match=r"."):
            mapping(line)


def test_a_name_is_there_once_and_all_else_as_it_was() -> None:
    same = b'{"a":1.10 , "b":{"a":1e999}}'
    assert once_each(same) is same
    assert once_each(b'{"a":1, "b":[{"x":1,"x":2}], "a":3}') == b'{"a":3,"b":[{"x":2}]}'


# -- times


@pytest.mark.parametrize("text", TIMES)
def test_a_time_that_64_bits_cannot_hold_is_none(text: str) -> None:
    good = "2026-11-21T07:00:00+00:00"
    good_ns = time_ns({"timestamp": good}, 5)
    assert time_ns({"timestamp": text}, 5) == 5
    full = text if "T" in text else f"{text}T00:00:00+00:00"
    for texts in ([good, full, good], [good, text, None]):
        found = times_ns(texts, 5)
        assert found[:2] == [good_ns, 5]
        assert len(rfc3339s(found)) == 3
    assert time_ns({"timestamp": "1677-09-22T00:00:00Z"}, 5) < 0 < time_ns({"timestamp": "2262-04-11T00:00:00Z"}, 5)


class _Heard(SinkTools):
    """Answers every request, and has what was sent."""

    def __init__(self, folder: Path) -> None:
        async def nothing(*_given: object) -> None:
            pass

        super().__init__("out", folder, save=nothing, sleep=nothing)
        self.bodies: list[bytes] = []

    async def request(self, request: HttpRequest) -> HttpResponse:
        self.bodies.append(request.body or b"")
        return HttpResponse(status=200, headers={}, body=b"{}", url=request.url, duration_s=0.0)


SINKS: list[Sink] = [
    ElasticsearchSink(url="http://a", compression="none"),
    ClickhouseSink(url="http://a", compression="none"),
    LokiSink(url="http://a", compression="none"),
    OtlpSink(url="http://a", compression="none"),
    S3Sink(url="http://a", bucket="logs", access_key="a", secret_key="b", compression="none"),
]


def _odd() -> list[Block]:
    lines = [*(json.dumps({"msg": "x", "timestamp": one}).encode() for one in TIMES), *NUMBERS]
    return [spliced(lines), spliced([b'{"msg":"x","timestamp":"2026-11-21T07:00:00Z"}'])]


@pytest.mark.parametrize("sink", SINKS, ids=[one.kind for one in SINKS])
async def test_every_sink_sends_records_with_odd_values(sink: Sink, tmp_path: Path) -> None:
    tools = _Heard(tmp_path)
    worker = await sink.open(tools, None)
    try:
        await worker.write(_odd())
    finally:
        await worker.close()
        await tools.close()
    whole = b"".join(tools.bodies)
    assert whole.count(b"f.0:") >= len(TIMES) + len(NUMBERS) + 1
    if sink.kind == "loki":
        times = [
            int(time) for body in tools.bodies for one in json.loads(body)["streams"] for time, *_ in one["values"]
        ]
        assert len(times) == len(TIMES) + len(NUMBERS) + 1
        assert all(0 < one < 2**63 for one in times)
    if sink.kind == "elasticsearch":
        stamps = [json.loads(line)["@timestamp"] for line in whole.splitlines()[1::2] if len(line) < 1000]
        assert all(one.startswith("20") for one in stamps), "now, or their own"


async def test_syslog_sends_records_with_odd_values(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        peer.bind(("127.0.0.1", 0))
        tools = _Heard(tmp_path)
        worker = await SyslogSink(url=f"udp://127.0.0.1:{peer.getsockname()[1]}").open(tools, None)
        try:
            await worker.write(_odd())
            for _ in range(len(TIMES)):
                async with asyncio.timeout(30):
                    said = await asyncio.get_running_loop().sock_recv(peer, 65536)
                assert said.split(b" ")[1].startswith(b"20"), "now, for it has no time of its own"
        finally:
            await worker.close()
            await tools.close()


def test_numbers_that_are_all_different_are_not_remembered() -> None:
    writer = Writer()
    for first in range(0, 20_000, 4000):
        given = spliced([b'{"n":%d,"few":%d}' % (number, number % 7) for number in range(first, first + 4000)])
        assert writer.records(pieces(given), "/p", NOW_NS)
    kept = {name: len(column._numbers) for name, column in writer._fields.items()}
    assert (kept["n"], kept["few"]) == (0, 7)
