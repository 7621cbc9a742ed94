"""Servers that the agents of the benchmark of logs send records to, each of which says how many it has."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.log_peers import Kafka, Nats, fetch, free_port, running, unique

from bench.log_sinks import Counting

# Once in every line that the benchmark writes, and in whatever agents make of it.
NEEDLE = b"cart"


class Server(Protocol):
    """Where records arrive."""

    def reset(self) -> dict[str, object]:
        """Forget what came; return what agents are told."""
        ...

    def size(self) -> int:
        """Return a number that grows with what comes."""
        ...

    def lines(self) -> int:
        """Return how many lines came since the reset."""
        ...


class Requests:
    """A file and loopback servers that take everything: lines over TCP, and HTTP as the APIs of others answer it."""

    def __init__(self, *, out: Path | None = None) -> None:
        self._sink = Counting()
        self._out = out

    def reset(self) -> dict[str, object]:
        self._sink.reset()
        if self._out is not None:
            self._out.unlink(missing_ok=True)
        return {"out": self._out or "", "port": self._sink.port, "raw_port": self._sink.raw_port}

    def size(self) -> int:
        if self._out is not None:
            return self._out.stat().st_size if self._out.exists() else 0
        return self._sink.bytes

    def lines(self) -> int:
        if self._out is None:
            return self._sink.count(NEEDLE)
        found = subprocess.run(["grep", "-c", NEEDLE, self._out], capture_output=True, text=True, check=False)
        several = subprocess.run(["grep", "-o", NEEDLE, self._out], capture_output=True, check=False)
        return max(int(found.stdout or 0), several.stdout.count(b"\n"))


class Broker:
    """A real Kafka."""

    def __init__(self, peer: Kafka) -> None:
        self._peer = peer
        self._topic = ""
        self._consumer: Any = None

    def reset(self) -> dict[str, object]:
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient, NewTopic

        self._topic = unique("logs")
        at: dict[str, str | int | float | bool] = {"bootstrap.servers": self._peer.broker}
        topic = NewTopic(self._topic, 1, config={"max.message.bytes": "16777216"})
        admin = AdminClient(at)
        for made in admin.create_topics([topic]).values():
            made.result(30)
        if self._consumer is not None:
            self._consumer.close()
        self._consumer = Consumer({**at, "group.id": "count", "log_level": 0})
        return {"broker": self._peer.broker, "topic": self._topic}

    def size(self) -> int:
        from confluent_kafka import TopicPartition

        _low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=10)
        return int(high)

    lines = size


class Stream:
    """A real JetStream, in memory."""

    def __init__(self, peer: _Nats) -> None:
        self._peer = peer

    def reset(self) -> dict[str, object]:
        asyncio.run(self._anew())
        return {"nats": self._peer.url}

    async def _anew(self) -> None:
        from nats import connect
        from nats.js.api import StorageType
        from nats.js.errors import NotFoundError

        client = await connect(self._peer.url)
        with suppress(NotFoundError):
            await client.jetstream().delete_stream("LOGS")
        await client.jetstream().add_stream(name="LOGS", subjects=["logs"], storage=StorageType.MEMORY)
        await client.close()

    def size(self) -> int:
        return int(json.loads(fetch(f"http://127.0.0.1:{self._peer.monitor}/jsz"))["messages"])

    lines = size


class _Nats(Nats):
    def __init__(self) -> None:
        super().__init__()
        self.monitor = free_port()

    def command(self) -> Sequence[str]:
        return (*super().command(), "-m", str(self.monitor))


@contextmanager
def serving(kind: str) -> Iterator[Server | None]:
    """Run a server; None where it cannot be had here."""
    makers: dict[str, tuple[Any, Any]] = {"kafka": (Kafka, Broker), "nats": (_Nats, Stream)}
    if kind not in makers:
        yield Requests()
        return
    make, wrap = makers[kind]
    try:
        started = running(make)
        peer = started.__enter__()
    except pytest.skip.Exception:
        yield None
        return
    try:
        yield wrap(peer)
    finally:
        started.__exit__(None, None, None)
