"""Kafka and NATS that ask who one is, over TLS: what arrives, and what is said where it cannot."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.logs.test_real_sinks import LINES, block, deliver
from tests.log_peers import Peer, running, unique
from tests.log_peers_secure import SecureKafka, SecureNats

from dogwatch.errors import TransientError
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.sinks.kafka import KafkaSink, Sasl
from dogwatch.logs.sinks.nats import NatsSink
from dogwatch.logs.tls import ClientTls

assert frames.OFFSET
pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


# -- NATS


@pytest.fixture(scope="module", params=["password", "certificate", "credentials"])
def nats(request: pytest.FixtureRequest) -> Iterator[tuple[str, Peer]]:
    with running(lambda: SecureNats(request.param)) as peer:
        yield request.param, peer


def account(way: str, peer: SecureNats) -> dict[str, Any]:
    """Return the options of somebody whom the server knows."""
    files = peer.certificates
    found: dict[str, Any] = {"tls": ClientTls(ca_file=str(files.ca))}
    if way == "password":
        found |= {"user": "agent", "password": "right one"}
    elif way == "certificate":
        found["tls"] = ClientTls(ca_file=str(files.ca), cert_file=str(files.client), key_file=str(files.client))
    else:
        found["credentials"] = str(peer.credentials)
    return found


async def test_nats_over_tls(nats: tuple[str, SecureNats], tmp_path: Path) -> None:
    from nats.aio.client import Client

    way, peer = nats
    known = account(way, peer)
    name = unique("logs")
    client = Client()
    await client.connect(
        peer.url,
        allow_reconnect=False,
        tls=known["tls"].context(),
        user=known.get("user"),
        password=known.get("password"),
        user_credentials=known.get("credentials"),
    )
    try:
        stream = client.jetstream()
        await stream.add_stream(name=name, subjects=[name])
        await deliver(NatsSink(servers=(peer.url,), subject=name, **known), tmp_path, block(*LINES), times=2)
        assert (await stream.stream_info(name)).state.messages == len(LINES)
    finally:
        await client.close()


async def test_nats_says_why_it_does_not_let_one_in(nats: tuple[str, SecureNats], tmp_path: Path) -> None:
    way, peer = nats
    known = account(way, peer)
    ca = str(peer.certificates.ca)

    async def refused(reason: str, **options: Any) -> None:
        sink = NatsSink(servers=(peer.url,), subject="a", timeout=3, **{**known, **options})
        with pytest.raises(TransientError, match=re.compile(reason, re.IGNORECASE)):
            await deliver(sink, tmp_path, block(*LINES))

    await refused("certificate verify failed", tls=ClientTls(ca_file=str(peer.certificates.stranger)))
    if way == "password":
        await refused("authorization", password="wrong")
    elif way == "certificate":
        await refused("certificate|closed|reset|lost|eof", tls=ClientTls(ca_file=ca))
    else:
        await refused("authorization", credentials="")
        await refused("no such file", credentials=str(tmp_path / "none.creds"))
        (tmp_path / "torn.creds").write_bytes(peer.credentials.read_bytes()[:-60])
        await refused("credentials", credentials=str(tmp_path / "torn.creds"))


# -- Kafka


@pytest.fixture(scope="module")
def kafka() -> Iterator[Peer]:
    with running(SecureKafka) as peer:
        yield peer


def sink(peer: SecureKafka, topic: str, **options: Any) -> KafkaSink:
    found: dict[str, Any] = {
        "brokers": (f"127.0.0.1:{peer.port}",),
        "topic": topic,
        "tls": ClientTls(ca_file=str(peer.certificates.ca)),
        "sasl": Sasl(username=peer.user, password=peer.password),
    }
    return KafkaSink(**{**found, **options})


def consumed(peer: SecureKafka, topic: str, count: int) -> list[str]:
    """Return the id headers of everything in a topic, read by somebody with a certificate."""
    from confluent_kafka import Consumer

    files = peer.certificates
    consumer = Consumer(
        {
            "bootstrap.servers": peer.certificate_broker,
            "security.protocol": "SSL",
            "ssl.ca.location": str(files.ca),
            "ssl.certificate.location": str(files.client),
            "ssl.key.location": str(files.client),
            "group.id": unique("g"),
            "auto.offset.reset": "earliest",
            "logger": logging.getLogger("test.kafka"),
        }
    )
    consumer.subscribe([topic])
    found: list[str] = []
    try:
        for _ in range(200):
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                found.append(dict(message.headers() or [])["id"].decode())
            elif len(found) >= count:
                break
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_kafka_by_password_over_tls(kafka: SecureKafka, tmp_path: Path, mechanism: Any) -> None:
    topic = unique("logs")
    sasl = Sasl(username=kafka.user, password=kafka.password, mechanism=mechanism)
    await deliver(sink(kafka, topic, sasl=sasl), tmp_path, block(*LINES))
    assert await asyncio.to_thread(consumed, kafka, topic, 3) == block(*LINES).ids()


async def test_kafka_by_certificate(kafka: SecureKafka, tmp_path: Path) -> None:
    topic = unique("logs")
    files = kafka.certificates
    tls = ClientTls(ca_file=str(files.ca), cert_file=str(files.client), key_file=str(files.client))
    await deliver(sink(kafka, topic, brokers=(kafka.certificate_broker,), sasl=None, tls=tls), tmp_path, block(*LINES))
    assert await asyncio.to_thread(consumed, kafka, topic, 3) == block(*LINES).ids()


async def test_kafka_says_why_it_does_not_let_one_in(kafka: SecureKafka, tmp_path: Path) -> None:
    async def refused(reason: str, **options: Any) -> None:
        with pytest.raises(TransientError, match=re.compile(reason, re.IGNORECASE)):
            await deliver(sink(kafka, unique("logs"), timeout=3, **options), tmp_path, block(*LINES))

    await refused("authentication failed", sasl=Sasl(username=kafka.user, password="wrong"))
    await refused("authentication failed", sasl=Sasl(username=kafka.user, password="wrong", mechanism="PLAIN"))
    await refused("certificate verify failed", tls=ClientTls(ca_file=str(kafka.certificates.stranger)))
    await refused("no such file|ssl.ca.location", tls=ClientTls(ca_file=str(tmp_path / "none.pem")))
    await refused("ssl handshake|certificate", sasl=None, brokers=(kafka.certificate_broker,))
