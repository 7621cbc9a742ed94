"""What JetStream says to messages of the `nats` sink, beyond that it took them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.integration.logs.test_real_sinks import block, deliver, letters
from tests.log_peers import Nats, Peer, running, unique

from dogwatch.errors import TransientError
from dogwatch.logs.sinks.nats import NatsSink

if TYPE_CHECKING:
    from nats.js import JetStreamContext


@pytest.fixture(scope="module")
def nats() -> Iterator[Peer]:
    with running(Nats) as peer:
        yield peer


@asynccontextmanager
async def jetstream(peer: Nats) -> AsyncIterator[JetStreamContext]:
    from nats.aio.client import Client

    client = Client()
    await client.connect(peer.url, allow_reconnect=False)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def test_a_full_stream_is_tried_again_and_nothing_is_twice(nats: Nats, tmp_path: Path) -> None:
    from nats.js.api import DiscardPolicy, StreamConfig

    name = unique("full")
    lines = [f"line {at}" for at in range(2500)]
    async with jetstream(nats) as stream:
        config = StreamConfig(name=name, subjects=[name], max_msgs=1200, discard=DiscardPolicy.NEW)
        await stream.add_stream(config)
        sink = NatsSink(servers=(nats.url,), subject=name)
        with pytest.raises(TransientError, match="maximum messages exceeded"):
            await deliver(sink, tmp_path, block(*lines))
        await stream.update_stream(config.evolve(max_msgs=10_000))
        await deliver(sink, tmp_path, block(*lines))
        assert (await stream.stream_info(name)).state.messages == len(lines)


async def test_a_subject_without_a_stream_is_said(nats: Nats, tmp_path: Path) -> None:
    sink = NatsSink(servers=(nats.url,), subject=unique("none"))
    with pytest.raises(TransientError, match="no stream listens"):
        await deliver(sink, tmp_path, block("x"))


async def test_another_stream_than_the_one_meant_takes_nothing(nats: Nats, tmp_path: Path) -> None:
    name = unique("other")
    async with jetstream(nats) as stream:
        await stream.add_stream(name=name, subjects=[name])
        with pytest.raises(TransientError, match="expected stream does not match"):
            await deliver(NatsSink(servers=(nats.url,), subject=name, stream="mine"), tmp_path, block("x"))
        await deliver(NatsSink(servers=(nats.url,), subject=name, stream=name), tmp_path, block("x"))
        assert (await stream.stream_info(name)).state.messages == 1


@pytest.mark.parametrize("expected", [False, True])
async def test_headers_count_as_the_message(nats: Nats, tmp_path: Path, expected: bool) -> None:
    """A message that is too large with its headers ends the connection, and all that was on it."""
    name = unique("headers")
    async with jetstream(nats) as stream:
        await stream.add_stream(name=name, subjects=[name])
        most = stream._nc.max_payload
        sink = NatsSink(servers=(nats.url,), subject=name, format="lines", stream=name if expected else "")
        headers = f"NATS/1.0\r\nNats-Msg-Id: {block('x' * most).ids()[0]}\r\n\r\n"
        headers += f"Nats-Expected-Stream: {name}\r\n" if expected else ""
        fits = most - len(headers)
        await deliver(sink, tmp_path, block("x" * fits))
        assert not (tmp_path / "dead").exists()
        await deliver(sink, tmp_path, block("x" * (fits + 1), "small"))
        assert (await stream.stream_info(name)).state.messages == 2
        assert [len(one["record"]["message"]) for one in letters(tmp_path)] == [fits + 1]  # type: ignore[index]


async def test_what_is_too_large_for_the_stream_is_apart(nats: Nats, tmp_path: Path) -> None:
    from nats.js.api import StreamConfig

    name = unique("short")
    async with jetstream(nats) as stream:
        await stream.add_stream(StreamConfig(name=name, subjects=[name], max_msg_size=1000))
        sink = NatsSink(servers=(nats.url,), subject=name)
        lines = [f"line {at}" for at in range(1500)]
        lines[3] = lines[1200] = "x" * 2000
        await deliver(sink, tmp_path, block(*lines))
        assert (await stream.stream_info(name)).state.messages == len(lines) - 2
    found = letters(tmp_path)
    assert [one["record"]["message"] for one in found] == ["x" * 2000] * 2  # type: ignore[index]
    assert {one["reason"] for one in found} == {"larger than the stream takes"}
