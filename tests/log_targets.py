"""Sinks for the delivery tests: each with its configuration, and what has arrived at its other side."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import zstandard

from dogwatch.logs.store.query import MAX_LIMIT, LogStore, Query
from tests.log_peers import S3, Clickhouse, Kafka, Nats, OpenSearch, Peer, Search, Store, unique
from tests.log_peers_more import Collector, Elasticsearch, Gateway, Loki, Rsyslog, attributes
from tests.receiver import Receiver

Found = list[tuple[str, str]]


class Target:
    """config: the sink, as YAML. exactly_once: whether what comes twice is there once."""

    config = ""
    exactly_once = False
    peer: ClassVar[type[Peer] | None] = None

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        self.folder = folder

    def received(self) -> Found:
        """Return (id, message) of everything that is there. Blocking."""
        raise NotImplementedError

    def close(self) -> None:
        """End what it keeps open."""


class FileTarget(Target):
    exactly_once = True

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        self.config = f"file: {{path: {folder}/out.ndjson, format: json, rotate: 100KB, keep: 1000}}"

    def received(self) -> Found:
        # A line without its end is being written.
        data = [path.read_bytes().rpartition(b"\n")[0] for path in self.folder.glob("out.ndjson*")]
        lines = [line for one in data for line in one.splitlines()]
        return [(one["id"], one["message"]) for one in map(json.loads, lines)]


class OurStoreTarget(Target):
    """Small files: kills fall into sealing and merging, too."""

    exactly_once = True

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        self._store = folder / "store"
        self._store.mkdir()
        self.config = f"store: {{path: {self._store}, seal: 16KiB, wait: 1s}}"

    def received(self) -> Found:
        # The agent still seals and merges: only the store knows how to be read beside that.
        return list(everything(self._store))


def everything(store: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, message) of all records, a slice of time after the other: an answer has a bounded number."""
    counted = LogStore(store).run(Query(limit=0, bucket_us=1_000_000))
    for begin_us in counted.buckets:
        yield from _slice(store, begin_us, begin_us + 1_000_000)


def _slice(store: Path, begin_us: int, end_us: int) -> Iterator[tuple[str, str]]:
    found = LogStore(store).run(Query(since_us=begin_us, until_us=end_us, limit=MAX_LIMIT)).records
    if len(found) < MAX_LIMIT or end_us - begin_us < 2:
        yield from ((str(one["id"]), str(one["message"])) for one in found)
        return
    middle_us = (begin_us + end_us) // 2
    yield from _slice(store, begin_us, middle_us)
    yield from _slice(store, middle_us, end_us)


class HttpTarget(Target):
    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert receiver is not None
        self._receiver = receiver
        chance = random.Random(3)

        def answer(_request: object) -> tuple[int, dict[str, str]] | str:
            # Some answers are lost, some are refusals: what was taken and not answered comes again.
            return "cut" if chance.random() < 0.1 else ((503 if chance.random() < 0.1 else 200), {})

        receiver.answer = answer
        self.config = f"http: {{url: '{receiver.url}/in', compression: none}}"

    def received(self) -> Found:
        lines = [line for one in list(self._receiver.requests) for line in one.body.splitlines()]
        return [(one["id"], one["message"]) for one in map(json.loads, lines)]


class SeveralTarget(HttpTarget):
    """Several batches on their way at once."""

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert receiver is not None
        receiver.delay_s = 0.02
        self.config += ", concurrency: 4, batch: {size: 4KiB, wait: 10ms}"


class KafkaTarget(Target):
    peer = Kafka

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        from confluent_kafka import Consumer

        assert isinstance(peer, Kafka)
        topic = unique("t")
        self.config = f"kafka: {{brokers: ['{peer.broker}'], topic: {topic}, timeout: 10s}}"
        self._consumer = Consumer(
            {
                "bootstrap.servers": peer.broker,
                "group.id": topic,
                "auto.offset.reset": "earliest",
                "topic.metadata.refresh.interval.ms": 200,
                "allow.auto.create.topics": True,
                "logger": logging.getLogger("test.kafka"),
            }
        )
        self._consumer.subscribe([topic])
        self._found: Found = []

    def received(self) -> Found:
        while messages := self._consumer.consume(10_000, 0.3):
            for one in messages:
                if one.error() is None:
                    record = json.loads(one.value() or b"")
                    assert dict(one.headers() or [])["id"].decode() == record["id"]
                    self._found.append((record["id"], record["message"]))
        return self._found

    def close(self) -> None:
        self._consumer.close()


