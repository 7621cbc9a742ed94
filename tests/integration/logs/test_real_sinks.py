"""Sinks against real servers: what arrives, under which ids, and what a second delivery of the same batch leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from tests.log_peers import S3, Clickhouse, Kafka, Nats, Peer, Store, fetch, running, unique
from tests.unit.logs.test_log_splice import path_of

from dogwatch.errors import TransientError
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.block import Block
from dogwatch.logs.records import json_lines
from dogwatch.logs.sink import Sink
from dogwatch.logs.sinks.clickhouse import ClickhouseSink
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.sinks.kafka import KafkaSink
from dogwatch.logs.sinks.loki import LokiSink
from dogwatch.logs.sinks.nats import NatsSink
from dogwatch.logs.sinks.otlp import OtlpSink
from dogwatch.logs.sinks.s3 import S3Sink
from dogwatch.logs.sinks.syslog import SyslogSink
from dogwatch.logs.steps import through
from dogwatch.logs.tools import SinkTools
from dogwatch.logs.transforms.parse import JsonTransform

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def block(*lines: str, columns: bool = False) -> Block:
    data = "".join(line + "\n" for line in lines).encode()
    found = Block(source="app", stream="s.0", path="/l/a.log", begin=0, end=len(data), data=data, count=len(lines))
    return through(found, [JsonTransform().open()]) if columns else found


LINES = ("one", "two ✓", "three")


async def deliver(sink: Sink, folder: Path, *blocks: Block, times: int = 1) -> SinkTools:
    """Open it, write the batch as often as told, each time as after a crash, and close it."""

    async def save() -> None:
        pass

    async def sleep(_wait_s: float) -> None:
        pass

    kit = SinkTools("out", folder, save=save, sleep=sleep)
    try:
        for _ in range(times):
            worker = await sink.open(kit, None)
            try:
                await worker.write(blocks)
            finally:
                await worker.close()
    finally:
        await kit.close()
    return kit


def letters(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "dead" / "out.ndjson").read_text().splitlines()]


@pytest.fixture(scope="module")
def nats() -> Iterator[Peer]:
    with running(Nats) as peer:
        yield peer


async def test_nats_drops_what_comes_twice(nats: Nats, tmp_path: Path) -> None:
    from nats.aio.client import Client

    name = unique("logs")
    client = Client()
    await client.connect(nats.url, allow_reconnect=False)
    try:
        stream = client.jetstream()
        with pytest.raises(TransientError, match="not taken"):
            await deliver(NatsSink(servers=(nats.url,), subject=name, timeout=2), tmp_path, block(*LINES))
        await stream.add_stream(name=name, subjects=[name])
        await deliver(NatsSink(servers=(nats.url,), subject=name), tmp_path, block(*LINES), times=2)
        assert (await stream.stream_info(name)).state.messages == len(LINES)
        found = [await stream.get_msg(name, at) for at in (1, 2, 3)]
        ids = [one.headers["Nats-Msg-Id"] for one in found if one.headers]
        assert ids == block(*LINES).ids()
        assert [json.loads(one.data or b"")["message"] for one in found] == list(LINES)
    finally:
        await client.close()


async def test_nats_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot connect"):
        await deliver(NatsSink(servers=("nats://127.0.0.1:1",), subject="a", timeout=3), tmp_path, block(*LINES))


async def test_what_is_too_large_for_nats_is_a_dead_letter(nats: Nats, tmp_path: Path) -> None:
    from nats.aio.client import Client

    name = unique("large")
    client = Client()
    await client.connect(nats.url, allow_reconnect=False)
    try:
        await client.jetstream().add_stream(name=name, subjects=[name])
        await deliver(NatsSink(servers=(nats.url,), subject=name), tmp_path, block("x" * 1_100_000, "small"))
        assert (await client.jetstream().stream_info(name)).state.messages == 1
    finally:
        await client.close()
    assert "larger than" in str(letters(tmp_path)[0]["reason"])


@pytest.fixture(scope="module")
def kafka() -> Iterator[Peer]:
    with running(Kafka) as peer:
        yield peer


def consumed(broker: str, topic: str, count: int) -> list[tuple[str, str, str]]:
    """Return (id header, key, value) of everything in a topic."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": unique("g"),
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "logger": logging.getLogger("test.kafka"),
        }
    )
    consumer.subscribe([topic])
    found: list[tuple[str, str, str]] = []
    try:
        for _ in range(200):
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                headers = dict(message.headers() or [])
                value, key = message.value() or b"", message.key() or b""
                found.append((headers["id"].decode(), str(key, "utf-8"), str(value, "utf-8")))
            elif len(found) >= count:
                break
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("compression", ["zstd", "none"])
async def test_kafka_has_each_record_with_its_id(kafka: Kafka, tmp_path: Path, compression: str) -> None:
    topic = unique("logs")
    sink = KafkaSink(brokers=(kafka.broker,), topic=topic, compression=compression)  # type: ignore[arg-type]
    await deliver(sink, tmp_path, block(*LINES))
    found = await asyncio.to_thread(consumed, kafka.broker, topic, 3)
    assert [one[0] for one in found] == block(*LINES).ids()
    assert {one[1] for one in found} == {"app:/l/a.log"}
    assert [json.loads(one[2])["message"] for one in found] == list(LINES)


