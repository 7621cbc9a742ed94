"""What sinks say of whole batches whose records differ: in time, labels and levels, and in what is refused of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_log_sinks import block, tools, written
from tests.receiver import Received, receiving
from tests.unit.logs.test_log_splice import path_of

from dogwatch.logs.block import Block
from dogwatch.logs.sink import Sink
from dogwatch.logs.sinks.clickhouse import ClickhouseSink
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.sinks.loki import LokiSink
from dogwatch.logs.transforms.parse import JsonTransform

TIMED = b'{"timestamp":"2026-11-21T07:00:00.25Z","level":"info","n":1}'
TAKEN = b'{"took":1,"errors":false,"items":[]}'


def made(*lines: bytes, whole: bool) -> Block:
    """Return records as JSON lines that stayed as they were, or as rows."""
    path = path_of(JsonTransform())
    return path.encoded(block(*lines)) if whole else path.apply(block(*lines))


def body(request: Received) -> bytes:
    return gzip.decompress(request.body) if "content-encoding" in request.headers else request.body


async def sent(sink: type[Sink], folder: Path, *blocks: Block, **options: Any) -> list[Received]:
    async with receiving(answer=lambda _request: (200, {}, TAKEN)) as receiver:
        kit = tools(folder)
        try:
            await written(sink(url=receiver.url, **options), kit, *blocks)
        finally:
            await kit.close()
        return receiver.requests


@pytest.mark.parametrize("whole", [True, False])
async def test_documents_have_their_time_or_that_of_sending(whole: bool, tmp_path: Path) -> None:
    own = b'{"@timestamp":"2020-01-01T00:00:00Z","timestamp":"2026-11-21T07:00:00Z"}'
    given = [made(TIMED, b'{"n":2}', own, whole=whole), made(b'{"n":4}', b"{}", whole=whole), block(b'say "timestamp"')]
    (request,) = await sent(ElasticsearchSink, tmp_path, *given, index="logs-ü")
    lines = [json.loads(line) for line in body(request).splitlines()]
    assert [one["create"]["_index"] for one in lines[::2]] == ["logs-ü"] * 6
    assert [one["create"]["_id"] for one in lines[::2]] == [one for some in given for one in some.ids()]
    assert [one["id"] for one in lines[1::2]] == [one["create"]["_id"] for one in lines[::2]]
    times = [one["@timestamp"] for one in lines[1::2]]
    assert (times[0], times[2]) == ("2026-11-21T07:00:00.250Z", "2020-01-01T00:00:00Z")
    assert times[1] == times[3] == times[4] == times[5] > "2026-01-01"
    assert [one.get("n") for one in lines[1::2]] == [1, 2, None, 4, None, None]


@pytest.mark.parametrize("whole", [True, False])
async def test_lines_go_to_the_streams_of_their_labels(whole: bool, tmp_path: Path) -> None:
    lines = [TIMED, b'{"level":"warn","n":2}', b'{"n":3}', TIMED, b'{"level":5,"message":"only"}', b'{"message":"x"}']
    requests = await sent(LokiSink, tmp_path, made(*lines, whole=whole), block(b"plain"), by=("level",), ids=False)
    streams = [stream for request in requests for stream in json.loads(body(request))["streams"]]
    found = {one["stream"].get("level"): [value[1] for value in one["values"]] for one in streams}
    assert [json.loads(line)["n"] for line in found["info"]] == [1, 1]
    assert [json.loads(line)["n"] for line in found["warn"]] == [2]
    assert json.loads(found["5"][0]) == {"level": 5, "message": "only"}
    assert [line if line in ("x", "plain") else json.loads(line)["n"] for line in found[None]] == [3, "x", "plain"]
    assert all(len(value) == 2 for one in streams for value in one["values"])
    times = [int(value[0]) for one in streams if one["stream"].get("level") == "info" for value in one["values"]]
    assert times[1] == times[0] + 1


async def test_of_a_batch_that_loki_refuses_one_line_is_dead(tmp_path: Path) -> None:
    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        return (400, {}, b"bad line") if b"poison" in body(request) else (204, {}, b"")

    lines = [b'{"n":%d,"say":"%s"}' % (at, b"poison" if at == 5 else b"x") for at in range(9)]
    async with receiving(answer=answer) as receiver:
        kit = tools(tmp_path)
        try:
            await written(LokiSink(url=receiver.url), kit, block(b"first"), made(*lines, whole=True))
        finally:
            await kit.close()
        taken = [
            value[1]
            for request in receiver.requests
            if b"poison" not in body(request)
            for stream in json.loads(body(request))["streams"]
            for value in stream["values"]
        ]
    assert sorted(taken) == sorted(["first", *(line.decode() for at, line in enumerate(lines) if at != 5)])
    (letter,) = [json.loads(line) for line in (tmp_path / "dead" / "out.ndjson").read_text().splitlines()]
    assert (letter["record"]["n"], letter["record"]["say"]) == (5, "poison")


@pytest.mark.parametrize("whole", [True, False])
async def test_a_row_that_does_not_fit_is_found_by_halving(whole: bool, tmp_path: Path) -> None:
    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        return (400, {}, b"Code: 27. no number") if b"odd" in body(request) else (200, {}, b"")

    lines = [b'{"n":"%s"}' % (b"odd" if at in (1, 6) else b"%d" % at) for at in range(7)]
    async with receiving(answer=answer) as receiver:
        kit = tools(tmp_path)
        try:
            await written(ClickhouseSink(url=receiver.url), kit, made(*lines, whole=whole))
        finally:
            await kit.close()
        taken = [
            json.loads(line)["n"]
            for one in receiver.requests
            for line in body(one).splitlines()
            if b"odd" not in body(one)
        ]
        tokens = [one.path.rpartition("insert_deduplication_token=")[2] for one in receiver.requests]
    assert sorted(taken) == ["0", "2", "3", "4", "5"]
    assert len(set(tokens)) == len(tokens)
    assert kit.dead_count == 2