class NatsTarget(Target):
    """Within its window the server drops what comes twice."""

    peer = Nats
    exactly_once = True

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Nats)
        self._url = peer.url
        self._name = unique("n")
        self.config = f"nats: {{servers: ['{peer.url}'], subject: {self._name}}}"
        self._found: Found = []
        asyncio.run(self._add())

    async def _add(self) -> None:
        from nats.aio.client import Client

        client = Client()
        await client.connect(self._url, allow_reconnect=False, connect_timeout=30)
        await client.jetstream(timeout=30).add_stream(name=self._name, subjects=[self._name])
        await client.close()

    def received(self) -> Found:
        asyncio.run(self._fetch())
        return self._found

    async def _fetch(self) -> None:
        """Read on to what is the newest now, each message once: nothing is acknowledged, so nothing comes again."""
        from nats.aio.client import Client
        from nats.js.api import ConsumerConfig, DeliverPolicy

        client = Client()
        await client.connect(self._url, allow_reconnect=False, connect_timeout=30)
        try:
            context = client.jetstream(timeout=30)
            newest = (await context.stream_info(self._name)).state.last_seq
            if newest == len(self._found):
                return
            config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=len(self._found) + 1)
            subscription = await context.subscribe(self._name, config=config, ordered_consumer=True)
            while len(self._found) < newest:
                one = await subscription.next_msg(timeout=30)
                assert one.headers is not None
                self._found.append((one.headers["Nats-Msg-Id"], json.loads(one.data)["message"]))
                assert one.metadata.sequence.stream == len(self._found)
        finally:
            await client.close()


class StoreTarget(Target):
    peer = Store
    id_field = "id"
    path = ""

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Store)
        self.store = peer
        self.mark = unique("m")
        self.query = ""
        self.configure(peer)

    def configure(self, peer: Store) -> None:
        raise NotImplementedError

    def received(self) -> Found:
        return [(one[self.id_field], one["_msg"]) for one in self.store.search(self.query)]


class LokiTarget(StoreTarget):
    def configure(self, peer: Store) -> None:
        # A record of several columns comes as JSON, which it takes apart.
        headers = "{VL-Msg-Field: message}"
        self.config = f"loki: {{url: '{peer.url}/insert', labels: {{env: {self.mark}}}, headers: {headers}}}"
        self.query = f'{{env="{self.mark}"}}'


class BulkTarget(StoreTarget):
    def configure(self, peer: Store) -> None:
        headers = f"{{VL-Msg-Field: message, VL-Extra-Fields: 'mark={self.mark}'}}"
        self.config = f"elasticsearch: {{url: '{peer.url}/insert/elasticsearch', headers: {headers}}}"
        self.query = f"mark:{self.mark}"


class OpenSearchTarget(Target):
    """The id is the document's: what comes twice is refused."""

    peer: ClassVar[type[Peer] | None] = OpenSearch
    exactly_once = True

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Search)
        self._server = peer
        self._index = unique("logs")
        peer.ask("PUT", self._index, {"settings": {"number_of_replicas": 0, "index.refresh_interval": "-1"}})
        self.config = f"elasticsearch: {{url: '{peer.url}', index: {self._index}}}"

    def received(self) -> Found:
        return [(one["_id"], one["message"]) for one in self._server.documents(self._index)]


class ElasticsearchTarget(OpenSearchTarget):
    peer = Elasticsearch


class OtlpTarget(StoreTarget):
    id_field = "log.record.uid"

    def configure(self, peer: Store) -> None:
        resource = f"{{service.name: {self.mark}}}"
        self.config = f"otlp: {{url: '{peer.url}/insert/opentelemetry', resource: {resource}}}"
        self.query = f"service.name:{self.mark}"


class SyslogTarget(StoreTarget):
    id_field = "dogwatch@32473.id"

    def configure(self, peer: Store) -> None:
        self.config = f"syslog: {{url: 'tcp://127.0.0.1:{peer.syslog_port}', hostname: {self.mark}}}"
        self.query = f"hostname:{self.mark}"

    def received(self) -> Found:
        # A record of several columns comes as JSON.
        found = super().received()
        return [(one, json.loads(text)["message"] if text.startswith("{") else text) for one, text in found]


