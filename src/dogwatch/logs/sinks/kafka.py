"""The `kafka` sink: an idempotent producer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from dogwatch.core.units import Seconds, Secret
from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.records import as_sent, pieces, with_ids
from dogwatch.logs.rows import ABSENT, OWN
from dogwatch.logs.sink import Sink, Tools, Worker
from dogwatch.logs.tls import ClientTls

if TYPE_CHECKING:
    from confluent_kafka import Producer

# Its id, its value and its key.
Message = tuple[bytes, bytes, str]
# The error's name, what it says, and the id.
Failure = tuple[str, str, bytes]
_log = logging.getLogger(__name__)
_SLICE_S = 0.1
# What a broker will never take, however often it is sent.
_LARGE = "MSG_SIZE_TOO_LARGE"
_NEVER = frozenset({_LARGE, "_INVALID_ARG", "INVALID_MSG", "INVALID_MSG_SIZE", "INVALID_RECORD"})


class Sasl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the agent is. username, password: of its account. mechanism: how it says so."""

    username: str
    password: Secret
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"


class KafkaSink(Sink, frozen=True, kw_only=True):
    """Produces to a Kafka topic with an idempotent producer: within the agent's life each record once, in order.

    A record that comes again after a crash has the same `id` header. Records of one file have one key, so that they
    stay in one partition, in their order.

    brokers: `host:port` of some of them. topic: which must exist, or which brokers make. format: of the value, json
    with ids, or lines as they were read; default json. key: a column whose value is the key; default the file.
    compression: of batches; default zstd. tls: where the brokers want it. sasl: username, password, mechanism.
    timeout: of a batch; after it the batch is tried again.
    """

    kind: ClassVar[str] = "kafka"

    brokers: tuple[str, ...]
    topic: str
    format: Literal["json", "lines"] = "json"
    key: str = ""
    compression: Literal["none", "gzip", "zstd", "lz4", "snappy"] = "zstd"
    tls: ClientTls | None = None
    sasl: Sasl | None = None
    timeout: Seconds = 30.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.brokers:
            yield ("brokers",), "names no broker", "brokers: [kafka-1:9092]"
        for at, broker in enumerate(self.brokers):
            host, colon, port = broker.rpartition(":")
            if not colon or not host or not port.isdigit():
                yield ("brokers", at), "is not host:port", "kafka-1:9092"
        if not self.topic or not all(char.isalnum() or char in "._-" for char in self.topic) or len(self.topic) > 249:
            yield ("topic",), "is not a topic's name", "logs"

    def takes_json(self) -> bool:
        return True

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        worker = _Kafka(self, tools)
        await tools.thread(worker.connect)
        return worker


def settings(options: KafkaSink) -> dict[str, Any]:
    """Return what librdkafka is told."""
    found: dict[str, Any] = {
        "bootstrap.servers": ",".join(options.brokers),
        "client.id": "dogwatch",
        "enable.idempotence": True,
        "compression.type": options.compression,
        "linger.ms": 5,
        "message.timeout.ms": round(options.timeout * 1000),
        # What a connection suffers from comes to `_troubled`; its lines would fill our log, several a second.
        "log_level": 2,
        "reconnect.backoff.ms": 250,
        "queue.buffering.max.messages": 1_000_000,
        "security.protocol": ("SASL_" if options.sasl else "") + ("SSL" if options.tls else "PLAINTEXT"),
        # A call for each message that was taken would cost as much as sending it.
        "delivery.report.only.error": True,
        # Their lines go to our log, not to standard error.
        "logger": logging.getLogger("dogwatch.logs.kafka"),
    }
    if options.sasl is not None:
        sasl = options.sasl
        found |= {"sasl.mechanism": sasl.mechanism, "sasl.username": sasl.username, "sasl.password": sasl.password}
    if options.tls is not None:
        files = {"ca": options.tls.ca_file, "certificate": options.tls.cert_file, "key": options.tls.key_file}
        found |= {f"ssl.{name}.location": path for name, path in files.items() if path}
        found["enable.ssl.certificate.verification"] = options.tls.verify
    return found