async def test_kafka_lines_and_what_a_broker_never_takes(kafka: Kafka, tmp_path: Path) -> None:
    topic = unique("logs")
    sink = KafkaSink(brokers=(kafka.broker,), topic=topic, format="lines", compression="none")
    await deliver(sink, tmp_path, block("first", "y" * 300_000, "last"))
    found = await asyncio.to_thread(consumed, kafka.broker, topic, 2)
    assert [one[2] for one in found] == ["first", "last"]
    assert len(letters(tmp_path)) == 1


async def test_kafka_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TransientError):
        await deliver(KafkaSink(brokers=("127.0.0.1:1",), topic="t", timeout=1), tmp_path, block(*LINES))


async def test_kafka_that_is_not_there_holds_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A write that is given up ends at once, long before the broker's time is over."""
    sink = KafkaSink(brokers=("127.0.0.1:1",), topic="t", timeout=300)
    writing = asyncio.ensure_future(deliver(sink, tmp_path, block(*LINES)))
    await asyncio.sleep(0.5)  # until the thread waits for answers
    writing.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[Peer]:
    with running(Clickhouse) as peer:
        yield peer


async def test_clickhouse_takes_rows_and_one_that_does_not_fit_is_apart(clickhouse: Clickhouse, tmp_path: Path) -> None:
    table = unique("logs")
    clickhouse.query(
        f"CREATE TABLE {table} (id String, source String, file String, n Int32, at DateTime) "
        "ENGINE = ReplacingMergeTree() PARTITION BY tuple() ORDER BY id"
    )
    lines = [f'{{"n": {n}, "at": "2026-11-21T07:00:0{n}Z", "other": 1}}' for n in range(5)]
    lines[3] = '{"n": "no number", "at": "2026-11-21T07:00:00Z"}'
    made = block(*lines)
    sink = ClickhouseSink(url=clickhouse.url, table=table, deduplicate=False)
    changed = through(made, [JsonTransform().open()])
    await deliver(sink, tmp_path, changed, times=2)
    rows = clickhouse.query(f"SELECT id, n, toUnixTimestamp(at, 'UTC') FROM {table} FINAL ORDER BY n FORMAT TSV")
    ids = made.ids()
    expected = [f"{ids[n]}\t{n}\t{1795244400 + n}" for n in (0, 1, 2, 4)]
    assert rows.splitlines() == expected
    assert {one["record"]["n"] for one in letters(tmp_path)} == {"no number"}  # type: ignore[index]


async def test_clickhouse_takes_a_name_that_is_there_twice(clickhouse: Clickhouse, tmp_path: Path) -> None:
    table = unique("logs")
    clickhouse.query(f"CREATE TABLE {table} (id String, n Float64, t String) ENGINE = MergeTree() ORDER BY id")
    given = block('{"n": 1, "n": 2}', '{"n": 3}', '{"n": "none"}', '{"n": 4, "t": "x", "t": "y"}')
    spliced = path_of(JsonTransform()).encoded(given)
    assert b'"n": 1, "n": 2' in json_lines(spliced), "it goes on as it was"
    await deliver(ClickhouseSink(url=clickhouse.url, table=table, deduplicate=False), tmp_path, spliced)
    rows = clickhouse.query(f"SELECT n, t FROM {table} ORDER BY n FORMAT TSV")
    assert rows.splitlines() == ["2\t", "3\t", "4\ty"]
    assert [one["record"]["n"] for one in letters(tmp_path)] == ["none"]  # type: ignore[index]


async def test_clickhouse_without_its_table_is_tried_again(clickhouse: Clickhouse, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="doesn't exist"):
        await deliver(ClickhouseSink(url=clickhouse.url, table="none", deduplicate=False), tmp_path, block("x"))


@pytest.fixture(scope="module")
def s3() -> Iterator[Peer]:
    with running(S3) as peer:
        yield peer