class ClickhouseTarget(Target):
    peer = Clickhouse

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Clickhouse)
        self._server = peer
        self._table = unique("t")
        peer.query(f"CREATE TABLE {self._table} (id String, message String) ENGINE = Memory")
        self.config = f"clickhouse: {{url: '{peer.url}', table: {self._table}, deduplicate: false}}"

    def received(self) -> Found:
        rows = self._server.query(f"SELECT id, message FROM {self._table} FORMAT JSONEachRow")
        return [(one["id"], one["message"]) for one in map(json.loads, rows.splitlines())]


class S3Target(Target):
    """What a stand-in for S3 has."""

    peer: ClassVar[type[Peer] | None] = S3
    keys = ("a", "b")

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, S3 | Gateway)
        access, secret = self.keys
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import boto3

            who = {"aws_access_key_id": access, "aws_secret_access_key": secret, "region_name": "us-east-1"}
            self._client = boto3.client("s3", endpoint_url=peer.url, **who)
            self._name = unique("b")
            self._client.create_bucket(Bucket=self._name)
        keys = f"access_key: {access}, secret_key: {secret}"
        self.config = f"s3: {{url: '{peer.url}', bucket: {self._name}, {keys}}}, batch: {{wait: 200ms}}"
        self._read: dict[str, Found] = {}

    def received(self) -> Found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name)
            names = [one["Key"] for page in pages for one in page.get("Contents", [])]
            for name in names:
                if name not in self._read:
                    body = self._client.get_object(Bucket=self._name, Key=name)["Body"].read()
                    lines = zstandard.ZstdDecompressor().stream_reader(body).read().splitlines()
                    self._read[name] = [(one["id"], one["message"]) for one in map(json.loads, lines)]
        return [one for found in self._read.values() for one in found]

    def close(self) -> None:
        self._client.close()


class GatewayTarget(S3Target):
    """A server of S3 that is none of Python's."""

    peer = Gateway
    keys = (Gateway.access, Gateway.secret)


class RealLokiTarget(Target):
    peer = Loki

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Loki)
        self._server = peer
        self._mark = unique("m")
        self.config = f"loki: {{url: '{peer.url}', labels: {{env: {self._mark}}}}}"

    def received(self) -> Found:
        found = self._server.lines(f'{{env="{self._mark}"}}')
        # A record of several columns comes as JSON.
        return [(one, json.loads(text)["message"] if text.startswith("{") else text) for one, text, _time in found]


class CollectorTarget(Target):
    peer = Collector

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Collector)
        self._server = peer
        self._mark = unique("m")
        self.config = f"otlp: {{url: '{peer.url}', resource: {{service.name: {self._mark}}}}}"

    def received(self) -> Found:
        found = self._server.records(self._mark)
        return [(attributes(one)["log.record.uid"], one["body"]["stringValue"]) for one in found]


class RsyslogTarget(Target):
    peer = Rsyslog

    def __init__(self, folder: Path, peer: Peer | None, receiver: Receiver | None) -> None:
        super().__init__(folder, peer, receiver)
        assert isinstance(peer, Rsyslog)
        self._server = peer
        self._mark = unique("m")
        self.config = f"syslog: {{url: 'tcp://127.0.0.1:{peer.port}', hostname: {self._mark}}}"

    def received(self) -> Found:
        found = self._server.lines(self._mark)
        return [(one, json.loads(text)["message"] if text.startswith("{") else text) for one, text in found]


TARGETS: dict[str, type[Target]] = {
    "file": FileTarget,
    "store": OurStoreTarget,
    "http": HttpTarget,
    "http-several": SeveralTarget,
    "loki": LokiTarget,
    "elasticsearch": BulkTarget,
    "opensearch": OpenSearchTarget,
    "otlp": OtlpTarget,
    "syslog": SyslogTarget,
    "kafka": KafkaTarget,
    "nats": NatsTarget,
    "clickhouse": ClickhouseTarget,
    "s3": S3Target,
    "real-elasticsearch": ElasticsearchTarget,
    "real-loki": RealLokiTarget,
    "real-s3": GatewayTarget,
    "collector": CollectorTarget,
    "rsyslog": RsyslogTarget,
}