class _Kafka:
    def __init__(self, options: KafkaSink, tools: Tools) -> None:
        self._options = options
        self._tools = tools
        self._producer: Producer | None = None
        self._failed: list[Failure] = []
        self._closing = False
        # What the connection suffers from: of a message one only hears that its time was over.
        self._trouble = ""

    def connect(self) -> None:
        from confluent_kafka import KafkaException, Producer

        self._trouble = ""
        try:
            self._producer = Producer(
                {**settings(self._options), "error_cb": self._troubled, "on_delivery": self._told}
            )
        except (KafkaException, ValueError) as error:
            raise TransientError(f"cannot begin: {error}") from None

    def _troubled(self, error: Any) -> None:
        _log.debug("kafka: %s", error)
        if error.name() != "_ALL_BROKERS_DOWN":
            self._trouble = " ".join(error.str().split())

    async def write(self, blocks: Sequence[Block]) -> None:
        work = asyncio.ensure_future(self._tools.thread(lambda: self._produce(blocks)))
        try:
            failed = await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread waits for answers that may never come; told so, it ends at once.
            self._closing = True
            await asyncio.wait([work])
            raise
        never: dict[str, set[bytes]] = {}
        for name, text, one in failed:
            if name in _NEVER:
                never.setdefault(text, set()).add(one)
        for reason, ids in never.items():
            await self._tools.dead(await self._tools.thread(lambda ids=ids: with_ids(blocks, ids)), reason)  # type: ignore[misc]
        for name, text, _id in failed:
            if name not in _NEVER:
                raise TransientError(self._why(text))

    def _why(self, text: str) -> str:
        return f"{text}: {self._trouble}" if self._trouble else text

    def _produce(self, blocks: Sequence[Block]) -> list[Failure]:
        """Send all, wait for the answers, and return what was not taken. Where it is tried again, what was taken comes
        again, too, under its id.
        """
        deadline_s = time.monotonic() + self._options.timeout + 5
        found = [one for block in blocks for one in self._messages(block)]
        failed = self._send(found, deadline_s)
        refused = {one for name, _text, one in failed if name == _LARGE}
        if len(refused) > 1 or (refused and len(found) > 1):
            # A broker refuses what was packed together as a whole: by themselves all but the large ones are taken.
            failed = [one for one in failed if one[0] != _LARGE]
            for message in found:
                if message[0] in refused:
                    failed += self._send([message], deadline_s)
        return failed

    def _messages(self, block: Block) -> Iterable[Message]:
        some = pieces(block)
        keys: Iterable[str] = repeat(f"{block.source}:{block.path}")
        if (name := self._options.key) in OWN:
            own = {"source": block.source, "file": block.path}
            keys = repeat(own[name]) if name in own else [one.decode() for one in some.ids]
        elif name:
            keys = ["" if one is ABSENT or one is None else str(one) for one in some.columns((name,))[0]]
        return zip(some.ids, as_sent(block, some, json=self._options.format == "json"), keys, strict=False)

    def _send(self, found: Sequence[Message], deadline_s: float) -> list[Failure]:
        if self._producer is None:
            self.connect()
        producer = self._producer
        assert producer is not None
        self._failed = []
        self._enqueue(producer, found, deadline_s)
        while len(producer) and time.monotonic() < deadline_s and not self._closing:
            producer.flush(_SLICE_S)
        left = len(producer)
        if left or any(name not in _NEVER for name, _text, _id in self._failed):
            # Nothing of this batch may arrive after it was sent again, or lines would be out of order.
            self._end()
        if left:
            raise TransientError(self._why(f"{left} records were not answered within {self._options.timeout:g} s"))
        return self._failed

    def _enqueue(self, producer: Producer, found: Sequence[Message], deadline_s: float) -> None:
        from confluent_kafka import KafkaException

        produce, topic = producer.produce, self._options.topic
        for one, value, key in found:
            while True:
                try:
                    produce(topic, value, key, headers=[("id", one)], on_delivery=partial(self._told, one))
                except BufferError:
                    if time.monotonic() > deadline_s or self._closing:
                        raise TransientError("its queue stays full") from None
                    producer.poll(_SLICE_S)
                    continue
                except KafkaException as error:
                    self._failed.append((error.args[0].name(), error.args[0].str(), one))
                break

    def _told(self, one: bytes, error: Any, _message: Any) -> None:
        """Take note of a message that was not taken; of others one is not told."""
        if error is not None:
            self._failed.append((error.name(), error.str(), one))

    def _end(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.purge()
            producer.flush(_SLICE_S)
            producer.close()

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        self._closing = True
        await self._tools.thread(self._end)