class Bucket:
    """A bucket of a user who may do everything, and looks at signatures from then on."""

    def __init__(self, peer: S3) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import boto3

            fetch(f"{peer.url}/moto-api/reset-auth", b"1000000")
            first = {"endpoint_url": peer.url, "region_name": "us-east-1", "aws_access_key_id": "a"}
            iam = boto3.client("iam", aws_secret_access_key="b", **first)
            user = unique("u")
            iam.create_user(UserName=user)
            policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
            iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName=user)["AccessKey"]
            self.access, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
            self.client = boto3.client(
                "s3",
                endpoint_url=peer.url,
                region_name="us-east-1",
                aws_access_key_id=self.access,
                aws_secret_access_key=self.secret,
            )
            self.name = unique("bucket")
            self.client.create_bucket(Bucket=self.name)
            iam.close()
            fetch(f"{peer.url}/moto-api/reset-auth", b"0")

    def objects(self) -> dict[str, bytes]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]
            return {name: self.client.get_object(Bucket=self.name, Key=name)["Body"].read() for name in names}


@pytest.mark.allow_leak("fd:socket:*", reason="the client library keeps its connections")
async def test_s3_takes_signed_objects_and_a_batch_twice_is_one(s3: S3, tmp_path: Path) -> None:
    bucket = await asyncio.to_thread(Bucket, s3)
    try:
        lines = [f'{{"timestamp": "2026-11-21T0{hour}:30:00Z", "n": {hour}}}' for hour in (6, 6, 7)]
        made = block(*lines, columns=True)
        sink = S3Sink(
            url=s3.url, bucket=bucket.name, access_key=bucket.access, secret_key=bucket.secret, prefix="a b+ü/"
        )
        await deliver(sink, tmp_path, made, times=2)
        found = await asyncio.to_thread(bucket.objects)
        assert [name.rpartition("/")[0] for name in sorted(found)] == ["a b+ü/2026/11/21/06", "a b+ü/2026/11/21/07"]
        text = b"".join(
            zstandard.ZstdDecompressor().stream_reader(found[name]).read() for name in sorted(found)
        ).splitlines()
        assert [json.loads(line)["id"] for line in text] == made.ids()
        wrong = S3Sink(url=s3.url, bucket=bucket.name, access_key=bucket.access, secret_key="x" * 40)
        with pytest.raises(TransientError, match="403"):
            await deliver(wrong, tmp_path, made)
    finally:
        bucket.client.close()


@pytest.fixture(scope="module")
def store() -> Iterator[Peer]:
    with running(Store) as peer:
        yield peer


async def test_otlp_arrives_with_level_trace_and_attributes(store: Store, tmp_path: Path) -> None:
    name = unique("shop")
    line = (
        f'{{"message": "boom", "level": "error", "trace_id": "{TRACE}", "span_id": "00f067aa0ba902b7", "user": "bo"}}'
    )
    made = block(line, columns=True)
    sink = OtlpSink(url=f"{store.url}/insert/opentelemetry", resource={"service.name": name})
    await deliver(sink, tmp_path, made)
    found = store.search(f"service.name:{name}")
    assert [(one["_msg"], one["severity"], one["trace_id"], one["user"], one["log.record.uid"]) for one in found] == [
        ("boom", "error", TRACE, "bo", made.ids()[0])
    ]


async def test_loki_push_arrives(store: Store, tmp_path: Path) -> None:
    name = unique("env")
    sink = LokiSink(url=f"{store.url}/insert", labels={"env": name}, compression="gzip")
    await deliver(sink, tmp_path, block(*LINES))
    found = store.search(f'{{env="{name}"}} | sort by (_time)')
    assert [one["_msg"] for one in found] == list(LINES)
    assert [one["id"] for one in found] == block(*LINES).ids()


async def test_bulk_arrives(store: Store, tmp_path: Path) -> None:
    name = unique("m")
    sink = ElasticsearchSink(url=f"{store.url}/insert/elasticsearch", headers={"VL-Msg-Field": "message"})
    await deliver(sink, tmp_path, block(*(f"{name} {line}" for line in LINES)))
    found = store.search(f'"{name}"')
    assert sorted(one["_msg"] for one in found) == sorted(f"{name} {line}" for line in LINES)
    assert all(one["id"] for one in found)


@pytest.mark.parametrize("framing", ["octets", "lines"])
async def test_syslog_over_tcp_arrives(store: Store, tmp_path: Path, framing: str) -> None:
    name = unique("app")
    sink = SyslogSink(
        url=f"tcp://127.0.0.1:{store.syslog_port}",
        framing=framing,  # type: ignore[arg-type]
        hostname=name,
        facility="local3",
    )
    line = '{"message": "disk ] \\"full\\"", "level": "warn", "timestamp": "2026-11-21T07:00:00.25Z"}'
    await deliver(sink, tmp_path, block(line, columns=True))
    async with asyncio.timeout(60):
        while not (found := await asyncio.to_thread(store.search, f"hostname:{name}")):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (found[0]["facility"], found[0]["severity"], found[0]["app_name"]) == ("19", "4", "app")
    assert found[0]["dogwatch@32473.id"].startswith("s.0:0:")
    assert found[0]["_time"] == "2026-11-21T07:00:00.25Z"
    assert "disk ]" in found[0]["_msg"]
